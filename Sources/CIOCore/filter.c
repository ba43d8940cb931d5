/* The system calls that a worker may make: a seccomp filter, written down as a table and put together as classic BPF.
 *
 * It is installed when the loop is made and everything that reads files has read them. What is not in the table ends the
 * process at once (SIGSYS): a worker that asks for it is not the program that we wrote. One exception, so that a library
 * that looks for a file it can do without goes on: opening a file fails with EACCES.
 *
 * How the program is built: for each call "equal? then its own few instructions, which end in a return". Nothing after
 * depends on what they did to the accumulator, so no jump is longer than one entry. Calls that are allowed whatever their
 * arguments come first; for those the kernel remembers the answer and does not run the program.
 *
 * What it can't see: operations in an io_uring. The ring is restricted by itself, see ring.c.
 */
#include "internal.h"

#include <asm/unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FILTER_SANITIZED 1 /* a sanitizer's runtime makes calls of its own, threads and processes among them */
#endif
#endif

#if defined(__x86_64__)
#define FILTER_ARCHITECTURE AUDIT_ARCH_X86_64
#define FILTER_X32_BIT 0x40000000u
#elif defined(__aarch64__)
#define FILTER_ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

#if defined(FILTER_ARCHITECTURE) && !defined(FILTER_SANITIZED)

#define PROGRAM_MAX 512

/* Newer than the oldest headers that we build with; the numbers are the same everywhere. */
#ifndef __NR_epoll_pwait2
#define __NR_epoll_pwait2 441
#endif
#ifndef SOL_TLS
#define SOL_TLS 282
#endif
#ifndef TCP_ULP
#define TCP_ULP 31
#endif
#ifndef TLS_TX
#define TLS_TX 1
#define TLS_RX 2
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif

struct program {
    struct sock_filter rows[PROGRAM_MAX];
    uint16_t count;
};

static void emit(struct program *program, uint16_t code, uint32_t value, uint8_t if_true, uint8_t if_false) {
    if (program->count == PROGRAM_MAX) abort(); /* the table outgrew PROGRAM_MAX: a bug */
    program->rows[program->count++] = (struct sock_filter){.code = code, .jt = if_true, .jf = if_false, .k = value};
}

static void emit_return(struct program *program, uint32_t action) { emit(program, BPF_RET | BPF_K, action, 0, 0); }

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define LOW_WORD 0u
#else
#define LOW_WORD 4u
#endif

/* The lower half of an argument. The arguments that are looked at are of 32 bits for the kernel, too, or have all their
 * flags there. */
