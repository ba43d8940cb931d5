/* The epoll backend: for machines and containers where no ring can be had.
 *
 * Registrations are edge-triggered and never change while a stream lives (but for EPOLLOUT, added at the first send that
 * is cut short), so pausing and resuming costs no system call. What an edge said is kept in flags, and a slot that may
 * have input is on the ready list until a receive came back short. Each slot is received from once a turn.
 *
 * Invariants: a slot with SLOT_READABLE that wants input is on the ready list; SLOT_BLOCKED means that EPOLLOUT is armed
 * and an edge is to come. A closed descriptor needs no EPOLL_CTL_DEL, unless it may live on elsewhere (detached streams,
 * listeners, message sockets, polls): then it is removed first.
 */
#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define EPOLL_EVENTS 256
#define WAKE_KEY 0ull
#define RECEIVE_LEAST 16384u
#define RECEIVE_MOST 65536u
#define ACCEPTS_PER_TURN 64
#define MESSAGES_PER_TURN 32

struct epoll_state {
    int descriptor;
    bool no_pwait2; /* the kernel or its filter refuses epoll_pwait2 */
    struct epoll_event ready[EPOLL_EVENTS];
};

/* ---- Making and registering ----------------------------------------------------------------------------------------- */

static int epoll_create_backend(cio_loop *loop, const struct cio_loop_options *options, char *reason,
                                size_t reason_size) {
    (void)options;
    int result;
    struct epoll_state *state = calloc(1, sizeof *state);
    if (state == NULL) {
        snprintf(reason, reason_size, "no memory");
        return -ENOMEM;
    }
    state->descriptor = epoll_create1(EPOLL_CLOEXEC);
    if (state->descriptor < 0) {
        result = -errno;
        snprintf(reason, reason_size, "epoll_create1: %s", strerror(errno));
        free(state);
        return result;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = WAKE_KEY};
    if (epoll_ctl(state->descriptor, EPOLL_CTL_ADD, loop->wake_descriptor, &event) != 0) {
        result = -errno;
        snprintf(reason, reason_size, "epoll_ctl: %s", strerror(errno));
        close(state->descriptor);
        free(state);
        return result;
    }
    loop->epoll = state;
    return 0;
}

static void epoll_destroy(cio_loop *loop) {
    close(loop->epoll->descriptor);
    free(loop->epoll);
}

static uint32_t registration_of(const struct slot *slot) {
    switch (slot->kind) {
    case SLOT_STREAM:
        return EPOLLIN | EPOLLRDHUP | EPOLLET | ((slot->flags & SLOT_WRITE_ARMED) ? (uint32_t)EPOLLOUT : 0u);
    case SLOT_MESSAGE: return EPOLLIN | EPOLLET | ((slot->flags & SLOT_WRITE_ARMED) ? (uint32_t)EPOLLOUT : 0u);
    case SLOT_LISTENER: return EPOLLIN | EPOLLET;
    default: return slot->mask | EPOLLONESHOT;
    }
}

static int registration_write(cio_loop *loop, struct slot *slot, int operation) {
    struct epoll_event event = {.events = registration_of(slot), .data.u64 = slot_handle(loop, slot)};
    loop->counters.system_calls++;
    return epoll_ctl(loop->epoll->descriptor, operation, slot->descriptor, &event) == 0 ? 0 : -errno;
}

static int epoll_attach(cio_loop *loop, struct slot *slot) {
    if (slot->flags & SLOT_CONNECTING) slot->flags |= SLOT_WRITE_ARMED;
    slot->flags &= ~(uint32_t)SLOT_POLL_STALE;
    return registration_write(loop, slot, EPOLL_CTL_ADD);
}

static bool epoll_quiesce(cio_loop *loop, struct slot *slot) {
    list_remove(loop, LIST_READY, slot);
    slot->flags &= ~(uint32_t)(SLOT_READABLE | SLOT_BLOCKED);
    bool dies_with_descriptor = slot->kind == SLOT_STREAM && (slot->flags & (SLOT_CLOSED | SLOT_FAILED)) != 0;
    if (!dies_with_descriptor && slot->descriptor >= 0) {
        (void)epoll_ctl(loop->epoll->descriptor, EPOLL_CTL_DEL, slot->descriptor, NULL);
        loop->counters.system_calls++;
    }
    return true;
}

