// TLS handshakes for one measurement: a few threads, each with one connection after the other, and the same code for every system.
//
//     tls_load --port PORT --key rsa|ecdsa [--resumed] [--version 1.2|1.3] [--threads N] [--seconds S] [--rate N]
//
// A connection makes its handshake, says that it ends (close_notify), and reads until the server has ended too: the server has then
// done its part, whatever the version. --resumed goes on with the session of the connection before. With --rate so many
// begin in a second, by a schedule laid down before; else the next begins when the last is over.
//
// It prints "begin" and "end" around the measurement, as load.c does, and then one JSON object. A handshake that fails, that is
// not resumed when it should be (or is when it should not), another version or another kind of key ends it with status 1.
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_MAX = 64, LATENCIES_MAX = 1 << 20, SOURCE_ADDRESSES = 200 };

static struct {
    uint16_t port;
    const char *key;
    bool resumed;
    int version, threads;
    double seconds, rate;
} settings = {.key = "ecdsa", .version = TLS1_3_VERSION, .threads = 8, .seconds = 3};

static SSL_CTX *context;
static atomic_bool stopping, measuring;
static atomic_ullong issued, done;
static atomic_uint source_address;
static uint64_t schedule_begin;
static uint64_t latencies[LATENCIES_MAX];
static char cipher[64];

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("tls_load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    ERR_print_errors_fp(stderr);
    _exit(1);
}

static uint64_t now_nanoseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void sleep_until(uint64_t due) {
    struct timespec time = {.tv_sec = (time_t)(due / 1000000000), .tv_nsec = (long)(due % 1000000000)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) != 0) continue;
}

