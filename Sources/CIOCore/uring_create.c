/* Making the io_uring backend: the probe that decides whether it can be used, and its end.
 *
 * The probe makes the real ring with its real buffers and really receives through it, because a kernel version says little:
 * container filters, memlock limits and switched-off features all show only in use. A probe that fails undoes everything
 * and says which step failed.
 */
#include "uring.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ENTRIES_DEFAULT 1024u
#define BUFFERS_DEFAULT 128u
/* Small, so that a small message wastes little; a bundle makes long pieces of them all the same. One MiB in all stays
 * within the processor's cache, which matters more than fewer turns. */
#define BUFFER_BYTES_DEFAULT 8192u
#define BUFFERS_LIMIT 32768u
/* What a stream brings at once before it is looked at: the rest may be spliced. Room for a body of 64 KiB and its head. */
#define RECEIVE_LIMIT 73728u
#define DESTROY_WAIT_NS 1000000000ull

void uring_receive(const struct uring_state *state, struct io_uring_sqe *submission, int descriptor) {
    submission->opcode = IORING_OP_RECV;
    submission->fd = descriptor;
    submission->flags = IOSQE_BUFFER_SELECT;
    submission->ioprio = (uint16_t)(IORING_RECV_MULTISHOT | (state->bundles ? RING_RECEIVE_BUNDLE : 0u));
    submission->buf_group = 0;
    submission->splice_fd_in = (int32_t)state->receive_limit; /* optlen: the same place, a newer name */
}

static void probe_submit(struct uring_state *state, int descriptor) {
    struct io_uring_sqe *submission = ring_submission(&state->ring);
    uring_receive(state, submission, descriptor);
    submission->user_data = OPERATION_PROBE;
}

/* Waits for one completion and copies it; -ETIME when none comes. */
static int probe_wait(struct uring_state *state, struct io_uring_cqe *completion) {
    for (int attempt = 0; attempt < 4; attempt++) {
        int result = ring_enter(&state->ring, 1, 250000000ull);
        if (result < 0) return result;
        struct io_uring_cqe *found = ring_completion(&state->ring);
        if (found == NULL) continue;
        *completion = *found;
        ring_advance(&state->ring);
        if (completion->flags & IORING_CQE_F_BUFFER) {
            state->given[state->given_count++] = (uint16_t)(completion->flags >> IORING_CQE_BUFFER_SHIFT);
        }
        return 0;
    }
    return -ETIME;
}

/* Really receives two messages and the end by one multishot request: 0, or -errno and in `what` the step. */
static int probe_receive(struct uring_state *state, const char **what) {
    int pair[2];
    struct io_uring_cqe completion;
    *what = "socketpair";
    int result = cio_socket_pair(SOCK_STREAM, pair);
    if (result < 0) return result;
    probe_submit(state, pair[0]);
    *what = "multishot receive";
    for (int round = 0; round < 2 && result == 0; round++) {
        if (write(pair[1], "probe", 5) != 5) result = -EIO;
        if (result == 0) result = probe_wait(state, &completion);
        if (result == 0 && completion.res < 0) result = completion.res;
        uint32_t wanted = IORING_CQE_F_BUFFER | IORING_CQE_F_MORE;
        if (result == 0 && (completion.res != 5 || (completion.flags & wanted) != wanted)) result = -EOPNOTSUPP;
    }
    bool armed = result == 0;
    close(pair[1]);
    /* The end, with the last completion: the ring is clean again. */
    while (armed && result == 0) {
        result = probe_wait(state, &completion);
        if (result == 0 && (completion.flags & IORING_CQE_F_MORE) == 0) break;
    }
    close(pair[0]);
    return result;
}

/* A ring that does what we never ask of it is not restricted: 0 when it refuses. */
static int probe_restriction(struct uring_state *state) {
    struct io_uring_cqe completion = {0};
    struct io_uring_sqe *submission = ring_submission(&state->ring);
    submission->opcode = IORING_OP_NOP;
    submission->user_data = OPERATION_PROBE;
    int result = probe_wait(state, &completion);
    if (result < 0) return result;
    return completion.res == -EACCES ? 0 : -EPERM;
}

static void uring_free(struct uring_state *state) {
    UNPOISON(state->buffers.base, state->buffers.base_bytes);
    ring_destroy(&state->ring);
    buffer_ring_destroy(&state->buffers);
    free(state->given);
    free(state->headers);
    free(state->vectors);
    free(state);
}

static bool is_power_of_two(uint32_t number) { return number != 0 && (number & (number - 1)) == 0; }

