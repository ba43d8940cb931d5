/* Pumps: established flows that are carried here, with no caller in the loop.
 *
 *   copying ──a long run──► stopping ──nothing received or sent is in flight──► splicing
 *      ▲                                                                            │
 *      └──────────────── several small pieces, or no pipe of use ───────────────────┘
 *
 * Small exchanges are received and sent: the source's bytes are queued at the target as if the caller had written them.
 * A run of large receives, or a length that is known to be large, goes over to splice(2), which moves pages from socket
 * to socket through a pipe and touches no byte. The splices are plain non-blocking calls made when the source is ready,
 * because the ring would hand each to a thread of its own.
 *
 * Back-pressure: a source is held (not read) while its target's queue is above the high mark or the target took less than
 * the pipe holds. A held source is looked at for a reset now and then, as every stream that is not read.
 *
 * Invariants: a pump has a pipe only while bytes lie in it or a splice is at work, so idle flows hold none. A pipe goes
 * back to the pool only when it is empty. Bytes go through the pipe only while the target's queue is empty, so order is
 * kept. The source's and the target's `pump_from` and `pump_to` name the pump exactly as long as it lives; `to` is NONE
 * once the target is gone, and from then on the source stays held.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* A run of so many bytes, received in turns of RUN_TURN_BYTES at least, or a length of LENGTH_SPLICED: splice. */
#define RUN_BYTES 131072u
#define RUN_TURN_BYTES 16384u
#define LENGTH_SPLICED 65536u
/* So many pieces one after the other below SMALL_BYTES: copy again. */
#define SMALL_BYTES 8192u
#define SMALL_PIECES 8u
/* The most that one pump moves in a turn, before others have theirs. */
#define TURN_BYTES_MAX 1048576u
#define PIPE_BYTES_WANTED 1048576
/* Splicing through less costs more than copying. */
#define PIPE_BYTES_LEAST 65536
#define PIPE_RETRY_NS 1000000000ull
#define PIPES_IDLE_NS 1000000000ull
#define PUMPS_FIRST 16u

struct pump {
    uint32_t from, to; /* slots; `to` may be NONE */
    uint32_t next;     /* free list */
    uint32_t in_pipe;
    struct pipe pipe; /* read is -1: none */
    bool ended;       /* the source's FIN was seen; bytes may still be in the pipe */
    uint8_t small;    /* small pieces in a row */
    uint32_t turn_bytes;
    uint64_t turn; /* to which turn_bytes belong */
    uint64_t run;
    uint64_t left; /* still to be taken from the source; UINT64_MAX: up to its end */
    uint64_t copy_until;
};

/* ---- Pipes ---------------------------------------------------------------------------------------------------------- */

static void pipe_close(cio_loop *loop, struct pipe *pipe) {
    close(pipe->read);
    close(pipe->write);
    pipe->read = pipe->write = -1;
    loop->counters.pipes--;
}

/* The largest size that the kernel grants, from what is wanted down to what is of use. */
static int pipe_size(int descriptor) {
    for (int wanted = PIPE_BYTES_WANTED; wanted > PIPE_BYTES_LEAST; wanted /= 4) {
        if (fcntl(descriptor, F_SETPIPE_SZ, wanted) >= wanted) break;
    }
    return fcntl(descriptor, F_GETPIPE_SZ);
}

static bool pipe_make(cio_loop *loop, struct pipe *pipe) {
    int ends[2];
    loop->counters.system_calls += 3;
    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) return false;
    loop->counters.pipes++;
    int size = pipe_size(ends[1]);
    *pipe = (struct pipe){.read = ends[0], .write = ends[1], .bytes = size > 0 ? (uint32_t)size : 0};
    if (size >= PIPE_BYTES_LEAST) return true;
    pipe_close(loop, pipe);
    return false;
}

static bool pipe_lease(cio_loop *loop, struct pipe *pipe) {
    struct pipe_pool *pool = &loop->pipes;
    pool->used_at = loop->now;
    if (pool->free_count > 0) {
        *pipe = pool->free[--pool->free_count];
        return true;
    }
    if (loop->counters.pipes < pool->max && loop->now >= pool->retry_at) {
        if (pipe_make(loop, pipe)) return true;
        pool->retry_at = loop->now + PIPE_RETRY_NS;
    }
    loop->counters.pipe_shortages++;
    return false;
}

