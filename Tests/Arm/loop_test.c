/* The event loop of CIOCore, on either backend: connections over the loopback, bytes both ways, pumps that splice, deadlines,
 * wake-ups, messages with descriptors, polls, packets and look-ups of names.
 *
 * One loop plays all parts. `pass` runs turns until what a test waits for has happened, and notes what came.
 */
#include "selftest.h"

#include "ciocore.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS 64
#define SECOND 1000000000ull
#define PATIENCE (60 * SECOND) /* an emulator on a busy machine is slow */
#define ECHO_BYTES (3u << 20)
#define PUMP_BYTES (8u << 20)

/* What each handle is in these tests; its tag. */
enum { LISTENER = 1, CLIENT, SERVER, SOURCE, RELAY_IN, RELAY_OUT, SINK, LEFT, RIGHT, POLLED, NAME };
#define TAGS 16

static struct {
    cio_loop *loop;
    cio_handle handles[TAGS];
    size_t received[TAGS];
    bool seen[TAGS][CIO_EVENT_PUMPED + 1];
    int accepted;
    int passed_descriptor;
    char message[64];
    uint32_t addresses;
    struct sockaddr_storage address;
} state;

/* The byte at a place of a stream: its period has nothing in common with any buffer's size. */
static uint8_t pattern(size_t place) { return (uint8_t)(place * 7 + place / 251); }

static void pattern_fill(uint8_t *bytes, size_t length, size_t from) {
    for (size_t index = 0; index < length; index++) bytes[index] = pattern(from + index);
}

/* ---- Turns ---------------------------------------------------------------------------------------------------------- */

static void data_came(const struct cio_event *event) {
    size_t from = state.received[event->tag];
    bool is_right = true;
    for (uint32_t index = 0; index < event->length; index++) is_right = is_right && event->data[index] == pattern(from + index);
    CHECK(is_right);
    state.received[event->tag] = from + event->length;
    if (event->tag == SERVER) CHECK(cio_stream_write(state.loop, event->handle, event->data, event->length) > 0);
}

static void event_came(const struct cio_event *event) {
    CHECK(event->tag < TAGS && event->kind <= CIO_EVENT_PUMPED);
    CHECK(event->kind != CIO_EVENT_FAILED);
    state.seen[event->tag][event->kind] = true;
    switch (event->kind) {
    case CIO_EVENT_DATA: data_came(event); break;
    case CIO_EVENT_ACCEPTED:
        CHECK(event->result >= 0);
        state.accepted = event->result;
        break;
    case CIO_EVENT_MESSAGE:
        CHECK(event->result == 0 && event->length < sizeof state.message);
        memcpy(state.message, event->data, event->length);
        state.message[event->length] = 0;
        if (event->descriptor_count == 1) state.passed_descriptor = event->descriptors[0];
        break;
    case CIO_EVENT_RESOLVED:
        CHECK(event->result == 0 && event->length % sizeof(struct sockaddr_storage) == 0);
        state.addresses = event->length / (uint32_t)sizeof(struct sockaddr_storage);
        if (state.addresses > 0) memcpy(&state.address, event->data, sizeof state.address);
        break;
    default: break;
    }
}

static void turn(uint64_t deadline) {
    struct cio_event events[EVENTS];
    int count = cio_loop_turn(state.loop, deadline, events, EVENTS);
    CHECK(count >= 0 && count <= EVENTS);
    for (int index = 0; index < count; index++) event_came(&events[index]);
}

/* Runs turns until the tag has had an event of this kind. */
static void pass(uint64_t tag, uint32_t kind) {
    uint64_t end = cio_clock_monotonic() + PATIENCE;
    while (!state.seen[tag][kind]) {
        CHECK(cio_clock_monotonic() < end);
        turn(end);
    }
}

static void pass_bytes(uint64_t tag, size_t length) {
    uint64_t end = cio_clock_monotonic() + PATIENCE;
    while (state.received[tag] < length) {
        CHECK(cio_clock_monotonic() < end);
        turn(end);
    }
    CHECK(state.received[tag] == length);
}

/* A connection between the two tags, by way of the listener. */
static void connection_make(const struct sockaddr_in *address, uint64_t from, uint64_t to) {
    state.accepted = -1;
    state.seen[LISTENER][CIO_EVENT_ACCEPTED] = false;
    CHECK(cio_stream_connect(state.loop, (const struct sockaddr *)address, sizeof *address, from, &state.handles[from]) == 0);
    pass(from, CIO_EVENT_CONNECTED);
    pass(LISTENER, CIO_EVENT_ACCEPTED);
    CHECK(cio_socket_nodelay(state.accepted) == 0 && cio_socket_keepalive(state.accepted, 60, 10, 3, 30000) == 0);
    CHECK(cio_stream_open(state.loop, state.accepted, to, &state.handles[to]) == 0);
    cio_stream_read(state.loop, state.handles[from], true);
    cio_stream_read(state.loop, state.handles[to], true);
}

