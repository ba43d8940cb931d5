/* What the files of the C core share: the loop, its table of slots, and the seam between what is common and a backend.
 *
 * A slot is one open handle. Its public calls (stream.c, message.c, watch.c) only change flags and queues and put the
 * slot on the dirty list; the turn (loop.c) lets the backend service each dirty slot, waits, and collects events.
 * So every event is made inside a turn, and every system call on a socket too, but for those that open or close it.
 *
 * Invariants:
 *  - A slot is on a list if and only if the list's flag is set in `flags`.
 *  - `in_flight` counts the completions that the kernel still owes for the slot (io_uring only). A slot's descriptor,
 *    chunks and generation stay as they are until it is zero.
 *  - No event is made for a slot with SLOT_CLOSED, SLOT_FAILED or SLOT_GONE.
 */
#ifndef CIO_INTERNAL_H
#define CIO_INTERNAL_H

#include "ciocore.h"

#include <sys/uio.h>

/* Memory that nobody may look at just now: a read of it is a bug that AddressSanitizer then reports. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#define POISON(address, length) ASAN_POISON_MEMORY_REGION(address, length)
#define UNPOISON(address, length) ASAN_UNPOISON_MEMORY_REGION(address, length)
#endif
#endif
#ifndef POISON
#define POISON(address, length) ((void)(address), (void)(length))
#define UNPOISON(address, length) ((void)(address), (void)(length))
#endif

#define NONE UINT32_MAX
/* The most events that servicing one slot makes; a turn stops when less room is left. */
#define EVENTS_PER_SLOT 8u
#define IOVECS_PER_SEND 64
#define MARK_HIGH_DEFAULT 262144u
#define MARK_LOW_DEFAULT 65536u
#define LINGERING_SHARE 4u /* of the handles may linger: one in so many */
#define LINGER_FIN_NS (5ull * 1000000000ull)
/* How often a stream that is not read is looked at for a reset. */
#define PAUSED_NS (2ull * 1000000000ull)
/* The most that a lingering stream receives and drops: a peer that just goes on sending is cut off. */
#define LINGER_BYTES_MAX (16ull * 1048576ull)
#define RETRY_NS (5ull * 1000000ull)
#define LINGER_SEND_NS (CIO_LINGER_MS * 1000000ull)

/* ---- Output chunks (buffers.c) ------------------------------------------------------------------------------------ */

#define CHUNK_SIZE 16384u
#define CHUNK_HEADER 64u
#define CHUNK_BYTES (CHUNK_SIZE - CHUNK_HEADER)

struct slab;

/* 16 KiB of a slab: this header, then CHUNK_BYTES of data at a 64-byte boundary. Bytes [start, end) wait. */
struct chunk {
    struct chunk *next;
    struct slab *slab;
    uint32_t start, end;
};

static inline uint8_t *chunk_data(struct chunk *chunk) { return (uint8_t *)chunk + CHUNK_HEADER; }

struct chunk_pool {
    struct slab *first, *last; /* slabs that have a free chunk: those in use first, empty ones last */
    uint32_t slabs, slabs_empty;
    uint64_t chunks; /* of all slabs */
};

/* `count` chunks in a chain, empty; NULL when memory is out (or count is 0). */
struct chunk *chunk_take(struct chunk_pool *pool, size_t count);
void chunk_give(struct chunk_pool *pool, struct chunk *chunk);
void chunk_pool_destroy(struct chunk_pool *pool);

/* The area into which one turn receives: bytes are handed out from the front and all come back at the next turn. */
struct receive_area {
    uint8_t *base;
    size_t size, used;
};
int receive_area_create(struct receive_area *area, size_t size);
void receive_area_destroy(struct receive_area *area);
/* Everything handed out is free again (and poisoned under AddressSanitizer). */
void receive_area_reset(struct receive_area *area);
/* The free part, NULL when it is shorter than `least`; `room` gets its length, at most `most`. */
uint8_t *receive_area_room(struct receive_area *area, size_t least, size_t most, size_t *room);
/* Keeps the first `length` bytes of the room. */
void receive_area_take(struct receive_area *area, size_t length);

/* ---- Slots (slots.c) ----------------------------------------------------------------------------------------------- */