/* Gives the pump's pipe back; one with bytes in it is closed, and they are lost. */
static void pipe_return(cio_loop *loop, struct pump *pump) {
    if (pump->pipe.read < 0) return;
    if (pump->in_pipe > 0) {
        pipe_close(loop, &pump->pipe);
        pump->in_pipe = 0;
    } else {
        loop->pipes.free[loop->pipes.free_count++] = pump->pipe;
        pump->pipe.read = pump->pipe.write = -1;
    }
}

uint64_t pipes_expire(cio_loop *loop) {
    struct pipe_pool *pool = &loop->pipes;
    if (pool->free_count == 0) return UINT64_MAX;
    uint64_t end = pool->used_at + PIPES_IDLE_NS;
    if (end > loop->now) return end;
    while (pool->free_count > 0) pipe_close(loop, &pool->free[--pool->free_count]);
    return UINT64_MAX;
}

/* ---- The table ------------------------------------------------------------------------------------------------------ */

int pump_create(cio_loop *loop, const struct cio_loop_options *options) {
    if (options->pipes_max > PIPES_LIMIT) return -EINVAL;
    if (options->pipes_max > 0) cio_signal_ignore_pipe();
    loop->pumps_free = NONE;
    loop->pipes.max = options->pipes_max;
    loop->pipes.free = calloc(options->pipes_max + 1u, sizeof *loop->pipes.free);
    return loop->pipes.free == NULL ? -ENOMEM : 0;
}

void pump_destroy(cio_loop *loop) {
    for (uint32_t index = 0; index < loop->pumps_used; index++) {
        if (loop->pumps[index].pipe.read >= 0) pipe_close(loop, &loop->pumps[index].pipe);
    }
    while (loop->pipes.free_count > 0) pipe_close(loop, &loop->pipes.free[--loop->pipes.free_count]);
    free(loop->pipes.free);
    free(loop->pumps);
}

/* The pump of a slot's `pump_from` or `pump_to`. */
static struct pump *pump_of(const cio_loop *loop, uint32_t number) {
    return number == 0 ? NULL : &loop->pumps[number - 1];
}

static struct slot *source_of(const cio_loop *loop, const struct pump *pump) { return &loop->slots[pump->from]; }

static struct slot *target_of(const cio_loop *loop, const struct pump *pump) {
    return pump->to == NONE ? NULL : &loop->slots[pump->to];
}

/* A record of the table; NULL when memory is out. */
static struct pump *record_take(cio_loop *loop) {
    uint32_t index = loop->pumps_free;
    if (index != NONE) {
        loop->pumps_free = loop->pumps[index].next;
        return &loop->pumps[index];
    }
    if (loop->pumps_used == loop->pumps_room) {
        uint32_t room = loop->pumps_room == 0 ? PUMPS_FIRST : loop->pumps_room * 2;
        struct pump *grown = realloc(loop->pumps, room * sizeof *grown);
        if (grown == NULL) return NULL;
        loop->pumps = grown;
        loop->pumps_room = room;
    }
    return &loop->pumps[loop->pumps_used++];
}

static bool stream_takes(const struct slot *slot) {
    return (slot->flags & (SLOT_FINISHING | SLOT_DETACHING | SLOT_WRITE_BROKEN | SLOT_FAILED)) == 0;
}

int cio_pump_start(cio_loop *loop, cio_handle source, cio_handle target, uint64_t length) {
    struct slot *from = slot_find(loop, source, SLOT_STREAM);
    struct slot *to = slot_find(loop, target, SLOT_STREAM);
    if (from == NULL || to == NULL) return -EBADF;
    if (from == to || length == 0) return -EINVAL;
    if (from->output.pump_from != 0 || to->output.pump_to != 0) return -EBUSY;
    if ((from->flags & (SLOT_ENDED | SLOT_FAILED | SLOT_DETACHING)) != 0 || !stream_takes(to)) return -EPIPE;
    struct pump *pump = record_take(loop);
    if (pump == NULL) return -ENOMEM;
    *pump = (struct pump){.from = (uint32_t)(from - loop->slots), .to = (uint32_t)(to - loop->slots), .left = length};
    pump->pipe.read = pump->pipe.write = -1;
    from->output.pump_from = to->output.pump_to = (uint32_t)(pump - loop->pumps) + 1;
    loop->counters.pumps++;
    if (length != UINT64_MAX && length >= LENGTH_SPLICED && loop->pipes.max > 0) from->pump_flags |= PUMP_STOPPING;
    slot_touch(loop, from);
    return 0;
}