/* ---- Tests ---------------------------------------------------------------------------------------------------------- */

static struct sockaddr_in test_listen(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = cio_socket_listen((const struct sockaddr *)&address, sizeof address, false, false);
    CHECK(listener >= 0 && cio_descriptor_kind(listener) == 4);
    struct sockaddr_storage name;
    socklen_t length;
    CHECK(cio_socket_name(listener, &name, &length) == 0 && length == sizeof address);
    memcpy(&address, &name, sizeof address);
    CHECK(address.sin_port != 0);
    CHECK(cio_listener_open(state.loop, listener, LISTENER, &state.handles[LISTENER]) == 0);
    return address;
}

/* More than the sockets hold goes out, comes back and is compared; then both sides end. */
static void test_echo(const struct sockaddr_in *address) {
    connection_make(address, CLIENT, SERVER);
    uint8_t piece[65536];
    for (size_t place = 0; place < ECHO_BYTES; place += sizeof piece) {
        pattern_fill(piece, sizeof piece, place);
        CHECK(cio_stream_write(state.loop, state.handles[CLIENT], piece, sizeof piece) > 0);
    }
    pass_bytes(CLIENT, ECHO_BYTES);
    size_t got;
    uint8_t *room = cio_stream_reserve(state.loop, state.handles[CLIENT], 100, &got);
    CHECK(room != NULL && got >= 1 && got <= 100);
    pattern_fill(room, got, ECHO_BYTES);
    CHECK(cio_stream_commit(state.loop, state.handles[CLIENT], got) > 0);
    cio_stream_finish(state.loop, state.handles[CLIENT]);
    pass(SERVER, CIO_EVENT_END);
    pass_bytes(CLIENT, ECHO_BYTES + got);
    cio_stream_finish(state.loop, state.handles[SERVER]);
    pass(CLIENT, CIO_EVENT_END);
    struct cio_stream_totals totals = cio_stream_totals_read(state.loop, state.handles[CLIENT]);
    CHECK(totals.sent == ECHO_BYTES + got);
    cio_stream_close(state.loop, state.handles[CLIENT], CIO_CLOSE_LINGER);
    cio_stream_close(state.loop, state.handles[SERVER], CIO_CLOSE_NOW);
    CHECK(!cio_handle_alive(state.loop, state.handles[CLIENT]));
    CHECK(cio_stream_write(state.loop, state.handles[CLIENT], "x", 1) == -EBADF);
}

/* A source sends to a relay, whose pump carries everything to a sink without a byte being seen here. */
static void test_pump(const struct sockaddr_in *address) {
    connection_make(address, SOURCE, RELAY_IN);
    connection_make(address, RELAY_OUT, SINK);
    CHECK(cio_pump_start(state.loop, state.handles[RELAY_IN], state.handles[RELAY_OUT], UINT64_MAX) == 0);
    uint8_t piece[65536];
    size_t sent = 0;
    uint64_t end = cio_clock_monotonic() + PATIENCE;
    while (state.received[SINK] < PUMP_BYTES) {
        CHECK(cio_clock_monotonic() < end);
        while (sent < PUMP_BYTES && cio_stream_pending(state.loop, state.handles[SOURCE]) < (1u << 20)) {
            pattern_fill(piece, sizeof piece, sent);
            CHECK(cio_stream_write(state.loop, state.handles[SOURCE], piece, sizeof piece) > 0);
            sent += sizeof piece;
        }
        turn(end);
    }
    CHECK(sent == PUMP_BYTES && state.received[RELAY_IN] == 0);
    cio_stream_finish(state.loop, state.handles[SOURCE]);
    pass(RELAY_IN, CIO_EVENT_END);
    struct cio_loop_counters counters;
    cio_loop_counters_read(state.loop, &counters);
    CHECK(counters.pump_bytes_spliced > 0 && counters.pump_bytes_spliced + counters.pump_bytes_copied == PUMP_BYTES);
    CHECK(counters.stale_completions == 0);
    for (int tag = SOURCE; tag <= SINK; tag++) cio_stream_close(state.loop, state.handles[tag], CIO_CLOSE_RESET);
}

static void *wake_later(void *loop) {
    usleep(20000);
    cio_loop_wake(loop);
    return NULL;
}

static void test_time(void) {
    for (int round = 0; round < 3; round++) turn(0); /* what the last test left is done */
    uint64_t start = cio_clock_monotonic();
    turn(start + SECOND / 20);
    CHECK(cio_clock_monotonic() - start >= SECOND / 20 && cio_loop_now(state.loop) >= start + SECOND / 20);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, wake_later, state.loop) == 0);
    start = cio_clock_monotonic();
    turn(start + PATIENCE);
    CHECK(cio_clock_monotonic() - start < PATIENCE / 2);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(cio_clock_realtime() > 1700000000ull * SECOND);
}

