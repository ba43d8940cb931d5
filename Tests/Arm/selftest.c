/* Runs every part of the self-test, says for which processor it was built, and ends with status 0 when all assertions held.
 *
 *   selftest            everything
 *   selftest io_uring   the same; fails when the loop can't run on io_uring
 *   selftest worker     what a worker does: the loop on epoll, and TLS
 */
#include "selftest.h"

#include "ciocore.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/utsname.h>

unsigned long checks;

void check(bool holds, const char *file, int line, const char *what) {
    checks++;
    if (holds) return;
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    exit(1);
}

int main(int count, char **words) {
#if defined(__aarch64__)
    const char *built = "arm64";
#elif defined(__x86_64__)
    const char *built = "x86-64";
#else
    const char *built = "another processor";
#endif
    struct utsname machine;
    setvbuf(stdout, NULL, _IOLBF, 0); /* what holds is told even if what follows crashes */
    CHECK(uname(&machine) == 0);
    printf("selftest for %s (%s char, pages of %lu bytes) on %s %s\n", built, (char)-1 < 0 ? "signed" : "unsigned",
           getauxval(AT_PAGESZ), machine.sysname, machine.machine);
    bool wants_uring = count > 1 && strcmp(words[1], "io_uring") == 0;
    bool is_worker = count > 1 && strcmp(words[1], "worker") == 0;
    CHECK(test_loop(CIO_BACKEND_EPOLL));
    CHECK(is_worker || test_loop(CIO_BACKEND_IO_URING) || !wants_uring);
    if (!is_worker) test_system();
    test_tls();
    test_signatures();
    printf("selftest: %lu assertions hold\n", checks);
    return 0;
}