enum slot_kind {
    SLOT_FREE = 0,
    SLOT_STREAM,
    SLOT_LISTENER,
    SLOT_MESSAGE,
    SLOT_POLL,
    SLOT_RESOLVE,
};

enum slot_flags {
    SLOT_READING = 1 << 0,         /* the caller wants DATA, ACCEPTED or READY */
    SLOT_ENDED = 1 << 1,           /* END was given */
    SLOT_FINISHING = 1 << 2,       /* FIN after the last byte */
    SLOT_FIN_SENT = 1 << 3,
    SLOT_DETACHING = 1 << 4,
    SLOT_CONNECTING = 1 << 5,
    SLOT_CONNECT_DONE = 1 << 6,    /* CONNECTED is owed */
    SLOT_ABOVE_HIGH = 1 << 7,      /* DRAINED is owed at the low mark */
    SLOT_WRITE_BROKEN = 1 << 8,    /* sending failed with `error`; what can still be received comes before FAILED */
    SLOT_FAILED = 1 << 9,          /* FAILED was given */
    SLOT_GONE = 1 << 10,           /* DETACHED was given; freed at the next turn */
    SLOT_CLOSED = 1 << 11,         /* dead to the caller */
    SLOT_LINGERING = 1 << 12,      /* closed, but still sending or waiting for the peer's FIN */
    SLOT_ZOMBIE = 1 << 13,         /* closed; only the last completions are awaited */
    SLOT_RESET = 1 << 14,          /* close with a reset */
    SLOT_UNIX = 1 << 15,           /* a Unix socket */
    SLOT_DIRTY = 1 << 16,          /* on the dirty list */
    SLOT_READY = 1 << 17,          /* on the ready list */
    SLOT_LINGER_SEND = 1 << 18,    /* on the list of those that linger and still send */
    SLOT_LINGER_FIN = 1 << 19,     /* on the list of those that linger after their FIN */
    /* epoll */
    SLOT_READABLE = 1 << 20,       /* a receive may find something */
    SLOT_BLOCKED = 1 << 21,        /* the last send was cut short: wait for EPOLLOUT */
    SLOT_HUNG_UP = 1 << 22,        /* FIN or an error was announced: receive until it shows */
    SLOT_WRITE_ARMED = 1 << 23,    /* EPOLLOUT is part of the registration */
    /* io_uring */
    SLOT_RECEIVE_ARMED = 1 << 24,  /* a receive, accept or poll for input is in flight */
    SLOT_RECEIVE_STOPPED = 1 << 25,/* and its cancellation was asked for */
    SLOT_SENDING = 1 << 26,        /* a send, or a poll for output, is in flight */
    SLOT_SEND_STOPPED = 1 << 27,   /* and its cancellation was asked for */
    SLOT_POLL_STALE = 1 << 28,     /* the armed poll has another mask than is wanted now */
    SLOT_RETRY = 1 << 29,          /* on the list of message sockets that try again in a moment */
    SLOT_PAUSED = 1 << 30,         /* on the list of streams that are not read and so don't notice a reset */
};

/* What a pump makes of its two streams (pump.c). */
enum pump_flags {
    PUMP_HELD = 1 << 0,     /* source: not read, because the target takes nothing, or is gone */
    PUMP_STOPPING = 1 << 1, /* source: receiving ends, to go over to splicing */
    PUMP_SPLICING = 1 << 2, /* source: bytes go through a pipe */
    PUMP_AWAITS = 1 << 3,   /* source, io_uring: a poll for input is wanted */
    PUMP_BLOCKED = 1 << 4,  /* target: a splice found no room; the pump goes on when there is some */
    /* io_uring: what the request in flight is, a poll or not; outlives the pump. */
    STREAM_POLLS_IN = 1 << 5,
    STREAM_POLLS_OUT = 1 << 6,
    STREAM_DETACH_UNSENT = 1 << 7, /* a detach does not wait for the output */
};

struct link {
    uint32_t previous, next;
};

struct message;

