/* Processes and signals: starting a program with exactly the descriptors it is meant to have, hearing of its end, and
 * signals as readable descriptors.
 *
 * Between clone and exec the child calls only what is safe after a fork in a process with threads: plain system calls,
 * no memory allocation, no locks.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SPAWN_DESCRIPTORS_MAX 64
#define CHILD_DESCRIPTOR_FIRST 3

struct spawn {
    const char *path;
    int executable;
    char *const *arguments;
    char *const *environment;
    const int *descriptors;
    uint32_t descriptor_count;
    bool die_with_parent;
    pid_t parent;
    int report; /* write end of the pipe that tells why exec failed */
};

/* Marks everything from `first` on close-on-exec. */
static void descriptors_close_on_exec(unsigned first) {
    if (syscall(SYS_close_range, first, ~0u, CLOSE_RANGE_CLOEXEC) == 0) return;
    long max = sysconf(_SC_OPEN_MAX);
    for (long descriptor = (long)first; descriptor < max; descriptor++) {
        (void)fcntl((int)descriptor, F_SETFD, FD_CLOEXEC);
    }
}

static int child_descriptors(struct spawn *spawn) {
    int copies[SPAWN_DESCRIPTORS_MAX];
    int above = CHILD_DESCRIPTOR_FIRST + (int)spawn->descriptor_count;
    /* First out of the way, so that no target number overwrites a source. */
    spawn->report = fcntl(spawn->report, F_DUPFD_CLOEXEC, above);
    if (spawn->report < 0) return -errno;
    if (spawn->executable >= 0) {
        spawn->executable = fcntl(spawn->executable, F_DUPFD_CLOEXEC, above);
        if (spawn->executable < 0) return -errno;
    }
    for (uint32_t index = 0; index < spawn->descriptor_count; index++) {
        copies[index] = fcntl(spawn->descriptors[index], F_DUPFD_CLOEXEC, above);
        if (copies[index] < 0) return -errno;
    }
    for (uint32_t index = 0; index < spawn->descriptor_count; index++) {
        if (dup2(copies[index], CHILD_DESCRIPTOR_FIRST + (int)index) < 0) return -errno;
    }
    descriptors_close_on_exec((unsigned)above);
    return 0;
}

static void child_signals(void) {
    struct sigaction standard = {.sa_handler = SIG_DFL};
    for (int signal = 1; signal < NSIG; signal++) (void)sigaction(signal, &standard, NULL);
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The kernel's struct sched_attr, of which old headers know nothing. */
struct schedule {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

void cio_process_set_slice(pid_t pid, uint32_t microseconds) {
    struct schedule schedule = {.size = sizeof schedule};
    if (syscall(SYS_sched_getattr, pid, &schedule, sizeof schedule, 0) != 0 || schedule.policy != SCHED_NORMAL) return;
    schedule.size = sizeof schedule;
    schedule.flags = 0;
    schedule.runtime = (uint64_t)microseconds * 1000;
    (void)syscall(SYS_sched_setattr, pid, &schedule, 0);
}

static __attribute__((noreturn)) void child_run(struct spawn *spawn) {
    int error = 0;
    cio_process_set_slice(0, CIO_SLICE_LONG);
    if (spawn->die_with_parent) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) error = errno;
        if (getppid() != spawn->parent) _exit(127); /* it ended before prctl */
    }
    if (error == 0) error = -child_descriptors(spawn);
    if (error == 0) {
        child_signals();
        if (spawn->executable >= 0) {
            syscall(SYS_execveat, spawn->executable, "", spawn->arguments, spawn->environment, AT_EMPTY_PATH);
        } else {
            execve(spawn->path, spawn->arguments, spawn->environment);
        }
        error = errno;
    }
    ssize_t ignored = write(spawn->report, &error, sizeof error);
    (void)ignored;
    _exit(127);
}