static void emit_load_argument(struct program *program, unsigned argument) {
    uint32_t offset = (uint32_t)offsetof(struct seccomp_data, args) + 8u * argument + LOW_WORD;
    emit(program, BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
}

/* Begins the entry of a call; emit_end closes it. */
static uint16_t emit_begin(struct program *program, uint32_t number) {
    emit(program, BPF_JMP | BPF_JEQ | BPF_K, number, 0, 0);
    return program->count;
}

static void emit_end(struct program *program, uint16_t begin) {
    program->rows[begin - 1].jf = (uint8_t)(program->count - begin);
}

/* Allows when the accumulator is the value. */
static void emit_allow_if(struct program *program, uint32_t value) {
    emit(program, BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
    emit_return(program, SECCOMP_RET_ALLOW);
}

/* Allows the call when its argument, without the bits of `ignored`, is one of the values. */
static void call_with(struct program *program, uint32_t number, unsigned argument, uint32_t ignored,
                      const uint32_t *values, size_t count) {
    uint16_t begin = emit_begin(program, number);
    emit_load_argument(program, argument);
    if (ignored != 0) emit(program, BPF_ALU | BPF_AND | BPF_K, ~ignored, 0, 0);
    for (size_t index = 0; index < count; index++) emit_allow_if(program, values[index]);
    emit_return(program, SECCOMP_RET_KILL_PROCESS);
    emit_end(program, begin);
}

/* Allows the call when none of the bits is set in its argument. */
static void call_without(struct program *program, uint32_t number, unsigned argument, uint32_t bits) {
    uint16_t begin = emit_begin(program, number);
    emit_load_argument(program, argument);
    emit(program, BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1);
    emit_return(program, SECCOMP_RET_KILL_PROCESS);
    emit_return(program, SECCOMP_RET_ALLOW);
    emit_end(program, begin);
}

static void call_answered(struct program *program, uint32_t number, uint32_t action) {
    uint16_t begin = emit_begin(program, number);
    emit_return(program, action);
    emit_end(program, begin);
}

/* Options by their level: those that the loop sets, those of TCP that carry connections over, and those with which the kernel
 * is given the keys of a TLS session (TCP_ULP, and the two directions of SOL_TLS). */
static void call_setsockopt(struct program *program) {
    static const uint32_t socket_options[] = {SO_KEEPALIVE, SO_LINGER, SO_RCVBUF, SO_SNDBUF, SO_RCVLOWAT};
    static const uint32_t tcp_options[] = {TCP_NODELAY,      TCP_CORK,         TCP_KEEPIDLE,     TCP_KEEPINTVL,
                                           TCP_KEEPCNT,      TCP_USER_TIMEOUT, TCP_NOTSENT_LOWAT, TCP_QUICKACK,
                                           TCP_ULP};
    static const uint32_t tls_options[] = {TLS_TX, TLS_RX};
    const struct {
        uint32_t level;
        const uint32_t *options;
        size_t count;
    } levels[] = {{SOL_SOCKET, socket_options, sizeof socket_options / sizeof socket_options[0]},
                  {IPPROTO_TCP, tcp_options, sizeof tcp_options / sizeof tcp_options[0]},
                  {SOL_TLS, tls_options, sizeof tls_options / sizeof tls_options[0]}};
    uint16_t begin = emit_begin(program, __NR_setsockopt);
    for (size_t index = 0; index < sizeof levels / sizeof levels[0]; index++) {
        emit_load_argument(program, 1);
        uint16_t level = emit_begin(program, levels[index].level);
        emit_load_argument(program, 2);
        for (size_t option = 0; option < levels[index].count; option++) {
            emit_allow_if(program, levels[index].options[option]);
        }
        emit_return(program, SECCOMP_RET_KILL_PROCESS);
        emit_end(program, level);
    }
    emit_return(program, SECCOMP_RET_KILL_PROCESS);
    emit_end(program, begin);
}

/* The limits are read, not set: the pointer to new ones is NULL, in both its halves. */
static void call_prlimit(struct program *program) {
    uint16_t begin = emit_begin(program, __NR_prlimit64);
    uint32_t offset = (uint32_t)offsetof(struct seccomp_data, args) + 8u * 2u;
    emit(program, BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
    emit(program, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
    emit_return(program, SECCOMP_RET_KILL_PROCESS);
    emit(program, BPF_LD | BPF_W | BPF_ABS, offset + 4, 0, 0);
    emit_allow_if(program, 0);
    emit_return(program, SECCOMP_RET_KILL_PROCESS);
    emit_end(program, begin);
}

/* Whatever their arguments are: they touch only descriptors and memory that the process has. */
static const uint32_t calls_free[] = {
    /* The loop and its bytes. */
    __NR_io_uring_enter, __NR_epoll_pwait2, __NR_epoll_pwait, __NR_epoll_ctl, __NR_epoll_create1, __NR_recvfrom,
    __NR_recvmsg, __NR_sendto, __NR_sendmsg, __NR_read, __NR_write, __NR_readv, __NR_writev, __NR_splice, __NR_close,
    __NR_shutdown, __NR_getpeername, __NR_getsockname, __NR_getsockopt, __NR_ppoll, __NR_pipe2, __NR_eventfd2,
    __NR_timerfd_create, __NR_timerfd_settime, __NR_timerfd_gettime,
    /* State in memory files, for siblings and for the next generation. */
    __NR_memfd_create, __NR_ftruncate, __NR_fstat, __NR_pread64, __NR_pwrite64, __NR_lseek, __NR_dup,
    /* Memory, time, randomness; what libc and the Swift runtime need of themselves. */
    __NR_munmap, __NR_mremap, __NR_madvise, __NR_brk, __NR_futex, __NR_clock_gettime, __NR_clock_getres,
    __NR_gettimeofday, __NR_clock_nanosleep, __NR_getrandom, __NR_sched_yield, __NR_sched_getaffinity, __NR_sysinfo,
    __NR_getpid, __NR_gettid, __NR_restart_syscall,
    /* Signals of the process itself, and its end. */
    __NR_rt_sigreturn, __NR_rt_sigaction, __NR_rt_sigprocmask, __NR_sigaltstack, __NR_exit, __NR_exit_group,
#if defined(__x86_64__)
    __NR_epoll_wait, __NR_poll,
#endif
};

static void program_build(struct program *program) {
    static const uint32_t unix_only[] = {AF_UNIX};
    static const uint32_t descriptor_commands[] = {F_GETFD,      F_SETFD,     F_GETFL,     F_SETFL,
                                                   F_DUPFD_CLOEXEC, F_SETPIPE_SZ, F_GETPIPE_SZ, F_ADD_SEALS, F_GET_SEALS};
    /* O_NONBLOCK in one call; how much waits in a socket, and how much a peer has not acknowledged; whether stderr is a
     * terminal. */
    static const uint32_t device_commands[] = {FIONBIO, FIONREAD, SIOCOUTQ, TCGETS};
    static const uint32_t empty_path[] = {AT_EMPTY_PATH};
    /* Names for mappings, which newer C libraries give. */
    static const uint32_t process_options[] = {PR_SET_VMA};
    const uint32_t itself[] = {(uint32_t)getpid()};

    emit(program, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch), 0, 0);
    emit(program, BPF_JMP | BPF_JEQ | BPF_K, FILTER_ARCHITECTURE, 1, 0);
    emit_return(program, SECCOMP_RET_KILL_PROCESS);
    emit(program, BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr), 0, 0);
#if defined(FILTER_X32_BIT)
    emit(program, BPF_JMP | BPF_JSET | BPF_K, FILTER_X32_BIT, 0, 1);
    emit_return(program, SECCOMP_RET_KILL_PROCESS);
#endif
    for (size_t index = 0; index < sizeof calls_free / sizeof calls_free[0]; index++) {
        call_answered(program, calls_free[index], SECCOMP_RET_ALLOW);
    }
    /* No memory ever becomes code. */
    call_without(program, __NR_mmap, 2, PROT_EXEC);
    call_without(program, __NR_mprotect, 2, PROT_EXEC);
    call_with(program, __NR_fcntl, 1, 0, descriptor_commands, sizeof descriptor_commands / sizeof descriptor_commands[0]);
    call_setsockopt(program);
    call_with(program, __NR_socketpair, 0, 0, unix_only, 1);
    call_with(program, __NR_ioctl, 1, 0, device_commands, sizeof device_commands / sizeof device_commands[0]);
    /* Some C libraries ask for the facts of a descriptor in this way. */
    call_with(program, __NR_newfstatat, 3, 0, empty_path, 1);
    call_with(program, __NR_prctl, 0, 0, process_options, 1);
    /* abort, and a signal handler that ends the process by the signal that it had. */
    call_with(program, __NR_tgkill, 0, 0, itself, 1);
    call_prlimit(program);
    call_answered(program, __NR_openat, SECCOMP_RET_ERRNO | EACCES);
#if defined(__x86_64__)
    call_answered(program, __NR_open, SECCOMP_RET_ERRNO | EACCES);
#endif
    emit_return(program, SECCOMP_RET_KILL_PROCESS);
}

int cio_filter_install(bool every_thread) {
    static struct program program; /* too large for a frame; the kernel copies it */
    program.count = 0;
    program_build(&program);
    struct sock_fprog description = {.len = program.count, .filter = program.rows};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -errno;
    long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, every_thread ? SECCOMP_FILTER_FLAG_TSYNC : 0ul, &description);
    if (result > 0) return -EBUSY; /* a thread that has a filter of its own */
    return result == 0 ? 0 : -errno;
}

#else

int cio_filter_install(bool every_thread) {
    (void)every_thread;
    return -EOPNOTSUPP;
}

#endif