static void test_messages(void) {
    int pair[2], ends[2];
    CHECK(cio_socket_pair(SOCK_SEQPACKET, pair) == 0 && cio_descriptor_kind(pair[0]) == 2);
    CHECK(cio_message_open(state.loop, pair[0], LEFT, &state.handles[LEFT]) == 0);
    CHECK(cio_message_open(state.loop, pair[1], RIGHT, &state.handles[RIGHT]) == 0);
    CHECK(pipe(ends) == 0);
    state.passed_descriptor = -1;
    CHECK(cio_message_send(state.loop, state.handles[LEFT], "a pipe", 6, &ends[1], 1, true) >= 0);
    pass(RIGHT, CIO_EVENT_MESSAGE);
    CHECK(strcmp(state.message, "a pipe") == 0 && state.passed_descriptor >= 0);
    char byte = 0;
    CHECK(cio_descriptor_write(state.passed_descriptor, "p", 1) == 1 && read(ends[0], &byte, 1) == 1 && byte == 'p');
    close(state.passed_descriptor);
    close(ends[0]);
    cio_handle_close(state.loop, state.handles[LEFT]);
    pass(RIGHT, CIO_EVENT_END);
    cio_handle_close(state.loop, state.handles[RIGHT]);
}

static void test_poll(void) {
    int counter = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(counter >= 0 && cio_poll_open(state.loop, counter, POLLIN, POLLED, &state.handles[POLLED]) == 0);
    turn(0);
    CHECK(!state.seen[POLLED][CIO_EVENT_READY]);
    CHECK(eventfd_write(counter, 1) == 0);
    pass(POLLED, CIO_EVENT_READY);
    cio_handle_close(state.loop, state.handles[POLLED]);
    turn(0);
    close(counter);
}

static void test_datagrams(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = cio_datagram_bind((const struct sockaddr *)&address, sizeof address);
    int other = cio_datagram_bind((const struct sockaddr *)&address, sizeof address);
    struct sockaddr_storage name, from;
    socklen_t length = 0, from_length = 0;
    CHECK(one >= 0 && other >= 0 && cio_socket_name(other, &name, &length) == 0 && cio_socket_name(one, &from, &from_length) == 0);
    uint8_t area[4 * 16];
    struct cio_datagram packets[4];
    CHECK(cio_datagram_receive(other, area, 16, packets, 4) == -EAGAIN);
    CHECK(cio_datagram_send(one, "packet", 6, (const struct sockaddr *)&name, length) == 0);
    CHECK(cio_datagram_send(one, "one that is too long", 20, (const struct sockaddr *)&name, length) == 0);
    CHECK(cio_datagram_receive(other, area, 16, packets, 4) == 2);
    CHECK(packets[0].length == 6 && !packets[0].truncated && memcmp(area, "packet", 6) == 0);
    CHECK(packets[1].truncated && memcmp(area + 16, "one that is too ", 16) == 0);
    CHECK(memcmp(&packets[0].from, &from, from_length) == 0);
    close(one);
    close(other);
}

static void test_names(void) {
    CHECK(cio_resolve(state.loop, "127.0.0.1", "443", NAME, &state.handles[NAME]) == 0);
    pass(NAME, CIO_EVENT_RESOLVED);
    struct sockaddr_in found;
    memcpy(&found, &state.address, sizeof found);
    CHECK(state.addresses == 1 && found.sin_family == AF_INET && found.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    CHECK(ntohs(found.sin_port) == 443);
    cio_handle_close(state.loop, state.handles[NAME]);
    state.seen[NAME][CIO_EVENT_RESOLVED] = false;
    CHECK(cio_resolve(state.loop, "localhost", "80", NAME, &state.handles[NAME]) == 0);
    pass(NAME, CIO_EVENT_RESOLVED);
    CHECK(state.addresses >= 1);
    cio_handle_close(state.loop, state.handles[NAME]);
}

bool test_loop(uint32_t backend) {
    memset(&state, 0, sizeof state);
    struct cio_loop_options options = {.backend = backend, .handles_max = 256, .pipes_max = 8};
    char reason[256] = "";
    int result = cio_loop_create(&state.loop, &options, reason, sizeof reason);
    if (result != 0 && backend == CIO_BACKEND_IO_URING) {
        printf("not run: the loop on io_uring (%s)\n", reason);
        return false;
    }
    CHECK(result == 0 && cio_loop_backend(state.loop) == backend);
    struct sockaddr_in address = test_listen();
    test_echo(&address);
    test_pump(&address);
    test_time();
    test_messages();
    test_poll();
    test_datagrams();
    test_names();
    cio_handle_close(state.loop, state.handles[LISTENER]);
    turn(0);
    cio_loop_destroy(state.loop);
    printf("holds: the loop (%s)\n", reason);
    return true;
}
