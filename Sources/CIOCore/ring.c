/* One io_uring, on the bare system calls: a dozen lines more than with a library, no dependency at run time, and full
 * control of the one enter per turn.
 *
 * Invariants: only one thread touches a ring. Submissions become visible to the kernel in ring_enter only. The kernel
 * writes heads of submissions and tails of completions, we write the others; each is read with acquire and written with
 * release order.
 */
#include "ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef IORING_SETUP_R_DISABLED
#define IORING_SETUP_R_DISABLED (1u << 6)
#endif
#ifndef IORING_SETUP_SUBMIT_ALL
#define IORING_SETUP_SUBMIT_ALL (1u << 7)
#endif
#ifndef IORING_SETUP_COOP_TASKRUN
#define IORING_SETUP_COOP_TASKRUN (1u << 8)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1u << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1u << 13)
#endif

/* Completions for each submission entry: multishot requests complete many times. */
#define COMPLETIONS_PER_ENTRY 4u
#define FEATURES_NEEDED (IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_EXT_ARG)

static uint32_t load_acquire(const uint32_t *address) { return __atomic_load_n(address, __ATOMIC_ACQUIRE); }
static void store_release(uint32_t *address, uint32_t value) { __atomic_store_n(address, value, __ATOMIC_RELEASE); }

static int ring_try_setup(struct ring *ring, uint32_t entries, struct io_uring_params *parameters) {
    static const uint32_t choices[] = {
        IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
        IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN,
        0,
    };
    int result = -EINVAL;
    for (size_t choice = 0; choice < sizeof choices / sizeof choices[0] && result == -EINVAL; choice++) {
        *parameters = (struct io_uring_params){
            .flags = choices[choice] | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED,
            .cq_entries = entries * COMPLETIONS_PER_ENTRY};
        result = (int)syscall(SYS_io_uring_setup, entries, parameters);
        if (result < 0) result = -errno;
    }
    if (result < 0) return result;
    ring->descriptor = result;
    ring->features = parameters->features;
    ring->setup_flags = parameters->flags;
    return (parameters->features & FEATURES_NEEDED) == FEATURES_NEEDED ? 0 : -EOPNOTSUPP;
}

/* The kernel frees the rings of a process only some time after it ended: memory that is short for that reason comes back. */
static int ring_setup(struct ring *ring, uint32_t entries, struct io_uring_params *parameters) {
    int result = ring_try_setup(ring, entries, parameters);
    for (int wait = 0; result == -ENOMEM && wait < 20; wait++) {
        usleep(50000);
        result = ring_try_setup(ring, entries, parameters);
    }
    return result;
}

static void *ring_map(const struct ring *ring, size_t bytes, uint64_t offset) {
    void *address =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->descriptor, (off_t)offset);
    return address == MAP_FAILED ? NULL : address;
}

int ring_create(struct ring *ring, uint32_t entries) {
    struct io_uring_params parameters;
    *ring = (struct ring){.descriptor = -1};
    int result = ring_setup(ring, entries, &parameters);
    if (result < 0) goto failed;
    size_t submission_bytes = parameters.sq_off.array + parameters.sq_entries * sizeof(uint32_t);
    size_t completion_bytes = parameters.cq_off.cqes + parameters.cq_entries * sizeof(struct io_uring_cqe);
    ring->queues_bytes = submission_bytes > completion_bytes ? submission_bytes : completion_bytes;
    ring->queues = ring_map(ring, ring->queues_bytes, IORING_OFF_SQ_RING);
    ring->submissions_bytes = parameters.sq_entries * sizeof(struct io_uring_sqe);
    if (ring->queues != NULL) ring->submissions = ring_map(ring, ring->submissions_bytes, IORING_OFF_SQES);
    if (ring->submissions == NULL) {
        result = -errno;
        goto failed;
    }
    uint8_t *base = ring->queues;
    ring->submission_head = (uint32_t *)(void *)(base + parameters.sq_off.head);
    ring->submission_tail = (uint32_t *)(void *)(base + parameters.sq_off.tail);
    ring->submission_array = (uint32_t *)(void *)(base + parameters.sq_off.array);
    ring->submission_entries = parameters.sq_entries;
    ring->submission_mask = parameters.sq_entries - 1;
    ring->submission_next = *ring->submission_tail;
    ring->completion_head = (uint32_t *)(void *)(base + parameters.cq_off.head);
    ring->completion_tail = (uint32_t *)(void *)(base + parameters.cq_off.tail);
    ring->completion_mask = parameters.cq_entries - 1;
    ring->completions = (struct io_uring_cqe *)(void *)(base + parameters.cq_off.cqes);
    /* Submission i always lies in place i, so the array between the two is written once. */
    for (uint32_t index = 0; index < ring->submission_entries; index++) ring->submission_array[index] = index;
    return 0;
failed:
    ring_destroy(ring);
    return result;
}

int ring_enable(struct ring *ring) {
    static const uint8_t operations[] = {IORING_OP_RECV,    IORING_OP_SEND,     IORING_OP_SENDMSG,
                                         IORING_OP_ACCEPT,  IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL};
    enum { OPERATIONS = sizeof operations };
    struct io_uring_restriction rules[OPERATIONS + 1];
    memset(rules, 0, sizeof rules);
    for (int index = 0; index < OPERATIONS; index++) {
        rules[index].opcode = IORING_RESTRICTION_SQE_OP;
        rules[index].sqe_op = operations[index];
    }
    rules[OPERATIONS].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    rules[OPERATIONS].sqe_flags = IOSQE_BUFFER_SELECT;
    if (syscall(SYS_io_uring_register, ring->descriptor, IORING_REGISTER_RESTRICTIONS, rules, OPERATIONS + 1) != 0 ||
        syscall(SYS_io_uring_register, ring->descriptor, IORING_REGISTER_ENABLE_RINGS, NULL, 0) != 0) {
        return -errno;
    }
    return 0;
}