/* Makes the ring and its buffers; `what` names the step that failed. */
static int uring_make(struct uring_state *state, const struct cio_loop_options *options, const char **what) {
    uint32_t entries = options->ring_entries == 0 ? ENTRIES_DEFAULT : options->ring_entries;
    uint32_t count = options->receive_buffers == 0 ? BUFFERS_DEFAULT : options->receive_buffers;
    uint32_t bytes = options->receive_buffer_bytes == 0 ? BUFFER_BYTES_DEFAULT : options->receive_buffer_bytes;
    *what = "sizes";
    if (!is_power_of_two(count) || count > BUFFERS_LIMIT || bytes < 1024 || bytes % 64 != 0) return -EINVAL;
    *what = "memory";
    state->given = calloc(count, sizeof *state->given);
    state->headers = calloc(SEND_HEADERS, sizeof *state->headers);
    state->vectors = calloc(SEND_VECTORS, sizeof *state->vectors);
    if (state->given == NULL || state->headers == NULL || state->vectors == NULL) return -ENOMEM;
    *what = "io_uring_setup";
    int result = ring_create(&state->ring, entries);
    if (result < 0) return result;
    *what = "ring of receive buffers";
    result = buffer_ring_create(&state->ring, &state->buffers, count, bytes);
    if (result < 0) return result;
    *what = "restriction of the ring";
    result = ring_enable(&state->ring);
    if (result == 0) result = probe_restriction(state);
    if (result < 0) return result;
    state->bundles = (state->ring.features & RING_FEATURE_BUNDLE) != 0;
    uint32_t half = count * bytes / 2; /* the kernel ends a receive at once whose limit is more than all buffers hold */
    state->receive_limit = half < RECEIVE_LIMIT ? half : RECEIVE_LIMIT;
    result = probe_receive(state, what);
    if (result != -EINVAL) return result;
    state->receive_limit = 0;
    return probe_receive(state, what);
}

int uring_create(cio_loop *loop, const struct cio_loop_options *options, char *reason, size_t reason_size) {
    struct uring_state *state = calloc(1, sizeof *state);
    if (state == NULL) {
        snprintf(reason, reason_size, "no memory");
        return -ENOMEM;
    }
    state->ring.descriptor = -1;
    const char *what = "";
    int result = uring_make(state, options, &what);
    if (result < 0) {
        snprintf(reason, reason_size, "%s: %s", what, strerror(-result));
        uring_free(state);
        return result;
    }
    bool deferred = (state->ring.setup_flags & IORING_SETUP_DEFER_TASKRUN) != 0;
    snprintf(reason, reason_size, "multishot receive%s%s, %u buffers of %u bytes", state->bundles ? " in bundles" : "",
             deferred ? ", deferred completion" : "", state->buffers.count, state->buffers.bytes);
    POISON(state->buffers.base, state->buffers.base_bytes);
    loop->uring = state;
    uring_begin(loop);
    return 0;
}

/* Stops every request and waits for the completions, for closing the ring does not wait for them. */
void uring_destroy(cio_loop *loop) {
    struct uring_state *state = loop->uring;
    uint32_t in_flight = 0;
    for (uint32_t index = 0; index < loop->slots_used; index++) {
        if (loop->slots[index].kind != SLOT_FREE) in_flight += loop->slots[index].in_flight;
    }
    (void)ring_enter(&state->ring, 0, 0); /* makes room for one more submission */
    struct io_uring_sqe *submission = ring_submission(&state->ring);
    if (submission != NULL) {
        submission->opcode = IORING_OP_ASYNC_CANCEL;
        submission->fd = -1;
        submission->cancel_flags = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY;
        submission->user_data = OPERATION_CANCEL;
    }
    uint64_t end = cio_clock_monotonic() + DESTROY_WAIT_NS;
    while (in_flight > 0 && cio_clock_monotonic() < end) {
        if (ring_enter(&state->ring, 1, DESTROY_WAIT_NS / 10) < 0) break;
        struct io_uring_cqe *completion;
        while ((completion = ring_completion(&state->ring)) != NULL) {
            enum operation operation = (enum operation)(completion->user_data & 0xff);
            if (operation == OPERATION_ACCEPT && completion->res >= 0) close(completion->res);
            bool last = (completion->flags & IORING_CQE_F_MORE) == 0;
            if (last && operation != OPERATION_CANCEL && operation != OPERATION_WAKE && in_flight > 0) in_flight--;
            ring_advance(&state->ring);
        }
    }
    uring_free(state);
    loop->uring = NULL;
}