/* Takes the pump out of both streams and gives its record back. */
static void pump_end(cio_loop *loop, struct pump *pump) {
    struct slot *from = source_of(loop, pump);
    struct slot *to = target_of(loop, pump);
    pipe_return(loop, pump);
    if ((from->pump_flags & PUMP_HELD) != 0 && (from->flags & SLOT_READING) != 0) list_remove(loop, LIST_PAUSED, from);
    from->pump_flags &= (uint8_t) ~(PUMP_HELD | PUMP_STOPPING | PUMP_SPLICING | PUMP_AWAITS);
    from->output.pump_from = 0;
    if (to != NULL) {
        to->pump_flags &= (uint8_t)~PUMP_BLOCKED;
        to->output.pump_to = 0;
    }
    pump->next = loop->pumps_free;
    loop->pumps_free = (uint32_t)(pump - loop->pumps);
    loop->counters.pumps--;
    if (from->kind == SLOT_STREAM && (from->flags & (SLOT_ZOMBIE | SLOT_GONE)) == 0) slot_touch(loop, from);
}

void cio_pump_stop(cio_loop *loop, cio_handle source) {
    struct slot *from = slot_find(loop, source, SLOT_STREAM);
    if (from != NULL && from->output.pump_from != 0) pump_end(loop, pump_of(loop, from->output.pump_from));
}

/* ---- Holding the source --------------------------------------------------------------------------------------------- */

static void source_hold(cio_loop *loop, struct slot *from) {
    if (from->pump_flags & PUMP_HELD) return;
    from->pump_flags |= PUMP_HELD;
    if (stream_is_read(from)) {
        from->timed_since = loop->now;
        list_add(loop, LIST_PAUSED, from);
    }
    slot_touch(loop, from);
}

static void source_release(cio_loop *loop, struct slot *from) {
    from->pump_flags &= (uint8_t)~PUMP_HELD;
    if (from->flags & SLOT_READING) list_remove(loop, LIST_PAUSED, from);
    slot_touch(loop, from);
}

void pump_target_moved(cio_loop *loop, struct slot *to) {
    struct pump *pump = pump_of(loop, to->output.pump_to);
    if (pump == NULL || (to->pump_flags & PUMP_BLOCKED) != 0) return;
    struct slot *from = source_of(loop, pump);
    if (from->pump_flags & PUMP_HELD) {
        if (to->output.pending <= to->output.mark_low) source_release(loop, from);
    } else if ((from->pump_flags & PUMP_STOPPING) != 0 && to->output.pending == 0) {
        slot_touch(loop, from);
    }
}

/* ---- Ends ----------------------------------------------------------------------------------------------------------- */

