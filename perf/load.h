// What load.c and load_options.c share: settings, one connection, and the totals with their histogram of latencies.
#pragma once

#include "pattern.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    NANOSECONDS = 1000000000,
    HEAD_BYTES_MAX = 2048,
    BUFFER_BYTES = 512 << 10,
    SEND_BYTES = 256 << 10,
    EVENTS_MAX = 256,
    SOURCE_ADDRESSES = 64,
    CONNECTED_TOGETHER = 64,
    CONNECTIONS_MAX = 16384,
};

/// `body_expected` while the response's head is not complete.
#define NO_HEAD SIZE_MAX

enum mode { MODE_NONE, MODE_ECHO, MODE_UP, MODE_DOWN, MODE_HTTP, MODE_CLOSE };

enum state { STATE_CONNECTING, STATE_UPGRADE, STATE_IDLE, STATE_EXCHANGE, STATE_BULK };

struct settings {
    enum mode mode;
    uint16_t port;
    uint32_t connections;
    size_t bytes;
    double seconds, warmup;
    double rate;          // exchanges a second of all connections together; 0: the next when the last has ended
    const char *host, *path;
};

struct connection {
    int descriptor;
    enum state state;
    bool is_ready;        // it has had an exchange
    uint32_t watched;     // what epoll watches; 0 before it does
    uint64_t begun;       // of the exchange: when it was due
    uint64_t offset;      // echo and bulk: place in the pattern
    size_t sent, received;
    size_t body_expected;
    size_t head_count;
    char head[HEAD_BYTES_MAX];
};

struct totals {
    uint64_t exchanges, bytes;
    uint32_t connected;   // connections that are ready
};

extern struct settings settings;
extern struct totals totals;

void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
uint64_t now_nanoseconds(void);
void settings_read(int argument_count, char **arguments);
/// Writes what a connection sends first, and returns its length.
size_t settings_request(char *text, size_t capacity);
void histogram_add(uint64_t nanoseconds);
void totals_print(double seconds);
