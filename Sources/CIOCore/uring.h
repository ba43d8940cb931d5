/* What the two files of the io_uring backend share. */
#ifndef CIO_URING_H
#define CIO_URING_H

#include "internal.h"
#include "ring.h"

/* Iovecs and headers of the sends of one submission. */
#define SEND_VECTORS 4096u
#define SEND_HEADERS 1024u

/* Makes a submission a multishot receive into the ring of buffers. */
void uring_receive(const struct uring_state *state, struct io_uring_sqe *submission, int descriptor);

enum operation {
    OPERATION_RECEIVE = 1,
    OPERATION_SEND,
    OPERATION_ACCEPT,
    OPERATION_POLL_IN,
    OPERATION_POLL_OUT,
    OPERATION_CANCEL,
    OPERATION_WAKE,
    OPERATION_PROBE,
};

struct uring_state {
    struct ring ring;
    struct buffer_ring buffers;
    uint16_t *given; /* buffers that the caller sees in this turn, in the order in which they came */
    uint32_t given_count;
    bool bundles;
    uint32_t receive_limit; /* bytes after which a multishot receive ends by itself; 0: the kernel has no such limit */
    bool wake_armed;
    /* What submissions point to until the kernel has taken them. */
    struct msghdr *headers;
    struct iovec *vectors;
    uint32_t headers_used, vectors_used;
};

/* uring_create.c */
int uring_create(cio_loop *loop, const struct cio_loop_options *options, char *reason, size_t reason_size);
void uring_destroy(cio_loop *loop);
/* uring.c: gives the buffers back that the caller saw in the last turn. */
void uring_begin(cio_loop *loop);

#endif