/* One splice: how many bytes, or -errno. */
static ssize_t pipe_splice(cio_loop *loop, int from, int to, size_t length) {
    ssize_t result;
    do result = splice(from, NULL, to, NULL, length, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
    while (result < 0 && errno == EINTR);
    loop->counters.system_calls++;
    return result < 0 ? -errno : result;
}

/* All of a known length was taken: what lies in the pipe is the target's, whatever happens to the source. */
static void pipe_copy_out(cio_loop *loop, struct pump *pump, struct slot *to) {
    uint8_t piece[16384];
    while (pump->in_pipe > 0) {
        ssize_t got = read(pump->pipe.read, piece, sizeof piece);
        loop->counters.system_calls++;
        if (got <= 0) return;
        pump->in_pipe -= (uint32_t)got;
        if (output_append(loop, to, piece, (size_t)got) < 0) return;
    }
}

void pump_source_over(cio_loop *loop, struct slot *from) {
    struct pump *pump = pump_of(loop, from->output.pump_from);
    if (pump == NULL) return;
    struct slot *to = target_of(loop, pump);
    if (pump->in_pipe > 0 && to != NULL && pump->left == 0) pipe_copy_out(loop, pump, to);
    if (pump->in_pipe > 0 && to != NULL && stream_takes(to)) {
        /* What came together with a reset goes out before it, as far as the target takes it at once. */
        ssize_t moved = pipe_splice(loop, pump->pipe.read, to->descriptor, pump->in_pipe);
        if (moved > 0) {
            pump->in_pipe -= (uint32_t)moved;
            to->output.totals.sent += (uint64_t)moved;
        }
    }
    pump_end(loop, pump);
}

void pump_target_over(cio_loop *loop, struct slot *to) {
    struct pump *pump = pump_of(loop, to->output.pump_to);
    if (pump == NULL) return;
    struct slot *from = source_of(loop, pump);
    to->output.pump_to = 0;
    to->pump_flags &= (uint8_t)~PUMP_BLOCKED;
    pump->to = NONE;
    pipe_return(loop, pump);
    source_hold(loop, from);
}

size_t pump_underway(const cio_loop *loop, const struct slot *to) {
    const struct pump *pump = pump_of(loop, to->output.pump_to);
    return pump == NULL ? 0 : pump->in_pipe;
}

/* Everything was handed over: PUMPED. */
static void pump_complete(cio_loop *loop, struct pump *pump) {
    struct slot *from = source_of(loop, pump);
    pump_end(loop, pump);
    event_add(loop, from, CIO_EVENT_PUMPED, 0);
}

static void count_taken(const cio_loop *loop, struct slot *from, size_t length) {
    from->output.totals.pumped += length;
    from->output.totals.pumped_at = loop->now;
}

/* ---- Copying -------------------------------------------------------------------------------------------------------- */

static void give(cio_loop *loop, struct pump *pump, const uint8_t *data, size_t length) {
    struct slot *to = target_of(loop, pump);
    if (!stream_takes(to)) return;
    ssize_t result = output_append(loop, to, data, length);
    if (result < 0) stream_failed(loop, to, (int)result);
    else if (to->output.pending > to->output.mark_high) source_hold(loop, source_of(loop, pump));
}

/* Whether so much came in a row that splicing pays. */
static bool run_is_long(cio_loop *loop, struct pump *pump, size_t length) {
    if (pump->turn != loop->counters.turns) {
        if (pump->turn_bytes < RUN_TURN_BYTES) pump->run = 0;
        pump->turn = loop->counters.turns;
        pump->turn_bytes = 0;
    }
    pump->turn_bytes += (uint32_t)length;
    pump->run += length;
    return pump->run >= RUN_BYTES && pump->left >= LENGTH_SPLICED;
}

size_t pump_take(cio_loop *loop, struct slot *from, uint8_t *data, size_t length) {
    struct pump *pump = pump_of(loop, from->output.pump_from);
    if (length > pump->left) length = (size_t)pump->left;
    if (pump->left != UINT64_MAX) pump->left -= length;
    count_taken(loop, from, length);
    loop->counters.pump_bytes_copied += length;
    if (pump->to != NONE) give(loop, pump, data, length);
    if (pump->left == 0) {
        pump_complete(loop, pump);
    } else if (pump->to != NONE && run_is_long(loop, pump, length) && loop->pipes.max > 0 && loop->now >= pump->copy_until) {
        from->pump_flags |= PUMP_STOPPING;
        slot_touch(loop, from);
    }
    return length;
}

/* ---- Splicing ------------------------------------------------------------------------------------------------------- */

static void go_back_to_copying(struct slot *from, struct pump *pump) {
    from->pump_flags &= (uint8_t) ~(PUMP_SPLICING | PUMP_AWAITS);
    pump->run = 0;
    pump->small = 0;
}

/* Fills the pipe from the source. False when the source has nothing more now (or broke, which ends the pump). */
static bool pipe_fill(cio_loop *loop, struct pump *pump, struct slot *from, size_t *taken) {
    size_t length = pump->pipe.bytes - pump->in_pipe;
    if (length > pump->left) length = (size_t)pump->left;
    if (length == 0 || pump->ended) return true;
    ssize_t result = pipe_splice(loop, from->descriptor, pump->pipe.write, length);
    if (result > 0) {
        pump->in_pipe += (uint32_t)result;
        if (pump->left != UINT64_MAX) pump->left -= (uint64_t)result;
        count_taken(loop, from, (size_t)result);
        loop->counters.pump_bytes_spliced += (uint64_t)result;
        *taken += (size_t)result;
        return true;
    }
    if (result == 0) {
        pump->ended = true;
        return true;
    }
    /* With bytes in the pipe, its own places may be what there are none of. */
    if (result == -EAGAIN) return pump->in_pipe > 0;
    stream_failed(loop, from, (int)result);
    return false;
}

/* Empties the pipe into the target as far as it takes it. False when the target broke. */
static bool pipe_drain(cio_loop *loop, struct pump *pump, struct slot *from, struct slot *to) {
    if (pump->in_pipe == 0) return true;
    ssize_t result = pipe_splice(loop, pump->pipe.read, to->descriptor, pump->in_pipe);
    if (result >= 0) {
        pump->in_pipe -= (uint32_t)result;
        to->output.totals.sent += (uint64_t)result;
    } else if (result != -EAGAIN) {
        stream_send_failed(loop, to, (int)result);
        /* What can still be received of the target is looked at now, whatever the last edge said. */
        to->flags |= SLOT_READABLE;
        slot_touch(loop, to);
        pump_target_over(loop, to);
        return false;
    }
    if (pump->in_pipe > 0) {
        to->pump_flags |= PUMP_BLOCKED;
        source_hold(loop, from);
        loop->backend->await_room(loop, to);
    }
    return true;
}

/* Nothing lies in the pipe and the source has nothing. */
static void starved(struct slot *from, struct pump *pump, size_t taken) {
    from->flags &= ~(uint32_t)SLOT_READABLE;
    from->pump_flags |= PUMP_AWAITS;
    if (taken >= SMALL_BYTES) pump->small = 0;
    else if (++pump->small >= SMALL_PIECES) go_back_to_copying(from, pump);
}

static void pump_splice(cio_loop *loop, struct slot *from, struct pump *pump) {
    struct slot *to = target_of(loop, pump);
    from->pump_flags &= (uint8_t)~PUMP_AWAITS;
    if (pump->pipe.read < 0 && !pipe_lease(loop, &pump->pipe)) {
        go_back_to_copying(from, pump);
        pump->copy_until = loop->now + PIPE_RETRY_NS;
        slot_touch(loop, from);
        return;
    }
    size_t taken = 0;
    while (taken < TURN_BYTES_MAX) {
        bool more = pipe_fill(loop, pump, from, &taken);
        if (from->output.pump_from == 0) return; /* the source broke */
        if (!pipe_drain(loop, pump, from, to) || pump->to == NONE) return;
        if (pump->in_pipe > 0) return; /* until the target has room */
        if (pump->ended) {
            stream_ended(loop, from);
            return;
        }
        if (pump->left == 0) {
            pump_complete(loop, pump);
            return;
        }
        if (!more) {
            pipe_return(loop, pump);
            starved(from, pump, taken);
            return;
        }
    }
    pipe_return(loop, pump);
    slot_touch(loop, from);
}

void pump_advance(cio_loop *loop, struct slot *from) {
    struct pump *pump = pump_of(loop, from->output.pump_from);
    if (pump == NULL || pump->to == NONE) return;
    if (from->pump_flags & PUMP_STOPPING) {
        const struct slot *to = target_of(loop, pump);
        const uint32_t busy = SLOT_SENDING | SLOT_CONNECTING | SLOT_BLOCKED | SLOT_WRITE_BROKEN | SLOT_FAILED;
        if ((from->flags & (SLOT_RECEIVE_ARMED | SLOT_CONNECTING)) != 0 || to->output.pending > 0 || (to->flags & busy) != 0) return;
        from->pump_flags = (uint8_t)((from->pump_flags & ~PUMP_STOPPING) | PUMP_SPLICING);
    }
    if (stream_wants_splice(from)) pump_splice(loop, from, pump);
}
