/* selftest: what CIOCore and CTLS do, tried by one small C program that is built and run for any processor (script/check-arm).
 * It needs no Swift, so that it can run where there is none: under an emulator, or on a machine that is being looked at.
 */
#ifndef SELFTEST_H
#define SELFTEST_H

#include <stdbool.h>
#include <stdint.h>

/* How many assertions held. */
extern unsigned long checks;

/* Ends the program when the condition does not hold, with where and what. */
void check(bool holds, const char *file, int line, const char *what);
#define CHECK(condition) check((condition), __FILE__, __LINE__, #condition)

/* loop_test.c: the event loop, on the backend (enum cio_backend); false when this kernel or emulator can't run it. */
bool test_loop(uint32_t backend);
/* system_test.c: processes, signals, memory, and the stack that a crash leaves. */
void test_system(void);
/* tls_test.c: TLS sessions, certificates, keys and signatures. */
void test_tls(void);
void test_signatures(void);

#endif