/* clone3 with a process handle, or fork and pidfd_open where a filter refuses clone3: as fork. */
static pid_t process_clone(int *pidfd) {
    struct clone_args arguments = {
        .flags = CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)pidfd, .exit_signal = SIGCHLD};
    pid_t pid = (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
    if (pid >= 0 || (errno != ENOSYS && errno != EPERM)) return pid;
    pid = fork();
    if (pid <= 0) return pid;
    *pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (*pidfd >= 0) return pid;
    int error = errno;
    kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    errno = error;
    return -1;
}

pid_t cio_process_spawn(const char *path, int executable, char *const arguments[], char *const environment[],
                        const int *descriptors, uint32_t descriptor_count, bool die_with_parent, int *pidfd) {
    *pidfd = -1;
    if (descriptor_count > SPAWN_DESCRIPTORS_MAX) return -EINVAL;
    int report[2];
    if (pipe2(report, O_CLOEXEC) != 0) return -errno;
    struct spawn spawn = {
        .path = path, .executable = executable, .arguments = arguments, .environment = environment,
        .descriptors = descriptors, .descriptor_count = descriptor_count, .die_with_parent = die_with_parent,
        .parent = getpid(), .report = report[1]};
    sigset_t all, before;
    sigfillset(&all);
    /* No handler of ours may run in the child before its signals are reset. */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = process_clone(pidfd);
    if (pid == 0) child_run(&spawn);
    int error = pid < 0 ? errno : 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(report[1]);
    if (pid > 0) {
        ssize_t length;
        do length = read(report[0], &error, sizeof error);
        while (length < 0 && errno == EINTR);
        if (length != (ssize_t)sizeof error) error = 0; /* closed by the exec */
        if (error != 0) {
            (void)waitpid(pid, NULL, 0);
            close(*pidfd);
            *pidfd = -1;
        }
    }
    close(report[0]);
    return error != 0 ? -error : pid;
}

int cio_process_open(pid_t pid) {
    int handle = (int)syscall(SYS_pidfd_open, pid, 0);
    return handle < 0 ? -errno : handle;
}

int cio_process_replace(int executable, char *const arguments[], char *const environment[]) {
    syscall(SYS_execveat, executable, "", arguments, environment, AT_EMPTY_PATH);
    return -errno;
}

pid_t cio_process_reap(pid_t pid, int *status) {
    pid_t reaped;
    do reaped = waitpid(pid, status, WNOHANG);
    while (reaped < 0 && errno == EINTR);
    return reaped < 0 ? -errno : reaped;
}

int cio_process_reap_other(const pid_t *own, uint32_t count, pid_t *pid) {
    siginfo_t information = {0};
    int result;
    do result = waitid(P_ALL, 0, &information, WEXITED | WNOHANG | WNOWAIT);
    while (result != 0 && errno == EINTR);
    if (result != 0 || information.si_pid == 0) return 0;
    for (uint32_t index = 0; index < count; index++) {
        if (own[index] == information.si_pid) return 2;
    }
    *pid = information.si_pid;
    (void)waitpid(information.si_pid, NULL, WNOHANG);
    return 1;
}

int cio_process_signal(int pidfd, int signal) {
    return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) == 0 ? 0 : -errno;
}

int cio_signal_open(const int *signals, uint32_t count) {
    sigset_t set;
    sigemptyset(&set);
    for (uint32_t index = 0; index < count; index++) {
        if (sigaddset(&set, signals[index]) != 0) return -errno;
    }
    int error = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (error != 0) return -error;
    int descriptor = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return descriptor < 0 ? -errno : descriptor;
}

int cio_signal_read(int descriptor) {
    struct signalfd_siginfo information;
    ssize_t length;
    do length = read(descriptor, &information, sizeof information);
    while (length < 0 && errno == EINTR);
    if (length < 0) return errno == EAGAIN ? 0 : -errno;
    return length == (ssize_t)sizeof information ? (int)information.ssi_signo : 0;
}

void cio_signal_ignore_pipe(void) {
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    (void)sigaction(SIGPIPE, &ignore, NULL);
}