static int connect_to_port(void) {
    int on = 1, descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {.tv_sec = 20};
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    // Ports wait a minute after their connection: many source addresses keep them from running out.
    setsockopt(descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    uint32_t turn = atomic_fetch_add(&source_address, 1) % SOURCE_ADDRESSES;
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + turn)};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(settings.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(descriptor, (struct sockaddr *)&source, sizeof source) < 0) fail("bind");
    if (connect(descriptor, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
    return descriptor;
}

static void session_forget(SSL_SESSION **kept) {
    SSL_SESSION_free(*kept);
    *kept = NULL;
}

static int session_keep(SSL *ssl, SSL_SESSION *session) {
    SSL_SESSION **kept = SSL_get_app_data(ssl);
    session_forget(kept);
    *kept = session;
    return 1;
}

static void check(SSL *ssl, bool resumes) {
    if (SSL_version(ssl) != settings.version) fail("%s was agreed upon", SSL_get_version(ssl));
    if ((SSL_session_reused(ssl) == 1) != resumes) fail(resumes ? "the session was not resumed" : "the session was resumed");
    EVP_PKEY *key = X509_get0_pubkey(SSL_get0_peer_certificate(ssl));
    bool is_rsa = EVP_PKEY_get_base_id(key) == EVP_PKEY_RSA;
    if (is_rsa != (strcmp(settings.key, "rsa") == 0)) fail("another kind of key");
    strncpy(cipher, SSL_get_cipher_name(ssl), sizeof cipher - 1);
}

// Reads one record; the server sends nothing but tickets and its end.
static int read_on(SSL *ssl) {
    char byte;
    ERR_clear_error();
    int got = SSL_read(ssl, &byte, 1);
    int reason = SSL_get_error(ssl, got);
    if (reason != SSL_ERROR_WANT_READ && reason != SSL_ERROR_ZERO_RETURN) fail("the server did not end the connection well (%d)", reason);
    return reason;
}

// One connection, and until the server has ended it.
static void exchange(SSL_SESSION **kept) {
    int descriptor = connect_to_port();
    bool resumes = settings.resumed && *kept != NULL;
    SSL *ssl = SSL_new(context);
    SSL_set_fd(ssl, descriptor);
    SSL_set_tlsext_host_name(ssl, "localhost");
    SSL_set_app_data(ssl, (char *)kept);
    if (resumes) SSL_set_session(ssl, *kept);
    session_forget(kept);
    ERR_clear_error();
    if (SSL_connect(ssl) != 1) fail("the handshake failed");
    check(ssl, resumes);
    // In TLS 1.3 a session is good once, and its ticket comes behind the handshake: behind our end it would be dropped.
    if (settings.version == TLS1_2_VERSION && *kept == NULL) *kept = SSL_get1_session(ssl);
    while (settings.resumed && *kept == NULL) read_on(ssl);
    if (SSL_shutdown(ssl) < 0) fail("the end was not sent");
    while (read_on(ssl) != SSL_ERROR_ZERO_RETURN) continue;
    SSL_free(ssl);
    close(descriptor);
}

static void *work(void *argument) {
    (void)argument;
    SSL_SESSION *kept = NULL;
    exchange(&kept);   // warm; and a session to go on with
    while (!atomic_load(&measuring)) usleep(1000);
    while (!atomic_load(&stopping)) {
        uint64_t begun = now_nanoseconds();
        if (settings.rate > 0) {
            begun = schedule_begin + (uint64_t)((double)atomic_fetch_add(&issued, 1) * 1e9 / settings.rate);
            sleep_until(begun);
            if (atomic_load(&stopping)) break;
        }
        exchange(&kept);
        unsigned long long at = atomic_fetch_add(&done, 1);
        if (at < LATENCIES_MAX) latencies[at] = now_nanoseconds() - begun;
    }
    session_forget(&kept);
    return NULL;
}

static int order(const void *left, const void *right) {
    uint64_t one = *(const uint64_t *)left, other = *(const uint64_t *)right;
    return one < other ? -1 : one > other;
}

static void read_options(int count, char **words) {
    for (int at = 1; at < count; at++) {
        const char *name = words[at];
        if (strcmp(name, "--resumed") == 0) {
            settings.resumed = true;
            continue;
        }
        const char *value = at + 1 < count ? words[++at] : "";
        if (strcmp(name, "--port") == 0) settings.port = (uint16_t)atoi(value);
        else if (strcmp(name, "--key") == 0) settings.key = value;
        else if (strcmp(name, "--version") == 0) settings.version = strcmp(value, "1.2") == 0 ? TLS1_2_VERSION : TLS1_3_VERSION;
        else if (strcmp(name, "--threads") == 0) settings.threads = atoi(value);
        else if (strcmp(name, "--seconds") == 0) settings.seconds = atof(value);
        else if (strcmp(name, "--rate") == 0) settings.rate = atof(value);
        else fail("no option is called %s", name);
    }
    if (settings.port == 0 || settings.threads < 1 || settings.threads > THREADS_MAX || settings.seconds <= 0) fail("bad options");
}

int main(int count, char **words) {
    read_options(count, words);
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, settings.version);
    SSL_CTX_set_max_proto_version(context, settings.version);
    SSL_CTX_set1_groups_list(context, "X25519:P-256");
    // haproxy takes its RSA key only for clients that name the old way of signing, too.
    const char *signatures = strcmp(settings.key, "rsa") == 0 ? "rsa_pss_rsae_sha256:RSA+SHA256" : "ECDSA+SHA256";
    if (SSL_CTX_set1_sigalgs_list(context, signatures) != 1) fail("signatures");
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, session_keep);
    SSL_CTX_clear_mode(context, SSL_MODE_AUTO_RETRY);
    pthread_t threads[THREADS_MAX];
    for (int at = 0; at < settings.threads; at++) pthread_create(&threads[at], NULL, work, NULL);
    usleep(500000);
    uint64_t begun = schedule_begin = now_nanoseconds();
    atomic_store(&measuring, true);
    puts("begin");
    fflush(stdout);
    sleep_until(begun + (uint64_t)(settings.seconds * 1e9));
    unsigned long long exchanges = atomic_load(&done);
    double seconds = (double)(now_nanoseconds() - begun) / 1e9;
    puts("end");
    fflush(stdout);
    atomic_store(&stopping, true);
    for (int at = 0; at < settings.threads; at++) pthread_join(threads[at], NULL);
    size_t kept = exchanges < LATENCIES_MAX ? exchanges : LATENCIES_MAX;
    if (kept == 0) fail("no handshake ended");
    qsort(latencies, kept, sizeof *latencies, order);
    printf("{\"exchanges\": %llu, \"seconds\": %.6f, \"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"cipher\": \"%s\"}\n", exchanges, seconds,
           latencies[kept / 2] / 1e3, latencies[kept * 99 / 100] / 1e3, latencies[kept * 999 / 1000] / 1e3, cipher);
    return 0;
}
