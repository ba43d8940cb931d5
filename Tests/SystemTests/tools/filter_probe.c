/* Tries every system call under the worker's filter, each in a process of its own and with all arguments zero, and prints how
 * each number ended: "NUMBER refused" or "NUMBER let-through". With x32 or i386 as its argument it makes one call by that
 * other way in.
 *
 *   cc -D_GNU_SOURCE -ISources/CIOCore -ISources/CIOCore/include -o probe filter_probe.c Sources/CIOCore/filter.c
 */
#include "ciocore.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define NUMBERS 480

static void confine(void) {
    struct itimerval time = {.it_value = {.tv_sec = 0, .tv_usec = 100000}}; /* for calls that wait */
    setitimer(ITIMER_REAL, &time, NULL);
    if (cio_filter_install(true) != 0) _exit(99);
}

static int try_number(long number) {
    pid_t pid = fork();
    if (pid == 0) {
        confine();
        syscall(number, 0, 0, 0, 0, 0, 0);
        _exit(0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return status;
}

int main(int count, char **words) {
    if (count > 1) {
        confine();
#if defined(__x86_64__)
        long result = 0;
        if (strcmp(words[1], "x32") == 0) result = syscall(0x40000000 | SYS_getpid);
        else __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory"); /* getpid of 32 bits */
        _exit(result != 0);
#endif
        _exit(98);
    }
    for (long number = 0; number < NUMBERS; number++) {
        int status = try_number(number);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 99) return 1;
        printf("%ld %s\n", number, WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS ? "refused" : "let-through");
    }
    return 0;
}
