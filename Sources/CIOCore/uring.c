/* The io_uring backend.
 *
 * Streams receive by one multishot request each, which takes buffers from a common ring only when bytes come, and have at
 * most one send in flight, gathered from their whole queue. Listeners accept by a multishot request. Message sockets and
 * foreign descriptors are polled, and messages moved by plain system calls, which cost less there. Everything that a turn
 * asks for is submitted by the same enter that waits.
 *
 * Stopping is always ASYNC_CANCEL and waiting for the last completion; what came before that completion is delivered.
 *
 * Invariants:
 *  - SLOT_RECEIVE_ARMED (receive, accept, poll for input) and SLOT_SENDING (send, poll for output) each stand for exactly
 *    one request in flight, so `in_flight` is their number. It is lowered only after the completion has been handled.
 *  - user_data is generation, slot and operation. Since a slot is not freed while a request is in flight, a completion
 *    always finds its slot; should it not, it is counted and its buffers go back.
 *  - Buffers go back to the kernel in the order in which they came, at the next turn. So the ring stays in memory order,
 *    and a bundle of buffers is one piece of memory, or two where the ring wraps around.
 */
#include "uring.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#define MESSAGES_PER_TURN 32

/* ---- Submitting ----------------------------------------------------------------------------------------------------- */

static uint64_t user_data_of(const cio_loop *loop, const struct slot *slot, enum operation operation) {
    return (uint64_t)slot->generation << 32 | (uint64_t)(slot - loop->slots) << 8 | operation;
}

/* A submission, making room if need be; NULL when the kernel takes none now (the slot is serviced again then). */
static struct io_uring_sqe *submission_for(cio_loop *loop, struct slot *slot) {
    struct uring_state *state = loop->uring;
    struct io_uring_sqe *submission = ring_submission(&state->ring);
    if (submission == NULL) {
        (void)ring_enter(&state->ring, 0, 0);
        loop->counters.system_calls++;
        submission = ring_submission(&state->ring);
    }
    if (submission == NULL && slot != NULL) slot_touch(loop, slot);
    return submission;
}

static void receive_arm(cio_loop *loop, struct slot *slot) {
    struct io_uring_sqe *submission = submission_for(loop, slot);
    if (submission == NULL) return;
    uring_receive(loop->uring, submission, slot->descriptor);
    submission->user_data = user_data_of(loop, slot, OPERATION_RECEIVE);
    slot->flags |= SLOT_RECEIVE_ARMED;
    slot->in_flight++;
}

static void accept_arm(cio_loop *loop, struct slot *slot) {
    struct io_uring_sqe *submission = submission_for(loop, slot);
    if (submission == NULL) return;
    submission->opcode = IORING_OP_ACCEPT;
    submission->fd = slot->descriptor;
    submission->ioprio = IORING_ACCEPT_MULTISHOT;
    submission->accept_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
    submission->user_data = user_data_of(loop, slot, OPERATION_ACCEPT);
    slot->flags |= SLOT_RECEIVE_ARMED;
    slot->in_flight++;
}

static void poll_arm(cio_loop *loop, struct slot *slot, uint32_t mask, enum operation operation) {
    struct io_uring_sqe *submission = submission_for(loop, slot);
    if (submission == NULL) return;
    submission->opcode = IORING_OP_POLL_ADD;
    submission->fd = slot->descriptor;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    mask = mask << 16 | mask >> 16;
#endif
    submission->poll32_events = mask;
    submission->user_data = user_data_of(loop, slot, operation);
    slot->flags |= operation == OPERATION_POLL_IN ? SLOT_RECEIVE_ARMED : SLOT_SENDING;
    slot->pump_flags |= operation == OPERATION_POLL_IN ? STREAM_POLLS_IN : STREAM_POLLS_OUT;
    slot->in_flight++;
}

