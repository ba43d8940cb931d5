/* What a worker's filter of system calls (Sources/CIOCore/filter.c) answers, asked without a kernel: the program is built by the very
 * code of the worker, with the numbers of the processor that this is compiled for, and run here instruction by instruction.
 * An emulator of user programs has no filters, so this is how the filter of another processor can be looked at.
 *
 *   filter_check                  holds the filter to what it must answer; status 1 when it does not
 *   filter_check NUMBER...        each number and its answer with arguments of zero: allow, errno or kill
 *   filter_check --write FILE     writes the program
 *   filter_check --load FILE      lets this machine's kernel check and take a program that was written by the build for another
 *                                 processor: its first call then must be refused, as one of a foreign processor
 */
#include "filter.c"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#if defined(__x86_64__)
#define FOREIGN AUDIT_ARCH_AARCH64
#else
#define FOREIGN AUDIT_ARCH_X86_64
#endif

static struct program program;

/* Classic BPF, as far as the filter uses it (seccomp(2)). */
static uint32_t answer(const struct seccomp_data *data) {
    uint32_t accumulator = 0;
    for (uint32_t at = 0; at < program.count; at++) {
        const struct sock_filter *row = &program.rows[at];
        switch (row->code) {
        case BPF_LD | BPF_W | BPF_ABS:
            if (row->k % 4 != 0 || row->k >= sizeof *data) abort();
            memcpy(&accumulator, (const uint8_t *)data + row->k, 4);
            break;
        case BPF_ALU | BPF_AND | BPF_K: accumulator &= row->k; break;
        case BPF_JMP | BPF_JEQ | BPF_K: at += accumulator == row->k ? row->jt : row->jf; break;
        case BPF_JMP | BPF_JSET | BPF_K: at += (accumulator & row->k) != 0 ? row->jt : row->jf; break;
        case BPF_RET | BPF_K: return row->k;
        default: abort();
        }
    }
    abort(); /* it ran out of the program */
}

static uint32_t ask(int number, unsigned argument, uint64_t value) {
    struct seccomp_data data = {.nr = number, .arch = FILTER_ARCHITECTURE};
    data.args[argument] = value;
    return answer(&data);
}

static const char *name_of(uint32_t verdict) {
    switch (verdict & SECCOMP_RET_ACTION_FULL) {
    case SECCOMP_RET_ALLOW: return "allow";
    case SECCOMP_RET_ERRNO: return "errno";
    default: return "kill";
    }
}

static int wrong;

static void hold(const char *call, uint32_t got, uint32_t wanted) {
    if (got == wanted) return;
    fprintf(stderr, "filter_check: %s: %s, and should be %s\n", call, name_of(got), name_of(wanted));
    wrong = 1;
}
#define HOLD(call, argument, value, wanted) hold(#call " " #argument " " #value, ask(__NR_##call, argument, value), wanted)
#define ALLOW SECCOMP_RET_ALLOW
#define KILL SECCOMP_RET_KILL_PROCESS

