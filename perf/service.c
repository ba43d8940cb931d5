// The origin that every system under test leads to: HTTP/1.1 and raw bytes, one thread, epoll, no allocation per request, so that it
// is not what limits a measurement.
//
//     service          listens on a port of 127.0.0.1 that the kernel chooses, and prints it
//
// GET /small           a response of 13 bytes, kept alive
// GET /bytes/N         N bytes of the pattern (pattern.h), 16 MiB at most
// GET /echo, /sink, /source with "Upgrade:" answers 101; then the connection is bytes: sent back; counted and checked, and at
//                      their end answered with "COUNT MISPLACED\n"; or the pattern for as long as somebody takes it.
//
// It reads no request bodies: the load sends none. A request that it can't read ends its connection.
#include "pattern.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <signal.h>
#include <unistd.h>

enum { HEAD_BYTES_MAX = 8192, EVENTS_MAX = 256, BODY_BYTES_MAX = 16 << 20, RECEIVE_BYTES = 512 << 10, ECHO_BYTES_MAX = 64 << 10 };

enum mode { MODE_HTTP, MODE_ECHO, MODE_SINK, MODE_SOURCE };

struct connection {
    int descriptor;
    enum mode mode;
    bool close_after;       // after what is queued
    bool input_ended;
    bool waits_writable;
    uint32_t input_count;   // bytes of `input`: a head that is not complete, or what an echo could not send yet
    char output_head[256];  // unsent: output_head[head_sent ..< head_count], then the pattern body_sent ..< body_count
    uint32_t head_count, head_sent;
    uint64_t body_count, body_sent;
    uint64_t received, misplaced;
    char *input;
};

static int poll_descriptor;
static uint8_t *receive_buffer;

static void connection_end(struct connection *connection) {
    close(connection->descriptor);
    free(connection->input);
    free(connection);
}

static bool watch(struct connection *connection, int operation, bool writable) {
    // A connection that waits for room is not read: the sender feels it.
    struct epoll_event event = {.events = writable ? EPOLLOUT : EPOLLIN, .data.ptr = connection};
    connection->waits_writable = writable;
    return epoll_ctl(poll_descriptor, operation, connection->descriptor, &event) == 0;
}

static void queue_text(struct connection *connection, const char *text) {
    connection->head_count = (uint32_t)snprintf(connection->output_head, sizeof connection->output_head, "%s", text);
    connection->head_sent = 0;
    connection->body_count = connection->body_sent = 0;
}

// Sends what is queued. 1: all of it; 0: the socket is full; -1: the connection is gone.
static int flush_output(struct connection *connection) {
    while (connection->head_sent < connection->head_count || connection->body_sent < connection->body_count) {
        uint64_t body = connection->body_count - connection->body_sent;
        struct iovec pieces[2] = {
            {connection->output_head + connection->head_sent, connection->head_count - connection->head_sent},
            {(void *)(uintptr_t)pattern_at(connection->body_sent), body < PATTERN_BYTES ? body : PATTERN_BYTES},
        };
        struct msghdr message = {.msg_iov = pieces, .msg_iovlen = 2};
        ssize_t sent = sendmsg(connection->descriptor, &message, MSG_NOSIGNAL);
        if (sent < 0) return errno == EAGAIN ? 0 : -1;
        uint64_t head = pieces[0].iov_len < (size_t)sent ? pieces[0].iov_len : (uint64_t)sent;
        connection->head_sent += (uint32_t)head;
        connection->body_sent += (uint64_t)sent - head;
    }
    return 1;
}

// One request of which `length` bytes are the head, ended by a zero. False: nothing that we serve.
static bool answer_request(struct connection *connection, char *head) {
    if (strncmp(head, "GET /", 5) != 0) return false;
    const char *path = head + 4;
    connection->close_after = strcasestr(head, "\r\nConnection: close") != NULL;
    enum mode mode = strncmp(path, "/echo", 5) == 0   ? MODE_ECHO
                   : strncmp(path, "/sink", 5) == 0   ? MODE_SINK
                   : strncmp(path, "/source", 7) == 0 ? MODE_SOURCE
                                                      : MODE_HTTP;
    if (mode != MODE_HTTP) {
        if (strcasestr(head, "\r\nUpgrade:") == NULL) return false;
        connection->mode = mode;
        queue_text(connection, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: perf\r\n\r\n");
        if (mode == MODE_SOURCE) connection->body_count = UINT64_MAX;
        return true;
    }
    const char *connection_field = connection->close_after ? "Connection: close\r\n" : "";
    char text[256];
    if (strncmp(path, "/bytes/", 7) == 0) {
        uint64_t count = strtoull(path + 7, NULL, 10);
        if (count > BODY_BYTES_MAX) return false;
        snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %llu\r\n%s\r\n",
                 (unsigned long long)count, connection_field);
        queue_text(connection, text);
        connection->body_count = count;
        return true;
    }
    snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n%s\r\nHello, world\n", connection_field);
    queue_text(connection, text);
    return true;
}