struct slot {
    uint32_t generation; /* even numbers never appear in a handle: odd while the slot is in use */
    uint32_t flags;
    int32_t descriptor;
    int32_t error; /* why it is going to fail: -errno */
    uint64_t tag;
    uint8_t kind;
    uint8_t pump_flags;
    uint16_t in_flight;
    uint32_t mask;     /* SLOT_POLL: what is polled for */
    uint32_t edges;    /* epoll: what was announced and not yet looked at */
    struct link work;  /* dirty list; free list (next) */
    struct link ready; /* ready list */
    struct link timed; /* one of the linger lists, the list of the paused, or the retry list */
    uint64_t timed_since;
    union {
        struct { /* SLOT_STREAM */
            struct chunk *first, *last;
            size_t pending;
            uint32_t mark_high, mark_low;
            uint64_t discarded; /* bytes received while it lingered */
            struct cio_stream_totals totals;
            /* The pump that takes from this stream, and the one that gives to it: index + 1, 0 for none. */
            uint32_t pump_from, pump_to;
            uint8_t *unsent; /* given to the caller with DETACHED; freed with the slot */
        } output;
        struct { /* SLOT_MESSAGE */
            struct message *first, *last;
            size_t count;
        } queue;
    };
};

struct list {
    uint32_t first, last;
};

enum list_kind { LIST_DIRTY, LIST_READY, LIST_LINGER_SEND, LIST_LINGER_FIN, LIST_PAUSED, LIST_RETRY, LIST_COUNT };

/* Adds at the end, unless it is there already; removes, if it is there. */
void list_add(cio_loop *loop, enum list_kind list, struct slot *slot);
void list_remove(cio_loop *loop, enum list_kind list, struct slot *slot);
/* The first slot of the list, taken off it; NULL when it is empty. */
struct slot *list_pop(cio_loop *loop, enum list_kind list);

/* A fresh slot, -ENFILE at handles_max. */
int slot_take(cio_loop *loop, enum slot_kind kind, int descriptor, uint64_t tag, struct slot **slot);
/* A fresh slot that reads from its start on, attached to the backend: 0 and its handle, or -errno. The descriptor stays the
 * caller's when it fails. */
int slot_open(cio_loop *loop, enum slot_kind kind, int descriptor, uint32_t flags, uint32_t mask, uint64_t tag,
              cio_handle *handle);
/* Takes it off every list and ends its generation. The descriptor, chunks and completions are dealt with before. */
void slot_free(cio_loop *loop, struct slot *slot);
cio_handle slot_handle(const cio_loop *loop, const struct slot *slot);
/* The slot of a handle that the caller may still use, of this kind (SLOT_FREE: any), or NULL. */
struct slot *slot_find(const cio_loop *loop, cio_handle handle, enum slot_kind kind);
/* The slot of a handle whatever its state, or NULL when the generation is over. */
struct slot *slot_of_generation(const cio_loop *loop, uint32_t index, uint32_t generation);
/* Lets the next turn service the slot. */
static inline void slot_touch(cio_loop *loop, struct slot *slot) { list_add(loop, LIST_DIRTY, slot); }

/* ---- The seam to a backend ------------------------------------------------------------------------------------------ */

struct backend {
    uint32_t number; /* enum cio_backend */
    /* Makes the backend; on failure undoes all and writes why into `reason`. */
    int (*create)(cio_loop *loop, const struct cio_loop_options *options, char *reason, size_t reason_size);
    void (*destroy)(cio_loop *loop);
    /* Begins with a slot whose kind, flags and descriptor are set. */
    int (*attach)(cio_loop *loop, struct slot *slot);
    /* Does what the slot's flags and queue ask for; may make events. */
    void (*service)(cio_loop *loop, struct slot *slot);
    /* Stops all that is in flight and forgets the descriptor. True when nothing is in flight any more; otherwise the
     * backend calls slot_quiet (stream.c) after the last completion. */
    bool (*quiesce)(cio_loop *loop, struct slot *slot);
    /* Returns what the caller got from the previous turn. */
    void (*begin)(cio_loop *loop);
    /* A splice found no room in the stream's socket: calls pump_target_moved once there is some. */
    void (*await_room)(cio_loop *loop, struct slot *to);
    /* Waits until `deadline_ns` (0: not at all) and makes events. */
    int (*wait)(cio_loop *loop, uint64_t deadline_ns);
};

extern const struct backend backend_epoll;
extern const struct backend backend_uring;

