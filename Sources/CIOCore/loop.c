/* The loop: making and ending it, and the turn.
 *
 * A turn services what the caller asked for since the last one, then waits once, then collects what happened. Events are
 * stored in the caller's array and nothing calls back, so a turn neither recurses nor grows without bound.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define HANDLES_MAX_DEFAULT 65536u
#define HANDLES_MAX_LIMIT (1u << 24)
#define AREA_BYTES_MIN (512u * 1024u)

static uint64_t clock_read(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec;
}

uint64_t cio_clock_monotonic(void) { return clock_read(CLOCK_MONOTONIC); }
uint64_t cio_clock_realtime(void) { return clock_read(CLOCK_REALTIME); }

static int loop_allocate(cio_loop *loop, const struct cio_loop_options *options) {
    loop->slots_max = options->handles_max == 0 ? HANDLES_MAX_DEFAULT : options->handles_max;
    if (loop->slots_max > HANDLES_MAX_LIMIT) return -EINVAL;
    loop->slots_free = NONE;
    for (int list = 0; list < LIST_COUNT; list++) loop->lists[list] = (struct list){NONE, NONE};
    void *slots = mmap(NULL, loop->slots_max * sizeof(struct slot), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (slots == MAP_FAILED) return -errno;
    loop->slots = slots;
    size_t buffers = options->receive_buffers == 0 ? 128 : options->receive_buffers;
    size_t buffer_bytes = options->receive_buffer_bytes == 0 ? 8192 : options->receive_buffer_bytes;
    size_t area = buffers * buffer_bytes;
    int result = receive_area_create(&loop->area, area < AREA_BYTES_MIN ? AREA_BYTES_MIN : area);
    if (result == 0) result = pump_create(loop, options);
    if (result < 0) return result;
    loop->discard = malloc(DISCARD_BYTES);
    loop->descriptors = malloc(TURN_DESCRIPTORS * sizeof(int32_t));
    if (loop->discard == NULL || loop->descriptors == NULL) return -ENOMEM;
    loop->wake_descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return loop->wake_descriptor < 0 ? -errno : 0;
}

static void loop_free(cio_loop *loop) {
    if (loop->wake_descriptor >= 0) close(loop->wake_descriptor);
    if (loop->slots != NULL) munmap(loop->slots, loop->slots_max * sizeof(struct slot));
    receive_area_destroy(&loop->area);
    chunk_pool_destroy(&loop->chunks);
    pump_destroy(loop);
    free(loop->discard);
    free(loop->descriptors);
    free(loop);
}

static int backend_choose(cio_loop *loop, const struct cio_loop_options *options, char *reason, size_t reason_size) {
    char why[200] = "asked for";
    int result;
    if (options->backend != CIO_BACKEND_EPOLL) {
        loop->backend = &backend_uring;
        result = backend_uring.create(loop, options, why, sizeof why);
        if (result == 0) {
            snprintf(reason, reason_size, "io_uring: %s", why);
            return 0;
        }
        if (options->backend == CIO_BACKEND_IO_URING) {
            snprintf(reason, reason_size, "io_uring can't be used: %s", why);
            return result;
        }
    }
    loop->backend = &backend_epoll;
    char trouble[200] = "";
    result = backend_epoll.create(loop, options, trouble, sizeof trouble);
    if (result == 0) snprintf(reason, reason_size, "epoll: %s", why);
    else snprintf(reason, reason_size, "epoll can't be used: %s", trouble);
    return result;
}

int cio_loop_create(cio_loop **made, const struct cio_loop_options *options, char *reason, size_t reason_size) {
    cio_loop *loop = calloc(1, sizeof *loop);
    if (loop == NULL) return -ENOMEM;
    loop->wake_descriptor = -1;
    loop->output_bytes_max = options->output_bytes_max;
    loop->now = cio_clock_monotonic();
    int result = loop_allocate(loop, options);
    if (result < 0) snprintf(reason, reason_size, "no memory or descriptors for a loop: %s", strerror(-result));
    else result = backend_choose(loop, options, reason, reason_size);
    if (result < 0) {
        loop_free(loop);
        return result;
    }
    *made = loop;
    return 0;
}

void cio_loop_destroy(cio_loop *loop) {
    resolver_destroy(loop);
    resolver_results_free(loop);
    /* The ring goes first: it ends whatever is in flight, so that nothing touches chunks and descriptors any more. */
    loop->backend->destroy(loop);
    for (uint32_t index = 0; index < loop->slots_used; index++) {
        struct slot *slot = &loop->slots[index];
        if (slot->kind == SLOT_FREE) continue;
        if (slot->kind == SLOT_STREAM) {
            output_drop(loop, slot);
            free(slot->output.unsent);
        }
        if (slot->kind == SLOT_MESSAGE) message_queue_drop(slot);
        if (slot->descriptor >= 0 && slot->kind != SLOT_POLL) close(slot->descriptor);
    }
    loop_free(loop);
}

uint64_t cio_loop_now(const cio_loop *loop) { return loop->now; }

uint32_t cio_loop_backend(const cio_loop *loop) { return loop->backend->number; }

void cio_loop_wake(cio_loop *loop) {
    int saved = errno;
    uint64_t one = 1;
    ssize_t ignored = write(loop->wake_descriptor, &one, sizeof one);
    (void)ignored;
    errno = saved;
}

void cio_loop_counters_read(const cio_loop *loop, struct cio_loop_counters *counters) {
    *counters = loop->counters;
    counters->output_chunks = loop->chunks.chunks;
}

struct cio_event *event_add(cio_loop *loop, const struct slot *slot, enum cio_event_kind kind, int32_t result) {
    if (loop->events_count == loop->events_max) abort(); /* a backend did not look for room */
    struct cio_event *event = &loop->events[loop->events_count++];
    *event = (struct cio_event){.handle = slot_handle(loop, slot), .tag = slot->tag, .kind = kind, .result = result};
    return event;
}

/* Services the slots that were dirty at the start; what they dirty again waits for the next turn. */
static void dirty_service(cio_loop *loop) {
    uint32_t last = loop->lists[LIST_DIRTY].last;
    while (loop_has_room(loop)) {
        struct slot *slot = list_pop(loop, LIST_DIRTY);
        if (slot == NULL) return;
        bool was_last = (uint32_t)(slot - loop->slots) == last;
        if (slot->flags & SLOT_GONE) slot_free(loop, slot);
        else loop->backend->service(loop, slot);
        if (was_last) return;
    }
}

int cio_loop_turn(cio_loop *loop, uint64_t deadline_ns, struct cio_event *events, uint32_t max) {
    if (max < 2 * EVENTS_PER_SLOT) return -EINVAL;
    loop->events = events;
    loop->events_max = max;
    loop->events_count = 0;
    loop->descriptors_used = 0;
    loop->counters.turns++;
    loop->now = cio_clock_monotonic();
    receive_area_reset(&loop->area);
    resolver_results_free(loop);
    loop->backend->begin(loop);

    dirty_service(loop);
    uint64_t timed_deadline = timed_expire(loop);
    uint64_t pipes_deadline = pipes_expire(loop);
    if (timed_deadline < deadline_ns) deadline_ns = timed_deadline;
    if (pipes_deadline < deadline_ns) deadline_ns = pipes_deadline;
    if (loop->events_count > 0 || loop->lists[LIST_DIRTY].first != NONE) deadline_ns = 0;
    int result = loop->backend->wait(loop, deadline_ns);
    loop->counters.events += loop->events_count;
    return result < 0 ? result : (int)loop->events_count;
}