static void judge(void) {
    /* What an epoll loop of this processor's C library calls. */
    HOLD(epoll_pwait, 0, 0, ALLOW);
    HOLD(epoll_pwait2, 0, 0, ALLOW);
    HOLD(ppoll, 0, 0, ALLOW);
    HOLD(sendmsg, 0, 0, ALLOW);
    HOLD(recvfrom, 0, 0, ALLOW);
    HOLD(splice, 0, 0, ALLOW);
    HOLD(pipe2, 0, 0, ALLOW);
    HOLD(io_uring_enter, 0, 0, ALLOW);
    HOLD(rt_sigreturn, 0, 0, ALLOW);
    HOLD(fcntl, 1, F_SETFL, ALLOW);
    HOLD(fcntl, 1, F_SETOWN, KILL);
    HOLD(ioctl, 1, FIONBIO, ALLOW);
    HOLD(ioctl, 1, TIOCSTI, KILL);
    HOLD(newfstatat, 3, AT_EMPTY_PATH, ALLOW);
    HOLD(newfstatat, 3, 0, KILL);
    HOLD(mmap, 2, PROT_READ | PROT_WRITE, ALLOW);
    HOLD(mmap, 2, PROT_READ | PROT_EXEC, KILL);
    HOLD(mprotect, 2, PROT_EXEC, KILL);
    HOLD(openat, 0, 0, SECCOMP_RET_ERRNO | EACCES);
    HOLD(socketpair, 0, AF_UNIX, ALLOW);
    HOLD(socketpair, 0, AF_INET, KILL);
    HOLD(socket, 0, AF_INET, KILL);
    HOLD(connect, 0, 0, KILL);
    HOLD(execve, 0, 0, KILL);
    HOLD(execveat, 0, 0, KILL);
    HOLD(clone, 0, 0, KILL);
    HOLD(ptrace, 0, 0, KILL);
    HOLD(unlinkat, 0, 0, KILL);
    HOLD(io_uring_setup, 0, 0, KILL);
    HOLD(prlimit64, 2, 0, ALLOW);
    HOLD(prlimit64, 2, 1, KILL);
    HOLD(prlimit64, 2, 1ull << 32, KILL);
    HOLD(tgkill, 0, (uint64_t)getpid(), ALLOW);
    HOLD(tgkill, 0, 1, KILL);
#if defined(__x86_64__)
    HOLD(open, 0, 0, SECCOMP_RET_ERRNO | EACCES);
    hold("x32", ask(0x40000000 | __NR_read, 0, 0), KILL);
#else
    hold("a number of x32", ask(0x40000000 | __NR_read, 0, 0), KILL);
#endif
    struct seccomp_data foreign = {.nr = __NR_read, .arch = FOREIGN};
    hold("a call of a foreign processor", answer(&foreign), KILL);
    foreign.arch = AUDIT_ARCH_ARM;
    hold("a call of 32-bit Arm", answer(&foreign), KILL);
    struct seccomp_data option = {.nr = __NR_setsockopt, .arch = FILTER_ARCHITECTURE, .args = {0, IPPROTO_TCP, TCP_NODELAY}};
    hold("setsockopt TCP_NODELAY", answer(&option), ALLOW);
    option.args[2] = TCP_MD5SIG;
    hold("setsockopt TCP_MD5SIG", answer(&option), KILL);
    /* Everything else: how many numbers come through with arguments of zero is no more than the table has. */
    size_t through = 0, most = sizeof calls_free / sizeof calls_free[0] + 16;
    for (int number = 0; number < 4096; number++) through += ask(number, 0, 0) != KILL;
    if (through > most) hold("the number of calls that come through", ALLOW, KILL);
    if (wrong == 0) {
        printf("filter_check: the filter of %u instructions answers as it should; %zu of 4096 numbers come through\n",
               program.count, through);
    }
}

static int program_write(const char *path) {
    FILE *file = fopen(path, "wb");
    bool is_written = file != NULL && fwrite(program.rows, sizeof program.rows[0], program.count, file) == program.count;
    if (file != NULL) is_written = fclose(file) == 0 && is_written;
    if (!is_written) fprintf(stderr, "filter_check: %s can't be written\n", path);
    return is_written ? 0 : 1;
}

static int program_load(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr, "filter_check: %s can't be read\n", path);
        return 1;
    }
    program.count = (uint16_t)fread(program.rows, sizeof program.rows[0], PROGRAM_MAX, file);
    fclose(file);
    pid_t pid = fork();
    if (pid == 0) {
        struct sock_fprog description = {.len = program.count, .filter = program.rows};
        if (prctl(PR_SET_NO_NEW_PRIVS, 1ul, 0ul, 0ul, 0ul) != 0) _exit(97);
        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0ul, &description) != 0) _exit(98);
        _exit(99); /* refused already, if it is right */
    }
    int status = 0;
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) {
        printf("filter_check: the kernel takes a program of %u instructions for another processor, and ends who has it\n", program.count);
        return 0;
    }
    fprintf(stderr, "filter_check: the kernel did not take %s and end the process: status %#x\n", path, (unsigned)status);
    return 1;
}

int main(int count, char **words) {
    program_build(&program);
    if (count == 3 && strcmp(words[1], "--write") == 0) return program_write(words[2]);
    if (count == 3 && strcmp(words[1], "--load") == 0) return program_load(words[2]);
    for (int index = 1; index < count; index++) printf("%s %s\n", words[index], name_of(ask(atoi(words[index]), 0, 0)));
    if (count == 1) judge();
    return wrong;
}