struct pipe {
    int read, write;
    uint32_t bytes; /* capacity */
};

#define PIPES_LIMIT 1024u

/* Empty pipes, for those that splice (pump.c). */
struct pipe_pool {
    struct pipe *free; /* `max` places */
    uint32_t free_count, max;
    uint64_t used_at; /* when one was taken last */
    uint64_t retry_at; /* not before this is another one made, after it failed */
};

struct pump;
struct resolver;
struct resolve_result;
struct epoll_state;
struct uring_state;

struct cio_loop {
    const struct backend *backend;
    struct slot *slots; /* handles_max of them, touched only as far as `slots_used` */
    uint32_t slots_max, slots_used, slots_free;
    struct list lists[LIST_COUNT];
    uint64_t now; /* CLOCK_MONOTONIC at the start of the turn and again after the wait */

    struct cio_event *events; /* the caller's array of this turn */
    uint32_t events_max, events_count;

    struct chunk_pool chunks;
    struct receive_area area;
    uint8_t *discard; /* where bytes go that nobody wants */
    struct pipe_pool pipes;
    struct pump *pumps;
    uint32_t pumps_used, pumps_room, pumps_free;
    int32_t *descriptors; /* those of this turn's messages */
    uint32_t descriptors_used;
    uint64_t output_bytes_max;

    int wake_descriptor; /* eventfd */
    struct resolver *resolver;
    struct resolve_result *results; /* given to the caller in the last turn */
    struct cio_loop_counters counters;

    struct epoll_state *epoll;
    struct uring_state *uring;
};

#define DISCARD_BYTES 65536u
#define TURN_DESCRIPTORS 4096u

static inline bool loop_has_room(const cio_loop *loop) {
    return loop->events_max - loop->events_count >= EVENTS_PER_SLOT;
}

/* A new event of the slot, to be filled in further. There is room: see EVENTS_PER_SLOT. */
struct cio_event *event_add(cio_loop *loop, const struct slot *slot, enum cio_event_kind kind, int32_t result);

/* ---- Output queue (output.c) --------------------------------------------------------------------------------------- */

ssize_t output_append(cio_loop *loop, struct slot *slot, const uint8_t *bytes, size_t length);
/* Fills at most `max` vectors with what waits; returns how many, and in `total` the bytes. */
int output_gather(struct slot *slot, struct iovec *vectors, int max, size_t *total);
/* Removes the oldest `length` bytes. */
void output_consume(cio_loop *loop, struct slot *slot, size_t length);
void output_drop(cio_loop *loop, struct slot *slot);
/* Moves what waits into one piece of memory: its length, 0 when nothing waits, -ENOMEM. `*bytes` is the caller's to free. */
ssize_t output_take(cio_loop *loop, struct slot *slot, uint8_t **bytes);

/* ---- Streams, as a backend sees them (stream.c) --------------------------------------------------------------------- */

/* The connect has ended: 0 or -errno. */
void stream_connected(cio_loop *loop, struct slot *slot, int error);
/* At the start of a service: reports a connect that ended at once. False when the stream is over. */
bool stream_service_connect(cio_loop *loop, struct slot *slot);
/* Asks the socket how its connect ended, and reports it. */
void stream_connect_check(cio_loop *loop, struct slot *slot);
/* The kernel took `length` bytes of the output. */
void stream_sent(cio_loop *loop, struct slot *slot, size_t length);
/* Sending failed with -errno. */
void stream_send_failed(cio_loop *loop, struct slot *slot, int error);
/* Bytes came in; those of a lingering stream are dropped. True when they became an event. */
bool stream_received(cio_loop *loop, struct slot *slot, uint8_t *data, size_t length);
/* The peer's FIN. */
void stream_ended(cio_loop *loop, struct slot *slot);
/* The socket is broken: FAILED, or the end of a stream that lingers. */
void stream_failed(cio_loop *loop, struct slot *slot, int error);
/* Goes on with what waits for an empty queue: FIN, detach, the end of lingering. */
void stream_settle(cio_loop *loop, struct slot *slot);
/* Whether the backend should keep receiving. */
static inline bool stream_is_read(const struct slot *slot) {
    return (slot->flags & (SLOT_READING | SLOT_ENDED | SLOT_FAILED | SLOT_ZOMBIE | SLOT_GONE | SLOT_CONNECTING)) ==
           SLOT_READING;
}
static inline bool stream_wants_input(const struct slot *slot) {
    return stream_is_read(slot) && (slot->pump_flags & (PUMP_HELD | PUMP_STOPPING | PUMP_SPLICING)) == 0;
}
/* Whether the backend should look for input that a pump splices. */
static inline bool stream_wants_splice(const struct slot *slot) {
    return stream_is_read(slot) && (slot->pump_flags & (PUMP_HELD | PUMP_SPLICING)) == PUMP_SPLICING;
}
/* Whether there is something to send, and sending makes sense. */
static inline bool stream_wants_output(const struct slot *slot) {
    return slot->output.pending > 0 &&
           (slot->flags & (SLOT_CONNECTING | SLOT_WRITE_BROKEN | SLOT_FAILED | SLOT_ZOMBIE | SLOT_GONE)) == 0 &&
           (slot->pump_flags & STREAM_DETACH_UNSENT) == 0;
}
/* Ends every stream whose time to linger is over, lets message sockets try again; the next deadline of that kind, or
 * UINT64_MAX. */