/* Asks the kernel to end the request; its completion still comes. */
static void request_stop(cio_loop *loop, struct slot *slot, enum operation operation, uint32_t stopped_flag) {
    struct io_uring_sqe *submission = submission_for(loop, slot);
    if (submission == NULL) return;
    submission->opcode = IORING_OP_ASYNC_CANCEL;
    submission->fd = -1;
    submission->addr = user_data_of(loop, slot, operation);
    submission->user_data = OPERATION_CANCEL;
    slot->flags |= stopped_flag;
}

static enum operation input_operation(const struct slot *slot) {
    switch (slot->kind) {
    case SLOT_STREAM: return (slot->pump_flags & STREAM_POLLS_IN) ? OPERATION_POLL_IN : OPERATION_RECEIVE;
    case SLOT_LISTENER: return OPERATION_ACCEPT;
    default: return OPERATION_POLL_IN;
    }
}

static void input_stop(cio_loop *loop, struct slot *slot) {
    if ((slot->flags & (SLOT_RECEIVE_ARMED | SLOT_RECEIVE_STOPPED)) != SLOT_RECEIVE_ARMED) return;
    request_stop(loop, slot, input_operation(slot), SLOT_RECEIVE_STOPPED);
}

static void output_stop(cio_loop *loop, struct slot *slot) {
    if ((slot->flags & (SLOT_SENDING | SLOT_SEND_STOPPED)) != SLOT_SENDING) return;
    bool polled = (slot->pump_flags & STREAM_POLLS_OUT) != 0;
    request_stop(loop, slot, polled ? OPERATION_POLL_OUT : OPERATION_SEND, SLOT_SEND_STOPPED);
}

static bool uring_quiesce(cio_loop *loop, struct slot *slot) {
    list_remove(loop, LIST_READY, slot);
    input_stop(loop, slot);
    output_stop(loop, slot);
    return slot->in_flight == 0;
}

static int uring_attach(cio_loop *loop, struct slot *slot) {
    (void)loop;
    slot->flags &= ~(uint32_t)SLOT_POLL_STALE;
    return 0;
}

static void stream_transmit(cio_loop *loop, struct slot *slot) {
    struct uring_state *state = loop->uring;
    if (state->headers_used == SEND_HEADERS || state->vectors_used + IOVECS_PER_SEND > SEND_VECTORS) {
        (void)ring_enter(&state->ring, 0, 0);
        loop->counters.system_calls++;
        if (ring_unsubmitted(&state->ring) > 0) {
            slot_touch(loop, slot);
            return;
        }
        state->headers_used = state->vectors_used = 0;
    }
    struct io_uring_sqe *submission = submission_for(loop, slot);
    if (submission == NULL) return;
    struct iovec *vectors = state->vectors + state->vectors_used;
    size_t total;
    int count = output_gather(slot, vectors, IOVECS_PER_SEND, &total);
    submission->fd = slot->descriptor;
    submission->msg_flags = MSG_NOSIGNAL;
    submission->user_data = user_data_of(loop, slot, OPERATION_SEND);
    if (count == 1) {
        submission->opcode = IORING_OP_SEND;
        submission->addr = (uint64_t)(uintptr_t)vectors[0].iov_base;
        submission->len = (uint32_t)vectors[0].iov_len;
    } else {
        struct msghdr *header = &state->headers[state->headers_used++];
        *header = (struct msghdr){.msg_iov = vectors, .msg_iovlen = (size_t)count};
        state->vectors_used += (uint32_t)count;
        submission->opcode = IORING_OP_SENDMSG;
        submission->addr = (uint64_t)(uintptr_t)header;
        submission->len = 1;
    }
    slot->flags |= SLOT_SENDING;
    slot->in_flight++;
}

/* ---- Servicing ------------------------------------------------------------------------------------------------------ */

