// Many idle tunnels, or how fast they can be registered: an agent's side of the mux protocol, as little of it as idling needs.
//
//     tunnels PORT COUNT [TOGETHER]
//
// Registers the endpoints t0 … t<COUNT-1> at an upstream port, each over a connection of its own with a WebSocket upgrade, TOGETHER
// (default 64) at a time. Prints "begin", "open SECONDS" when all are there, and keeps them, answering yamux's pings, until its
// input ends. A tunnel that is refused or ends before that is a failure with status 1.
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_BYTES_MAX = 512, EVENTS_MAX = 256, FRAME_BYTES = 14, YAMUX_PING = 2, YAMUX_SYN = 1, YAMUX_ACK = 2 };

struct tunnel {
    int descriptor;
    bool is_open;
    uint16_t count;
    char answer[ANSWER_BYTES_MAX];   // the head of the upgrade's answer, then an incomplete frame
};

static int poll_descriptor;
static uint16_t port;
static struct tunnel *tunnels;
static uint32_t count_wanted, count_started, count_open;

static _Noreturn void fail(uint32_t index, const char *what) {
    fprintf(stderr, "tunnels: t%u: %s\n", index, what);
    exit(1);
}

static double now_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void tunnel_start(uint32_t index) {
    int on = 1, descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (descriptor < 0 || connect(descriptor, (struct sockaddr *)&address, sizeof address) < 0) fail(index, strerror(errno));
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    char request[256];
    int length = snprintf(request, sizeof request,
                          "GET /piko/v1/upstream/t%u HTTP/1.1\r\nHost: perf\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", index);
    if (send(descriptor, request, (size_t)length, MSG_NOSIGNAL) != length) fail(index, "could not send the upgrade");
    tunnels[index].descriptor = descriptor;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
    if (epoll_ctl(poll_descriptor, EPOLL_CTL_ADD, descriptor, &event) < 0) fail(index, strerror(errno));
}

// Complete frames in `answer`: a small server frame with one yamux header, of which only pings matter.
static void tunnel_frames(uint32_t index) {
    struct tunnel *tunnel = &tunnels[index];
    while (tunnel->count >= 2) {
        uint8_t *frame = (uint8_t *)tunnel->answer;
        size_t length = 2u + (frame[1] & 0x7F);
        if ((frame[1] & 0x7F) > 125) fail(index, "a frame that an idle tunnel does not get");
        if (tunnel->count < length) return;
        if ((frame[0] & 0x0F) == 8) fail(index, "closed");
        if (length == FRAME_BYTES && frame[3] == YAMUX_PING && (frame[5] & YAMUX_SYN)) {
            // The same value back, masked with zeros.
            uint8_t pong[FRAME_BYTES + 4] = {0x82, 0x80 | 12, 0, 0, 0, 0, 0, YAMUX_PING, 0, YAMUX_ACK};
            memcpy(pong + 14, frame + 10, 4);
            if (send(tunnel->descriptor, pong, sizeof pong, MSG_NOSIGNAL) != (ssize_t)sizeof pong) fail(index, "could not answer a ping");
        }
        tunnel->count = (uint16_t)(tunnel->count - length);
        memmove(tunnel->answer, tunnel->answer + length, tunnel->count);
    }
}

static void tunnel_read(uint32_t index) {
    struct tunnel *tunnel = &tunnels[index];
    ssize_t count = recv(tunnel->descriptor, tunnel->answer + tunnel->count, ANSWER_BYTES_MAX - 1u - tunnel->count, 0);
    if (count <= 0) fail(index, count == 0 ? "the server ended it" : strerror(errno));
    tunnel->count = (uint16_t)(tunnel->count + count);
    if (!tunnel->is_open) {
        tunnel->answer[tunnel->count] = 0;
        char *end = strstr(tunnel->answer, "\r\n\r\n");
        if (end == NULL && tunnel->count < ANSWER_BYTES_MAX - 1) return;
        if (end == NULL || strncmp(tunnel->answer, "HTTP/1.1 101 ", 13) != 0) fail(index, "the upgrade was refused");
        tunnel->is_open = true;
        count_open += 1;
        tunnel->count = (uint16_t)(tunnel->count - (end + 4 - tunnel->answer));
        memmove(tunnel->answer, end + 4, tunnel->count);
        if (count_started < count_wanted) tunnel_start(count_started++);
    }
    tunnel_frames(index);
}

int main(int argument_count, char **arguments) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argument_count < 3) return 2;
    port = (uint16_t)strtoul(arguments[1], NULL, 10);
    count_wanted = (uint32_t)strtoul(arguments[2], NULL, 10);
    uint32_t together = argument_count > 3 ? (uint32_t)strtoul(arguments[3], NULL, 10) : 64;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    poll_descriptor = epoll_create1(EPOLL_CLOEXEC);
    tunnels = calloc(count_wanted, sizeof *tunnels);
    if (poll_descriptor < 0 || tunnels == NULL) return 1;
    struct epoll_event input = {.events = EPOLLIN, .data.u32 = UINT32_MAX}, events[EVENTS_MAX];
    if (epoll_ctl(poll_descriptor, EPOLL_CTL_ADD, STDIN_FILENO, &input) < 0) return 1;
    puts("begin");
    fflush(stdout);
    double begun = now_seconds();
    while (count_started < count_wanted && count_started < together) tunnel_start(count_started++);
    for (bool said = false;;) {
        int count = epoll_wait(poll_descriptor, events, EVENTS_MAX, -1);
        for (int index = 0; index < count; index += 1) {
            if (events[index].data.u32 == UINT32_MAX) return 0;
            tunnel_read(events[index].data.u32);
        }
        if (!said && count_open == count_wanted) {
            said = true;
            printf("open %.6f\n", now_seconds() - begun);
            fflush(stdout);
        }
    }
}
