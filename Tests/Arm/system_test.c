/* What CIOCore asks of the machine besides the loop: processes, signals, shared memory, randomness, and the stack of a process
 * that hangs or crashes.
 *
 * The stack is where processors differ most: the registers in a signal's frame, the chain of frames, return addresses that
 * some Arm processors sign, and the signal that a trap becomes.
 */
#include "selftest.h"

#include "ciocore.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEPTH 5

static void test_memory(void) {
    int descriptor = cio_memory_create("selftest", 65536);
    CHECK(descriptor >= 0 && cio_descriptor_size(descriptor) == 65536 && cio_descriptor_kind(descriptor) == 5);
    CHECK(ftruncate(descriptor, 4096) != 0 && errno == EPERM);
    uint8_t *memory = cio_memory_map(descriptor, 65536);
    CHECK(memory != NULL && memory[65535] == 0);
    memcpy(memory + 65530, "shared", 6);
    char text[6];
    CHECK(cio_descriptor_read_at(descriptor, text, sizeof text, 65530) == 6 && memcmp(text, "shared", 6) == 0);
    cio_memory_unmap(memory, 65536);
    cio_descriptor_close(descriptor);

    uint8_t first[32] = {0}, second[32] = {0};
    CHECK(cio_random(first, sizeof first) == 0 && cio_random(second, sizeof second) == 0 && memcmp(first, second, 32) != 0);
    CHECK(cio_processor_count() >= 1 && cio_descriptor_limit_raise() >= 64);
}

static void test_signals(void) {
    const int wanted[] = {SIGUSR1, SIGHUP};
    int descriptor = cio_signal_open(wanted, 2);
    CHECK(descriptor >= 0 && cio_signal_read(descriptor) == 0);
    CHECK(kill(getpid(), SIGHUP) == 0 && kill(getpid(), SIGUSR1) == 0);
    int first = cio_signal_read(descriptor), second = cio_signal_read(descriptor);
    CHECK((first == SIGHUP && second == SIGUSR1) || (first == SIGUSR1 && second == SIGHUP));
    CHECK(cio_signal_read(descriptor) == 0);
    close(descriptor);
}

/* A child gets the descriptor that it is meant to have as number 3, and its end is heard of. */
static void test_processes(void) {
    int ends[2], pidfd = -1, status = 0;
    CHECK(pipe(ends) == 0);
    char name[] = "sh", option[] = "-c", text[] = "echo child >&3; exit 7", setting[] = "PATH=/usr/bin:/bin";
    char *arguments[] = {name, option, text, NULL};
    char *environment[] = {setting, NULL};
    pid_t pid = cio_process_spawn("/bin/sh", -1, arguments, environment, &ends[1], 1, true, &pidfd);
    CHECK(pid > 0 && pidfd >= 0);
    close(ends[1]);
    char line[16] = "";
    CHECK(read(ends[0], line, sizeof line - 1) == 6 && strcmp(line, "child\n") == 0);
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    CHECK(poll(&ended, 1, 60000) == 1);
    CHECK(cio_process_reap(pid, &status) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7);
    close(pidfd);
    close(ends[0]);
    CHECK(cio_process_spawn("/nonexistent", -1, arguments, environment, NULL, 0, true, &pidfd) == -ENOENT);

    char *long_arguments[] = {name, option, strcpy(text, "exec sleep 300"), NULL};
    pid = cio_process_spawn("/bin/sh", -1, long_arguments, environment, NULL, 0, true, &pidfd);
    CHECK(pid > 0 && cio_process_signal(pidfd, SIGKILL) == 0);
    ended.fd = pidfd;
    CHECK(poll(&ended, 1, 60000) == 1);
    CHECK(cio_process_reap(pid, &status) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    close(pidfd);
}

/* ---- The stack ------------------------------------------------------------------------------------------------------ */

static int descend(int depth, bool crashes);
static int (*volatile next)(int, bool) = descend; /* which no compiler makes a loop of */

/* Frames that must show: each calls the next, and none is the last thing that its caller does. */
static int descend(int depth, bool crashes) {
    if (depth > 0) return next(depth - 1, crashes) + depth;
    if (crashes) __builtin_trap();
    return raise(SIGUSR2);
}

static int frames_of(const char *line, int *unknown) {
    const char *list = strstr(line, "\"frames\":[");
    int count = 0;
    *unknown = 0;
    if (list == NULL) return 0;
    for (const char *at = list + 10; (at = strstr(at, "+0x")) != NULL; at += 3) count++;
    for (const char *at = list; (at = strstr(at, "\"?+0x")) != NULL; at += 5) (*unknown)++;
    return count;
}

static void test_stack(bool crashes) {
    int ends[2], status = 0;
    CHECK(pipe(ends) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        close(ends[0]);
        bool is_ready = dup2(ends[1], STDERR_FILENO) >= 0 && cio_stack_install(SIGUSR2, true, true) == 0;
        _exit(is_ready && descend(DEPTH, crashes) == DEPTH * (DEPTH + 1) / 2 ? 0 : 99);
    }
    close(ends[1]);
    char line[8192];
    size_t length = 0;
    ssize_t got;
    while (length < sizeof line - 1 && (got = read(ends[0], line + length, sizeof line - 1 - length)) > 0) length += (size_t)got;
    line[length] = 0;
    close(ends[0]);
    CHECK(waitpid(pid, &status, 0) == pid);
    /* A trap is an instruction that the processor does not know on x86, and a breakpoint on Arm. */
    if (crashes) CHECK(WIFSIGNALED(status) && (WTERMSIG(status) == SIGILL || WTERMSIG(status) == SIGTRAP));
    else CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    int unknown;
    int count = frames_of(line, &unknown);
    if (count < DEPTH + 2 || unknown != 0) fprintf(stderr, "the stack that was written: %s\n", line);
    CHECK(strncmp(line, crashes ? "{\"level\":\"error\"" : "{\"level\":\"warn\"", 14) == 0);
    CHECK(line[length - 1] == '\n' && count >= DEPTH + 2);
    CHECK(unknown == 0); /* each address lies in the program or in a library */
}

void test_system(void) {
    test_memory();
    test_signals();
    test_processes();
    test_stack(false);
    test_stack(true);
    printf("holds: memory, signals, processes, stacks\n");
}