/* A pump that splices from the stream found it empty. */
static void splice_await(cio_loop *loop, struct slot *slot) {
    if ((slot->pump_flags & PUMP_AWAITS) == 0 || (slot->flags & SLOT_RECEIVE_ARMED) != 0) return;
    poll_arm(loop, slot, POLLIN | POLLRDHUP, OPERATION_POLL_IN);
}

static void uring_await_room(cio_loop *loop, struct slot *to) { slot_touch(loop, to); }

static void stream_service(cio_loop *loop, struct slot *slot) {
    if (!stream_service_connect(loop, slot)) return;
    if (slot->flags & SLOT_CONNECTING) {
        if (!(slot->flags & SLOT_SENDING)) poll_arm(loop, slot, POLLOUT, OPERATION_POLL_OUT);
        return;
    }
    if (stream_wants_output(slot) && (slot->flags & SLOT_SENDING) == 0) stream_transmit(loop, slot);
    if (slot->output.pump_from != 0) pump_advance(loop, slot);
    if (slot->flags & (SLOT_FAILED | SLOT_ZOMBIE)) return;
    if ((slot->pump_flags & PUMP_BLOCKED) != 0 && (slot->flags & SLOT_SENDING) == 0) {
        poll_arm(loop, slot, POLLOUT, OPERATION_POLL_OUT);
    }
    if (stream_wants_splice(slot)) splice_await(loop, slot);
    else if (!stream_wants_input(slot)) input_stop(loop, slot);
    else if (!(slot->flags & SLOT_RECEIVE_ARMED)) receive_arm(loop, slot);
    stream_settle(loop, slot);
}

static void listener_service(cio_loop *loop, struct slot *slot) {
    if (slot->flags & SLOT_DETACHING) handle_settle(loop, slot);
    else if (!(slot->flags & SLOT_READING)) input_stop(loop, slot);
    else if (!(slot->flags & SLOT_RECEIVE_ARMED)) accept_arm(loop, slot);
}

static void message_service(cio_loop *loop, struct slot *slot) {
    if ((slot->flags & (SLOT_BLOCKED | SLOT_RETRY | SLOT_SENDING)) == SLOT_BLOCKED && message_flush(loop, slot)) {
        poll_arm(loop, slot, POLLOUT, OPERATION_POLL_OUT);
    }
    if (slot->flags & SLOT_DETACHING) {
        handle_settle(loop, slot);
        return;
    }
    if ((slot->flags & (SLOT_RECEIVE_ARMED | SLOT_READY | SLOT_ENDED)) == 0) {
        poll_arm(loop, slot, POLLIN, OPERATION_POLL_IN);
    }
}

static void poll_service(cio_loop *loop, struct slot *slot) {
    if (!(slot->flags & SLOT_READING)) return;
    if (!(slot->flags & SLOT_RECEIVE_ARMED)) {
        slot->flags &= ~(uint32_t)SLOT_POLL_STALE;
        poll_arm(loop, slot, slot->mask, OPERATION_POLL_IN);
    } else if (slot->flags & SLOT_POLL_STALE) {
        input_stop(loop, slot); /* armed anew with the new mask after the last completion */
    }
}

static void uring_service(cio_loop *loop, struct slot *slot) {
    if (slot->flags & (SLOT_FAILED | SLOT_ZOMBIE)) {
        /* A stop found no room among the submissions. */
        if (uring_quiesce(loop, slot)) slot_quiet(loop, slot);
        return;
    }
    switch (slot->kind) {
    case SLOT_STREAM: stream_service(loop, slot); break;
    case SLOT_LISTENER: listener_service(loop, slot); break;
    case SLOT_MESSAGE: message_service(loop, slot); break;
    case SLOT_POLL: poll_service(loop, slot); break;
    default: break;
    }
}

/* ---- Completions ---------------------------------------------------------------------------------------------------- */