/* The socket is full: lets an edge tell when it has room again. */
static void write_block(cio_loop *loop, struct slot *slot) {
    slot->flags |= SLOT_BLOCKED;
    /* A message socket is registered anew each time, because the kernel announces room in the peer's queue only to who
     * has polled since the queue was full. */
    if ((slot->flags & SLOT_WRITE_ARMED) != 0 && slot->kind == SLOT_STREAM) return;
    slot->flags |= SLOT_WRITE_ARMED;
    int result = registration_write(loop, slot, EPOLL_CTL_MOD);
    if (result < 0 && slot->kind == SLOT_STREAM) stream_failed(loop, slot, result);
}

static void epoll_await_room(cio_loop *loop, struct slot *to) { write_block(loop, to); }

/* ---- Streams -------------------------------------------------------------------------------------------------------- */

static void stream_transmit(cio_loop *loop, struct slot *slot) {
    if (!stream_wants_output(slot) || (slot->flags & SLOT_BLOCKED) != 0) return;
    struct iovec vectors[IOVECS_PER_SEND];
    size_t total;
    struct msghdr header = {.msg_iov = vectors};
    header.msg_iovlen = (size_t)output_gather(slot, vectors, IOVECS_PER_SEND, &total);
    ssize_t sent;
    do sent = sendmsg(slot->descriptor, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    loop->counters.system_calls++;
    if (sent < 0 && errno != EAGAIN) {
        stream_send_failed(loop, slot, -errno);
        /* What can still be received is looked at now, whatever the last edge said. */
        if (slot->flags & SLOT_WRITE_BROKEN) slot->flags |= SLOT_READABLE;
        return;
    }
    if (sent > 0) stream_sent(loop, slot, (size_t)sent);
    if (sent < (ssize_t)total) write_block(loop, slot);
    else if (slot->output.pending > 0) slot_touch(loop, slot);
}

static void stream_discard(cio_loop *loop, struct slot *slot) {
    ssize_t length;
    do length = recv(slot->descriptor, loop->discard, DISCARD_BYTES, MSG_DONTWAIT);
    while (length < 0 && errno == EINTR);
    loop->counters.system_calls++;
    if (length > 0) {
        slot->output.discarded += (size_t)length;
        if (slot->output.discarded > LINGER_BYTES_MAX) slot_close(loop, slot);
        return;
    }
    slot->flags &= ~(uint32_t)SLOT_READABLE;
    if (length == 0) stream_ended(loop, slot);
    else if (errno != EAGAIN) stream_failed(loop, slot, -errno);
}

/* Receives once, or twice when the end is known to be near. */
static void stream_receive(cio_loop *loop, struct slot *slot) {
    if (slot->pump_flags & PUMP_SPLICING) {
        pump_advance(loop, slot);
        return;
    }
    for (int times = 0; times < 2; times++) {
        if (slot->flags & SLOT_CLOSED) {
            stream_discard(loop, slot);
            return;
        }
        size_t room;
        uint8_t *bytes = receive_area_room(&loop->area, RECEIVE_LEAST, RECEIVE_MOST, &room);
        if (bytes == NULL) return;
        ssize_t length;
        do length = recv(slot->descriptor, bytes, room, MSG_DONTWAIT);
        while (length < 0 && errno == EINTR);
        loop->counters.system_calls++;
        receive_area_take(&loop->area, length > 0 ? (size_t)length : 0);
        if (length < 0) {
            slot->flags &= ~(uint32_t)SLOT_READABLE;
            if (errno != EAGAIN) stream_failed(loop, slot, -errno);
            else if (slot->flags & SLOT_WRITE_BROKEN) stream_failed(loop, slot, slot->error);
            return;
        }
        if (length == 0) {
            slot->flags &= ~(uint32_t)SLOT_READABLE;
            stream_ended(loop, slot);
            return;
        }
        stream_received(loop, slot, bytes, (size_t)length);
        /* A short receive emptied a TCP socket. A Unix socket may stop short before a message with descriptors. */
        bool emptied = (size_t)length < room && (slot->flags & SLOT_UNIX) == 0;
        if (emptied && (slot->flags & (SLOT_HUNG_UP | SLOT_WRITE_BROKEN)) == 0) {
            slot->flags &= ~(uint32_t)SLOT_READABLE;
            return;
        }
        if (!emptied) return;
    }
}

static void stream_service(cio_loop *loop, struct slot *slot) {
    if (!stream_service_connect(loop, slot)) return;
    stream_transmit(loop, slot);
    if (slot->output.pump_from != 0) pump_advance(loop, slot);
    stream_settle(loop, slot);
}

/* What the edges since the last look mean. */
static void stream_edges(cio_loop *loop, struct slot *slot, uint32_t edges) {
    if (slot->flags & (SLOT_FAILED | SLOT_ZOMBIE | SLOT_GONE)) return;
    if (edges & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) slot->flags |= SLOT_HUNG_UP;
    if (edges & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) slot->flags |= SLOT_READABLE;
    if ((edges & (EPOLLOUT | EPOLLERR | EPOLLHUP)) == 0) return;
    if (slot->flags & SLOT_CONNECTING) stream_connect_check(loop, slot);
    if (slot->flags & SLOT_BLOCKED) {
        slot->flags &= ~(uint32_t)SLOT_BLOCKED;
        if (slot->pump_flags & PUMP_BLOCKED) {
            slot->pump_flags &= (uint8_t)~PUMP_BLOCKED;
            pump_target_moved(loop, slot);
        }
        stream_transmit(loop, slot);
        stream_settle(loop, slot);
    }
}

/* ---- The other kinds ------------------------------------------------------------------------------------------------ */

static void listener_receive(cio_loop *loop, struct slot *slot) {
    for (int count = 0; count < ACCEPTS_PER_TURN && loop_has_room(loop); count++) {
        int accepted = accept4(slot->descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        loop->counters.system_calls++;
        if (accepted < 0 && errno == EAGAIN) {
            slot->flags &= ~(uint32_t)SLOT_READABLE;
            return;
        }
        if (!listener_accepted(loop, slot, accepted < 0 ? -errno : accepted)) return;
    }
}

static void message_socket_receive(cio_loop *loop, struct slot *slot) {
    for (int count = 0; count < MESSAGES_PER_TURN; count++) {
        switch (message_receive(loop, slot)) {
        case MESSAGE_MORE: break;
        case MESSAGE_ROOM: return;
        case MESSAGE_EMPTY:
        case MESSAGE_OVER: slot->flags &= ~(uint32_t)SLOT_READABLE; return;
        }
    }
}

static void message_service(cio_loop *loop, struct slot *slot) {
    if ((slot->flags & (SLOT_BLOCKED | SLOT_RETRY)) == SLOT_BLOCKED && message_flush(loop, slot)) {
        write_block(loop, slot);
    }
    if (slot->flags & SLOT_DETACHING) handle_settle(loop, slot);
}

static void message_edges(cio_loop *loop, struct slot *slot, uint32_t edges) {
    if (edges & (EPOLLIN | EPOLLHUP | EPOLLERR)) slot->flags |= SLOT_READABLE;
    if (edges & (EPOLLOUT | EPOLLHUP | EPOLLERR)) message_service(loop, slot);
}

static void poll_service(cio_loop *loop, struct slot *slot) {
    if (!(slot->flags & SLOT_POLL_STALE)) return;
    slot->flags &= ~(uint32_t)SLOT_POLL_STALE;
    int result = registration_write(loop, slot, EPOLL_CTL_MOD);
    if (result == -ENOENT) result = registration_write(loop, slot, EPOLL_CTL_ADD);
    if (result == 0) return;
    slot->flags = (slot->flags & ~(uint32_t)SLOT_READING) | SLOT_FAILED;
    event_add(loop, slot, CIO_EVENT_FAILED, result);
}

static void poll_edges(cio_loop *loop, struct slot *slot, uint32_t edges) {
    if (!(slot->flags & SLOT_READING) || (slot->flags & SLOT_POLL_STALE) != 0) return;
    slot->flags &= ~(uint32_t)SLOT_READING;
    event_add(loop, slot, CIO_EVENT_READY, (int32_t)edges);
}

/* ---- Turn ----------------------------------------------------------------------------------------------------------- */

static bool slot_wants_input(const struct slot *slot) {
    switch (slot->kind) {
    case SLOT_STREAM: return stream_wants_input(slot) || stream_wants_splice(slot);
    case SLOT_LISTENER: return (slot->flags & (SLOT_READING | SLOT_ZOMBIE)) == SLOT_READING;
    case SLOT_MESSAGE: return (slot->flags & (SLOT_ENDED | SLOT_FAILED | SLOT_ZOMBIE | SLOT_DETACHING)) == 0;
    default: return false;
    }
}

static void ready_if_readable(cio_loop *loop, struct slot *slot) {
    if ((slot->flags & SLOT_READABLE) != 0 && slot_wants_input(slot)) list_add(loop, LIST_READY, slot);
}

static void epoll_service(cio_loop *loop, struct slot *slot) {
    uint32_t generation = slot->generation;
    switch (slot->kind) {
    case SLOT_STREAM: stream_service(loop, slot); break;
    case SLOT_MESSAGE: message_service(loop, slot); break;
    case SLOT_POLL: poll_service(loop, slot); break;
    case SLOT_LISTENER: handle_settle(loop, slot); break;
    default: break;
    }
    if (slot->generation == generation) ready_if_readable(loop, slot);
}

static void epoll_begin(cio_loop *loop) { (void)loop; }

/* Notes an edge; the slot is looked at when there is room for its events. */
static void edge_note(cio_loop *loop, const struct epoll_event *event) {
    uint64_t key = event->data.u64;
    struct slot *slot = slot_of_generation(loop, (uint32_t)key, (uint32_t)(key >> 32));
    if (slot == NULL) {
        loop->counters.stale_completions++;
        return;
    }
    slot->edges |= event->events;
    list_add(loop, LIST_READY, slot);
}

static void edges_look(cio_loop *loop, struct slot *slot) {
    uint32_t edges = slot->edges;
    slot->edges = 0;
    switch (slot->kind) {
    case SLOT_STREAM: stream_edges(loop, slot, edges); break;
    case SLOT_MESSAGE: message_edges(loop, slot, edges); break;
    case SLOT_LISTENER: slot->flags |= SLOT_READABLE; break;
    case SLOT_POLL: poll_edges(loop, slot, edges); break;
    default: break;
    }
}

/* Looks at each slot that was ready at the start, once. */
static void ready_process(cio_loop *loop) {
    uint32_t last = loop->lists[LIST_READY].last;
    while (loop_has_room(loop)) {
        struct slot *slot = list_pop(loop, LIST_READY);
        if (slot == NULL) return;
        uint32_t generation = slot->generation;
        bool was_last = (uint32_t)(slot - loop->slots) == last;
        if (slot->edges != 0) edges_look(loop, slot);
        if (slot->generation == generation && (slot->flags & SLOT_READABLE) != 0 && slot_wants_input(slot)) {
            switch (slot->kind) {
            case SLOT_STREAM: stream_receive(loop, slot); break;
            case SLOT_LISTENER: listener_receive(loop, slot); break;
            case SLOT_MESSAGE: message_socket_receive(loop, slot); break;
            default: break;
            }
        }
        if (slot->generation == generation) ready_if_readable(loop, slot);
        if (was_last) return;
    }
}

static int epoll_wait_until(cio_loop *loop, uint64_t deadline_ns) {
    struct epoll_state *state = loop->epoll;
    uint64_t left = deadline_ns;
    if (deadline_ns != 0 && deadline_ns != UINT64_MAX) {
        uint64_t now = cio_clock_monotonic();
        left = deadline_ns > now ? deadline_ns - now : 0;
    }
    loop->counters.system_calls++;
    if (!state->no_pwait2 && left != 0) {
        struct timespec time = {.tv_sec = (time_t)(left / 1000000000ull), .tv_nsec = (long)(left % 1000000000ull)};
        int count = epoll_pwait2(state->descriptor, state->ready, EPOLL_EVENTS, left == UINT64_MAX ? NULL : &time, NULL);
        if (count >= 0 || (errno != ENOSYS && errno != EPERM)) return count < 0 ? -errno : count;
        state->no_pwait2 = true;
    }
    int milliseconds = -1;
    if (left != UINT64_MAX) {
        uint64_t rounded = left / 1000000ull + (left % 1000000ull != 0);
        milliseconds = rounded > 3600000ull ? 3600000 : (int)rounded;
    }
    int count = epoll_wait(state->descriptor, state->ready, EPOLL_EVENTS, milliseconds);
    return count < 0 ? -errno : count;
}

static int epoll_turn(cio_loop *loop, uint64_t deadline_ns) {
    if (loop->lists[LIST_READY].first != NONE) deadline_ns = 0;
    int count = epoll_wait_until(loop, deadline_ns);
    loop->now = cio_clock_monotonic();
    if (count < 0) return count == -EINTR ? 0 : count;
    for (int index = 0; index < count; index++) {
        if (loop->epoll->ready[index].data.u64 == WAKE_KEY) {
            uint64_t value;
            ssize_t ignored = read(loop->wake_descriptor, &value, sizeof value);
            (void)ignored;
            resolver_collect(loop);
        } else {
            edge_note(loop, &loop->epoll->ready[index]);
        }
    }
    ready_process(loop);
    return 0;
}

const struct backend backend_epoll = {
    .number = CIO_BACKEND_EPOLL,
    .create = epoll_create_backend,
    .destroy = epoll_destroy,
    .attach = epoll_attach,
    .service = epoll_service,
    .quiesce = epoll_quiesce,
    .await_room = epoll_await_room,
    .begin = epoll_begin,
    .wait = epoll_turn,
};