// Echoes what is in `input`, sinks, or answers the requests in it. -1: ended; 0: the socket is full; 1: more may be read.
static int process_input(struct connection *connection) {
    while (connection->input_count > 0) {
        if (connection->mode == MODE_ECHO) {
            ssize_t sent = send(connection->descriptor, connection->input, connection->input_count, MSG_NOSIGNAL);
            if (sent < 0) return errno == EAGAIN ? 0 : -1;
            connection->input_count -= (uint32_t)sent;
            memmove(connection->input, connection->input + sent, connection->input_count);
            continue;
        }
        if (connection->mode == MODE_SINK) {
            if (!pattern_fits((uint8_t *)connection->input, connection->input_count, connection->received)) connection->misplaced += 1;
            connection->received += connection->input_count;
            connection->input_count = 0;
            continue;
        }
        if (connection->mode == MODE_SOURCE) return -1;
        connection->input[connection->input_count] = 0;
        char *end = strstr(connection->input, "\r\n\r\n");
        if (end == NULL) return connection->input_count < HEAD_BYTES_MAX ? 1 : -1;
        *(end + 2) = 0;
        if (!answer_request(connection, connection->input)) return -1;
        uint32_t used = (uint32_t)(end + 4 - connection->input);
        connection->input_count -= used;
        memmove(connection->input, connection->input + used, connection->input_count);
        int flushed = flush_output(connection);
        if (flushed < 1) return flushed;
        if (connection->close_after) return -1;
    }
    return 1;
}

// Reads a piece of a sink without passing it through `input`. As process_input.
static int sink_more(struct connection *connection) {
    ssize_t count = recv(connection->descriptor, receive_buffer, RECEIVE_BYTES, 0);
    if (count < 0) return errno == EAGAIN ? 1 : -1;
    if (count == 0) {
        char text[64];
        snprintf(text, sizeof text, "%llu %llu\n", (unsigned long long)connection->received, (unsigned long long)connection->misplaced);
        queue_text(connection, text);
        connection->close_after = true;
        int flushed = flush_output(connection);
        return flushed == 0 ? 0 : -1;
    }
    if (!pattern_fits(receive_buffer, (size_t)count, connection->received)) connection->misplaced += 1;
    connection->received += (uint64_t)count;
    return 1;
}

static int read_more(struct connection *connection) {
    if (connection->mode == MODE_SINK) return sink_more(connection);
    uint32_t room = (connection->mode == MODE_ECHO ? ECHO_BYTES_MAX : HEAD_BYTES_MAX) - connection->input_count;
    ssize_t count = recv(connection->descriptor, connection->input + connection->input_count, room, 0);
    if (count < 0) return errno == EAGAIN ? 1 : -1;
    if (count == 0) return -1;
    connection->input_count += (uint32_t)count;
    return process_input(connection);
}

static int write_more(struct connection *connection) {
    int flushed = flush_output(connection);
    if (flushed < 1) return flushed;
    if (connection->close_after) return -1;
    return process_input(connection);
}

static void accept_all(int listener) {
    int descriptor, on = 1;
    while ((descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *connection = calloc(1, sizeof *connection);
        char *input = malloc(ECHO_BYTES_MAX + 1);
        if (connection == NULL || input == NULL) abort();
        connection->descriptor = descriptor;
        connection->input = input;
        if (!watch(connection, EPOLL_CTL_ADD, false)) abort();
    }
}

int main(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    receive_buffer = mmap(NULL, RECEIVE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    poll_descriptor = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event listening = {.events = EPOLLIN, .data.ptr = NULL};
    if (pattern_make() < 0 || receive_buffer == MAP_FAILED || bind(listener, (struct sockaddr *)&address, sizeof address) < 0
        || listen(listener, 4096) < 0 || getsockname(listener, (struct sockaddr *)&address, &length) < 0
        || epoll_ctl(poll_descriptor, EPOLL_CTL_ADD, listener, &listening) < 0) {
        perror("service");
        return 1;
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    struct epoll_event events[EVENTS_MAX];
    for (;;) {
        int count = epoll_wait(poll_descriptor, events, EVENTS_MAX, -1);
        for (int index = 0; index < count; index += 1) {
            struct connection *connection = events[index].data.ptr;
            if (connection == NULL) {
                accept_all(listener);
                continue;
            }
            int result = connection->waits_writable ? write_more(connection) : read_more(connection);
            if (result < 0) connection_end(connection);
            else if ((result == 0) != connection->waits_writable) watch(connection, EPOLL_CTL_MOD, result == 0);
        }
    }
}