/* The number of buffers of a completion, and the pieces of memory they make up. */
static uint32_t buffers_of(const struct buffer_ring *buffers, const struct io_uring_cqe *completion, uint32_t *pieces) {
    *pieces = 0;
    if (!(completion->flags & IORING_CQE_F_BUFFER)) return 0;
    uint32_t length = completion->res > 0 ? (uint32_t)completion->res : 0;
    uint32_t count = length <= buffers->bytes ? 1 : (length + buffers->bytes - 1) / buffers->bytes;
    uint16_t buffer = (uint16_t)(completion->flags >> IORING_CQE_BUFFER_SHIFT);
    *pieces = 1;
    for (uint32_t index = 1; index < count; index++) {
        uint16_t next = buffer_ring_after(buffers, buffer);
        if (next != buffer + 1) (*pieces)++;
        buffer = next;
    }
    return count;
}

/* Notes the buffers as given out and, when the slot wants them, makes one event for each piece of memory. */
static void receive_deliver(cio_loop *loop, struct slot *slot, const struct io_uring_cqe *completion) {
    struct uring_state *state = loop->uring;
    uint32_t pieces;
    uint32_t count = buffers_of(&state->buffers, completion, &pieces);
    uint32_t left = completion->res > 0 ? (uint32_t)completion->res : 0;
    uint16_t buffer = (uint16_t)(completion->flags >> IORING_CQE_BUFFER_SHIFT);
    uint8_t *start = NULL;
    size_t length = 0;
    for (uint32_t index = 0; index < count; index++) {
        uint8_t *data = buffer_ring_data(&state->buffers, buffer);
        uint32_t part = left < state->buffers.bytes ? left : state->buffers.bytes;
        UNPOISON(data, part);
        if (start != NULL && start + length != data) {
            if (slot != NULL) stream_received(loop, slot, start, length);
            start = NULL;
        }
        if (start == NULL) {
            start = data;
            length = 0;
        }
        length += part;
        left -= part;
        state->given[state->given_count++] = buffer;
        buffer = buffer_ring_after(&state->buffers, buffer);
    }
    if (length > 0 && slot != NULL) stream_received(loop, slot, start, length);
}

static void receive_completed(cio_loop *loop, struct slot *slot, const struct io_uring_cqe *completion) {
    int result = completion->res;
    receive_deliver(loop, slot, completion);
    if (result > 0) {
        bool lingers = slot != NULL && (slot->flags & SLOT_CLOSED) != 0 && (slot->flags & SLOT_ZOMBIE) == 0;
        if (lingers && slot->output.discarded > LINGER_BYTES_MAX) slot_close(loop, slot);
        return;
    }
    switch (result) {
    case 0: stream_ended(loop, slot); break;
    case -ENOBUFS: loop->counters.receive_buffer_shortages++; break;
    case -ECANCELED:
    case -EINTR:
    case -EAGAIN: break;
    default: stream_failed(loop, slot, result); break;
    }
}

static void send_completed(cio_loop *loop, struct slot *slot, int result) {
    if (result >= 0) stream_sent(loop, slot, (size_t)result);
    else if (result != -ECANCELED && result != -EAGAIN && result != -EINTR) stream_send_failed(loop, slot, result);
}

static void messages_receive(cio_loop *loop, struct slot *slot) {
    for (int count = 0; count < MESSAGES_PER_TURN; count++) {
        switch (message_receive(loop, slot)) {
        case MESSAGE_MORE: break;
        case MESSAGE_EMPTY: slot_touch(loop, slot); return;
        case MESSAGE_OVER: return;
        case MESSAGE_ROOM: list_add(loop, LIST_READY, slot); return;
        }
    }
    list_add(loop, LIST_READY, slot);
}

