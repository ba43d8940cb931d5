/* One io_uring: its mapped queues, and the ring of buffers that receives pick from. Used by uring.c alone. */
#ifndef CIO_RING_H
#define CIO_RING_H

#include <linux/io_uring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Newer than the oldest kernel headers that we build with. */
#define RING_RECEIVE_BUNDLE (1u << 4)      /* IORING_RECVSEND_BUNDLE */
#define RING_FEATURE_BUNDLE (1u << 14)     /* IORING_FEAT_RECVSEND_BUNDLE */

struct ring {
    int descriptor;
    uint32_t features;
    uint32_t setup_flags;
    void *queues;
    size_t queues_bytes;
    struct io_uring_sqe *submissions;
    size_t submissions_bytes;
    uint32_t *submission_head, *submission_tail, *submission_array;
    uint32_t submission_mask, submission_entries, submission_next; /* next: our tail, not yet published */
    uint32_t *completion_head, *completion_tail;
    uint32_t completion_mask;
    struct io_uring_cqe *completions;
};

/* Makes a ring of `entries` submissions with the best set-up that the kernel has. It takes none before ring_enable. -errno. */
int ring_create(struct ring *ring, uint32_t entries);
/* Lets the ring work, from here on with the operations that we use and no others, and without any further registration:
 * what a filter of system calls can't see is refused by the ring itself. -errno. */
int ring_enable(struct ring *ring);
void ring_destroy(struct ring *ring);

/* A cleared submission, NULL when the queue is full. */
struct io_uring_sqe *ring_submission(struct ring *ring);
/* How many submissions the kernel has not taken yet. */
uint32_t ring_unsubmitted(const struct ring *ring);
/* Submits everything and waits until `least` completions are there or `timeout_ns` is over (UINT64_MAX: none). 0 or
 * -errno; a time-out or an interruption is no failure. */
int ring_enter(struct ring *ring, uint32_t least, uint64_t timeout_ns);
/* The oldest completion, NULL when there is none; valid until ring_advance. */
struct io_uring_cqe *ring_completion(struct ring *ring);
void ring_advance(struct ring *ring);

/* Buffers of equal size in one mapping, offered to the kernel in a ring. A buffer is either offered or given out. */
struct buffer_ring {
    uint8_t *base;
    size_t base_bytes;
    struct io_uring_buf *entries; /* shared with the kernel */
    size_t entries_bytes;
    uint32_t count, bytes;
    uint16_t tail;      /* not yet published part included */
    uint16_t *order;    /* the buffer at each position of the ring */
    uint16_t *position; /* the position of each buffer */
};

int buffer_ring_create(struct ring *ring, struct buffer_ring *buffers, uint32_t count, uint32_t bytes);
void buffer_ring_destroy(struct buffer_ring *buffers);
/* Offers a buffer again; buffer_ring_publish makes the kernel see it. */
void buffer_ring_offer(struct buffer_ring *buffers, uint16_t buffer);
void buffer_ring_publish(struct buffer_ring *buffers);
/* The buffer that the kernel takes after this one. */
uint16_t buffer_ring_after(const struct buffer_ring *buffers, uint16_t buffer);
static inline uint8_t *buffer_ring_data(const struct buffer_ring *buffers, uint16_t buffer) {
    return buffers->base + (size_t)buffer * buffers->bytes;
}

#endif
