/* The queue of bytes that a stream has still to send: a chain of chunks.
 *
 * Small writes fill up the last chunk. That is safe even while the kernel sends from it, because a send names the bytes
 * that were there when it was submitted, and those never move.
 *
 * Invariants: `pending` is the sum of end - start over the chain; every chunk but a just reserved last one holds bytes.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool output_over_limit(const cio_loop *loop, size_t length) {
    return loop->output_bytes_max != 0 && loop->counters.output_bytes + length > loop->output_bytes_max;
}

static void output_link(struct slot *slot, struct chunk *chunk) {
    if (slot->output.last != NULL) slot->output.last->next = chunk;
    else slot->output.first = chunk;
    slot->output.last = chunk;
}

static void output_added(cio_loop *loop, struct slot *slot, size_t length) {
    slot->output.pending += length;
    loop->counters.output_bytes += length;
    if (slot->output.pending > slot->output.mark_high) slot->flags |= SLOT_ABOVE_HIGH;
    slot_touch(loop, slot);
}

ssize_t output_append(cio_loop *loop, struct slot *slot, const uint8_t *bytes, size_t length) {
    if (length == 0) return (ssize_t)slot->output.pending;
    if (output_over_limit(loop, length)) return -ENOBUFS;
    struct chunk *last = slot->output.last;
    size_t room = last == NULL ? 0 : CHUNK_BYTES - last->end;
    struct chunk *fresh = NULL;
    if (length > room) {
        fresh = chunk_take(&loop->chunks, (length - room + CHUNK_BYTES - 1) / CHUNK_BYTES);
        if (fresh == NULL) return -ENOBUFS;
    }
    size_t left = length;
    while (left > 0) {
        if (room == 0) {
            last = fresh;
            fresh = fresh->next;
            last->next = NULL;
            output_link(slot, last);
            room = CHUNK_BYTES;
        }
        size_t part = left < room ? left : room;
        memcpy(chunk_data(last) + last->end, bytes, part);
        last->end += (uint32_t)part;
        bytes += part;
        left -= part;
        room = 0;
    }
    output_added(loop, slot, length);
    return (ssize_t)slot->output.pending;
}

int output_gather(struct slot *slot, struct iovec *vectors, int max, size_t *total) {
    int count = 0;
    *total = 0;
    for (struct chunk *chunk = slot->output.first; chunk != NULL && count < max; chunk = chunk->next) {
        size_t length = chunk->end - chunk->start;
        if (length == 0) continue;
        vectors[count++] = (struct iovec){.iov_base = chunk_data(chunk) + chunk->start, .iov_len = length};
        *total += length;
    }
    return count;
}

void output_consume(cio_loop *loop, struct slot *slot, size_t length) {
    slot->output.pending -= length;
    loop->counters.output_bytes -= length;
    struct chunk *chunk = slot->output.first;
    while (chunk != NULL) {
        size_t there = chunk->end - chunk->start;
        if (there > length) {
            chunk->start += (uint32_t)length;
            break;
        }
        length -= there;
        struct chunk *next = chunk->next;
        chunk_give(&loop->chunks, chunk);
        chunk = next;
    }
    slot->output.first = chunk;
    if (chunk == NULL) slot->output.last = NULL;
}

void output_drop(cio_loop *loop, struct slot *slot) {
    output_consume(loop, slot, slot->output.pending);
}

ssize_t output_take(cio_loop *loop, struct slot *slot, uint8_t **bytes) {
    size_t length = slot->output.pending, offset = 0;
    *bytes = NULL;
    if (length == 0) return 0;
    uint8_t *taken = malloc(length);
    if (taken == NULL) return -ENOMEM;
    for (struct chunk *chunk = slot->output.first; chunk != NULL; chunk = chunk->next) {
        size_t part = chunk->end - chunk->start;
        memcpy(taken + offset, chunk_data(chunk) + chunk->start, part);
        offset += part;
    }
    output_drop(loop, slot);
    *bytes = taken;
    return (ssize_t)length;
}

uint8_t *cio_stream_reserve(cio_loop *loop, cio_handle handle, size_t want, size_t *got) {
    *got = 0;
    struct slot *slot = slot_find(loop, handle, SLOT_STREAM);
    if (slot == NULL || (slot->flags & (SLOT_FINISHING | SLOT_FAILED | SLOT_DETACHING)) != 0 || want == 0) return NULL;
    if (output_over_limit(loop, 1)) return NULL;
    struct chunk *last = slot->output.last;
    if (last == NULL || last->end == CHUNK_BYTES) {
        last = chunk_take(&loop->chunks, 1);
        if (last == NULL) return NULL;
        output_link(slot, last);
    }
    size_t room = CHUNK_BYTES - last->end;
    if (loop->output_bytes_max != 0) {
        size_t left = (size_t)(loop->output_bytes_max - loop->counters.output_bytes);
        if (room > left) room = left;
    }
    *got = room < want ? room : want;
    return chunk_data(last) + last->end;
}

ssize_t cio_stream_commit(cio_loop *loop, cio_handle handle, size_t length) {
    struct slot *slot = slot_find(loop, handle, SLOT_STREAM);
    if (slot == NULL) return -EBADF;
    struct chunk *last = slot->output.last;
    if (last == NULL || length > CHUNK_BYTES - last->end) return -EINVAL;
    if (length == 0) {
        if (slot->output.pending == 0) output_drop(loop, slot);
        return (ssize_t)slot->output.pending;
    }
    last->end += (uint32_t)length;
    if (slot->flags & SLOT_WRITE_BROKEN) {
        last->end -= (uint32_t)length;
        return (ssize_t)slot->output.pending;
    }
    output_added(loop, slot, length);
    return (ssize_t)slot->output.pending;
}