static void poll_in_completed(cio_loop *loop, struct slot *slot, int result) {
    if (slot->flags & (SLOT_ZOMBIE | SLOT_FAILED)) return;
    if (slot->kind == SLOT_MESSAGE) {
        if (result != -ECANCELED) messages_receive(loop, slot);
        return;
    }
    if (slot->kind == SLOT_STREAM) {
        slot_touch(loop, slot);
        if (result != -ECANCELED) pump_advance(loop, slot);
        return;
    }
    if (result == -ECANCELED || (slot->flags & SLOT_POLL_STALE) != 0) {
        slot_touch(loop, slot);
    } else if (result < 0) {
        slot->flags |= SLOT_FAILED;
        event_add(loop, slot, CIO_EVENT_FAILED, result);
    } else if (slot->flags & SLOT_READING) {
        slot->flags &= ~(uint32_t)SLOT_READING;
        event_add(loop, slot, CIO_EVENT_READY, result);
    }
}

static void poll_out_completed(cio_loop *loop, struct slot *slot, int result) {
    if ((slot->flags & (SLOT_ZOMBIE | SLOT_FAILED)) != 0 || result == -ECANCELED) return;
    if (slot->kind == SLOT_MESSAGE) {
        slot_touch(loop, slot);
    } else if (slot->flags & SLOT_CONNECTING) {
        stream_connect_check(loop, slot);
    } else {
        slot->pump_flags &= (uint8_t)~PUMP_BLOCKED;
        pump_target_moved(loop, slot);
    }
}

/* The end of one request, or one of several completions of a multishot one. */
static void completion_handle(cio_loop *loop, struct slot *slot, enum operation operation,
                              const struct io_uring_cqe *completion) {
    bool last = (completion->flags & IORING_CQE_F_MORE) == 0;
    bool output = operation == OPERATION_SEND || operation == OPERATION_POLL_OUT;
    if (last) {
        slot->flags &= ~(uint32_t)(output ? SLOT_SENDING | SLOT_SEND_STOPPED : SLOT_RECEIVE_ARMED | SLOT_RECEIVE_STOPPED);
        slot->pump_flags &= (uint8_t) ~(output ? STREAM_POLLS_OUT : STREAM_POLLS_IN);
    }
    switch (operation) {
    case OPERATION_RECEIVE: receive_completed(loop, slot, completion); break;
    case OPERATION_SEND: send_completed(loop, slot, completion->res); break;
    case OPERATION_ACCEPT:
        if (completion->res != -ECANCELED) (void)listener_accepted(loop, slot, completion->res);
        break;
    case OPERATION_POLL_IN: poll_in_completed(loop, slot, completion->res); break;
    case OPERATION_POLL_OUT: poll_out_completed(loop, slot, completion->res); break;
    default: break;
    }
    if (!last) return;
    slot->in_flight--;
    if (slot->in_flight == 0 && (slot->flags & (SLOT_ZOMBIE | SLOT_FAILED)) != 0) {
        slot_quiet(loop, slot);
        return;
    }
    if (slot->flags & (SLOT_ZOMBIE | SLOT_FAILED)) return;
    if (slot->kind == SLOT_STREAM) {
        bool more = (stream_wants_output(slot) && (slot->flags & SLOT_SENDING) == 0) ||
                    (stream_wants_input(slot) && (slot->flags & SLOT_RECEIVE_ARMED) == 0) ||
                    (slot->pump_flags & PUMP_STOPPING) != 0;
        if (more) slot_touch(loop, slot);
        stream_settle(loop, slot);
    } else if (slot->kind == SLOT_LISTENER && (slot->flags & SLOT_READING) != 0) {
        slot_touch(loop, slot);
    } else if (slot->flags & SLOT_DETACHING) {
        handle_settle(loop, slot);
    }
}

static void wake_completed(cio_loop *loop, const struct io_uring_cqe *completion) {
    if (!(completion->flags & IORING_CQE_F_MORE)) loop->uring->wake_armed = false;
    uint64_t value;
    ssize_t ignored = read(loop->wake_descriptor, &value, sizeof value);
    (void)ignored;
    resolver_collect(loop);
}