void ring_destroy(struct ring *ring) {
    if (ring->submissions != NULL) munmap(ring->submissions, ring->submissions_bytes);
    if (ring->queues != NULL) munmap(ring->queues, ring->queues_bytes);
    if (ring->descriptor >= 0) close(ring->descriptor);
    *ring = (struct ring){.descriptor = -1};
}

uint32_t ring_unsubmitted(const struct ring *ring) {
    return ring->submission_next - load_acquire(ring->submission_head);
}

struct io_uring_sqe *ring_submission(struct ring *ring) {
    if (ring_unsubmitted(ring) == ring->submission_entries) return NULL;
    struct io_uring_sqe *submission = &ring->submissions[ring->submission_next & ring->submission_mask];
    ring->submission_next++;
    memset(submission, 0, sizeof *submission);
    return submission;
}

int ring_enter(struct ring *ring, uint32_t least, uint64_t timeout_ns) {
    store_release(ring->submission_tail, ring->submission_next);
    struct __kernel_timespec time = {
        .tv_sec = (int64_t)(timeout_ns / 1000000000ull), .tv_nsec = (long long)(timeout_ns % 1000000000ull)};
    struct io_uring_getevents_arg argument = {.ts = (uint64_t)(uintptr_t)&time};
    bool timed = least > 0 && timeout_ns != UINT64_MAX;
    uint32_t flags = IORING_ENTER_GETEVENTS | (timed ? IORING_ENTER_EXT_ARG : 0u);
    long result = syscall(SYS_io_uring_enter, ring->descriptor, ring_unsubmitted(ring), least, flags,
                          timed ? (void *)&argument : NULL, timed ? sizeof argument : (size_t)0);
    if (result >= 0) return 0;
    switch (errno) {
    case ETIME:
    case EINTR:
    case EAGAIN: /* no memory for a request just now: it stays queued */
    case EBUSY: return 0; /* too many completions wait: they are taken first */
    default: return -errno;
    }
}

struct io_uring_cqe *ring_completion(struct ring *ring) {
    uint32_t head = *ring->completion_head;
    if (head == load_acquire(ring->completion_tail)) return NULL;
    return &ring->completions[head & ring->completion_mask];
}

void ring_advance(struct ring *ring) { store_release(ring->completion_head, *ring->completion_head + 1); }

/* ---- Buffers ---------------------------------------------------------------------------------------------------------- */

int buffer_ring_create(struct ring *ring, struct buffer_ring *buffers, uint32_t count, uint32_t bytes) {
    *buffers = (struct buffer_ring){.count = count, .bytes = bytes};
    buffers->base_bytes = (size_t)count * bytes;
    buffers->entries_bytes = count * sizeof(struct io_uring_buf);
    void *base = mmap(NULL, buffers->base_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return -errno;
    buffers->base = base;
    void *entries = mmap(NULL, buffers->entries_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int result = entries == MAP_FAILED ? -errno : 0;
    if (result == 0) {
        buffers->entries = entries;
        buffers->order = calloc(count, sizeof *buffers->order);
        buffers->position = calloc(count, sizeof *buffers->position);
        if (buffers->order == NULL || buffers->position == NULL) result = -ENOMEM;
    }
    if (result == 0) {
        struct io_uring_buf_reg registration = {
            .ring_addr = (uint64_t)(uintptr_t)entries, .ring_entries = count, .bgid = 0};
        if (syscall(SYS_io_uring_register, ring->descriptor, IORING_REGISTER_PBUF_RING, &registration, 1) != 0) {
            result = -errno;
        }
    }
    if (result < 0) {
        buffer_ring_destroy(buffers);
        return result;
    }
    for (uint32_t index = 0; index < count; index++) buffer_ring_offer(buffers, (uint16_t)index);
    buffer_ring_publish(buffers);
    return 0;
}

void buffer_ring_destroy(struct buffer_ring *buffers) {
    if (buffers->base != NULL) munmap(buffers->base, buffers->base_bytes);
    if (buffers->entries != NULL) munmap(buffers->entries, buffers->entries_bytes);
    free(buffers->order);
    free(buffers->position);
    *buffers = (struct buffer_ring){0};
}

void buffer_ring_offer(struct buffer_ring *buffers, uint16_t buffer) {
    uint16_t place = (uint16_t)(buffers->tail & (buffers->count - 1));
    struct io_uring_buf *entry = &buffers->entries[place];
    /* The last field of entry 0 is the ring's tail, so entries are filled field by field. */
    entry->addr = (uint64_t)(uintptr_t)buffer_ring_data(buffers, buffer);
    entry->len = buffers->bytes;
    entry->bid = buffer;
    buffers->order[place] = buffer;
    buffers->position[buffer] = place;
    buffers->tail++;
}

void buffer_ring_publish(struct buffer_ring *buffers) {
    __atomic_store_n(&buffers->entries[0].resv, buffers->tail, __ATOMIC_RELEASE);
}

uint16_t buffer_ring_after(const struct buffer_ring *buffers, uint16_t buffer) {
    return buffers->order[(buffers->position[buffer] + 1u) & (buffers->count - 1)];
}