uint64_t timed_expire(cio_loop *loop);

/* The slot's last completion has come in: closes and frees it if it is a zombie, goes on with a detach if not. */
void slot_quiet(cio_loop *loop, struct slot *slot);
/* Closes the slot's descriptor and frees it as soon as nothing is in flight. */
void slot_close(cio_loop *loop, struct slot *slot);

/* ---- Pumps (pump.c) ------------------------------------------------------------------------------------------------- */

int pump_create(cio_loop *loop, const struct cio_loop_options *options);
void pump_destroy(cio_loop *loop);
/* Offers received bytes to the pump that takes from the slot: how many it took. */
size_t pump_take(cio_loop *loop, struct slot *from, uint8_t *data, size_t length);
/* Goes on as far as it can: called when the source is serviced, and when it is ready while it splices. */
void pump_advance(cio_loop *loop, struct slot *from);
/* The target has sent some of its output, or has room after PUMP_BLOCKED. */
void pump_target_moved(cio_loop *loop, struct slot *to);
/* The stream ended, broke or closes: its part in pumps is over. */
void pump_source_over(cio_loop *loop, struct slot *from);
void pump_target_over(cio_loop *loop, struct slot *to);
/* The bytes that a splice took from somewhere and has not yet brought to the slot. */
size_t pump_underway(const cio_loop *loop, const struct slot *to);
/* Closes pipes that nobody has used for a while; when to look again, or UINT64_MAX. */
uint64_t pipes_expire(cio_loop *loop);

/* ---- Listeners, polls (watch.c) and messages (descriptor_pass.c) ----------------------------------------------------- */

/* Goes on with the detach of a listener or a message socket. */
void handle_settle(cio_loop *loop, struct slot *slot);
/* What became of an accept: a descriptor or -errno. False when the listener was paused by an error. */
bool listener_accepted(cio_loop *loop, struct slot *slot, int result);
/* Whether an accept error concerns only the connection that was about to be accepted. */
bool accept_error_is_transient(int error);

enum message_step { MESSAGE_MORE, MESSAGE_EMPTY, MESSAGE_ROOM, MESSAGE_OVER };
/* Receives one message. MORE: go on; EMPTY: nothing there; ROOM: no room in this turn; OVER: END or FAILED was given. */
enum message_step message_receive(cio_loop *loop, struct slot *slot);
/* Sends what waits, while the socket takes it. Clears SLOT_BLOCKED when nothing waits any more; true when the backend
 * should wait for the socket to have room. */
bool message_flush(cio_loop *loop, struct slot *slot);
void message_queue_drop(struct slot *slot);

/* ---- Resolver (resolve.c) ------------------------------------------------------------------------------------------- */

/* Makes events of the look-ups that are done. */
void resolver_collect(cio_loop *loop);
void resolver_results_free(cio_loop *loop);
void resolver_destroy(cio_loop *loop);

/* Makes a descriptor non-blocking: 0 or -errno. */
int descriptor_nonblocking(int descriptor);

#endif