/* Works through completions while there is room for their events. */
static void completions_harvest(cio_loop *loop) {
    struct uring_state *state = loop->uring;
    struct io_uring_cqe *completion;
    while (loop_has_room(loop) && (completion = ring_completion(&state->ring)) != NULL) {
        uint64_t key = completion->user_data;
        enum operation operation = (enum operation)(key & 0xff);
        uint32_t pieces;
        (void)buffers_of(&state->buffers, completion, &pieces);
        if (pieces + EVENTS_PER_SLOT > loop->events_max - loop->events_count) {
            if (loop->events_count == 0) abort(); /* the buffers are in memory order: see above */
            return;
        }
        if (operation == OPERATION_WAKE) {
            wake_completed(loop, completion);
        } else if (operation != OPERATION_CANCEL) {
            struct slot *slot = slot_of_generation(loop, (uint32_t)(key >> 8) & 0xffffffu, (uint32_t)(key >> 32));
            if (slot != NULL) {
                completion_handle(loop, slot, operation, completion);
            } else {
                loop->counters.stale_completions++;
                receive_deliver(loop, NULL, completion);
            }
        }
        ring_advance(&state->ring);
    }
}

/* ---- Turn ----------------------------------------------------------------------------------------------------------- */

void uring_begin(cio_loop *loop) {
    struct uring_state *state = loop->uring;
    if (state->given_count == 0) return;
    for (uint32_t index = 0; index < state->given_count; index++) {
        POISON(buffer_ring_data(&state->buffers, state->given[index]), state->buffers.bytes);
        buffer_ring_offer(&state->buffers, state->given[index]);
    }
    state->given_count = 0;
    buffer_ring_publish(&state->buffers);
}

static void wake_arm(cio_loop *loop) {
    struct uring_state *state = loop->uring;
    struct io_uring_sqe *submission = submission_for(loop, NULL);
    if (submission == NULL) return;
    submission->opcode = IORING_OP_POLL_ADD;
    submission->fd = loop->wake_descriptor;
    submission->len = IORING_POLL_ADD_MULTI;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    submission->poll32_events = (uint32_t)POLLIN << 16;
#else
    submission->poll32_events = POLLIN;
#endif
    submission->user_data = OPERATION_WAKE;
    state->wake_armed = true;
}

/* Message sockets that had more to give than fitted into a turn. */
static void ready_process(cio_loop *loop) {
    uint32_t last = loop->lists[LIST_READY].last;
    while (loop_has_room(loop)) {
        struct slot *slot = list_pop(loop, LIST_READY);
        if (slot == NULL) return;
        bool was_last = (uint32_t)(slot - loop->slots) == last;
        messages_receive(loop, slot);
        if (was_last) return;
    }
}

static int uring_turn(cio_loop *loop, uint64_t deadline_ns) {
    struct uring_state *state = loop->uring;
    if (!state->wake_armed) wake_arm(loop);
    bool ready = loop->lists[LIST_READY].first != NONE;
    uint32_t least = deadline_ns == 0 || ready || ring_completion(&state->ring) != NULL ? 0 : 1;
    uint64_t timeout = UINT64_MAX;
    if (least > 0 && deadline_ns != UINT64_MAX) {
        uint64_t now = cio_clock_monotonic();
        timeout = deadline_ns > now ? deadline_ns - now : 0;
    }
    int result = ring_enter(&state->ring, least, timeout);
    loop->counters.system_calls++;
    if (result < 0) return result;
    if (ring_unsubmitted(&state->ring) == 0) state->headers_used = state->vectors_used = 0;
    loop->now = cio_clock_monotonic();
    if (ready) ready_process(loop);
    completions_harvest(loop);
    return 0;
}

const struct backend backend_uring = {
    .number = CIO_BACKEND_IO_URING,
    .create = uring_create,
    .destroy = uring_destroy,
    .attach = uring_attach,
    .service = uring_service,
    .quiesce = uring_quiesce,
    .await_room = uring_await_room,
    .begin = uring_begin,
    .wait = uring_turn,
};
