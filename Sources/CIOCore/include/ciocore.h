/* ciocore: the kernel's mechanisms for one single-threaded event loop, in C, with two backends (io_uring, epoll)
 * behind this one interface. It knows sockets, bytes, descriptors and time, and nothing of any protocol.
 *
 * Why this shape: the caller (Swift) asks for things, and learns of what happened in one batch of plain records a
 * turn. No callback ever runs out of C, so nothing recurses and a turn is bounded. Whatever the kernel may still
 * touch after the caller let go (a send in flight, a receive not yet cancelled) is owned here: a closed handle is
 * dead to the caller at once and its memory and slot are reused only after the kernel's last completion.
 *
 * Invariants:
 *  - A handle is slot + generation. A late completion of an earlier generation is dropped and counted.
 *  - Received bytes lie in loop-owned buffers and are valid until the next cio_loop_turn. A connection that is idle
 *    holds no read buffer.
 *  - Results: 0 or a count on success, -errno on failure. Functions that take a descriptor own it from then on, also
 *    when they fail (they close it), unless the comment says otherwise.
 *  - Everything is called on one thread; only cio_loop_wake may be called from another.
 */
#ifndef CIOCORE_H
#define CIOCORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/* ---- Loop ------------------------------------------------------------------------------------------------------ */

typedef struct cio_loop cio_loop;

/* generation << 32 | slot. 0 is never a valid handle. */
typedef uint64_t cio_handle;

enum cio_backend {
    CIO_BACKEND_AUTO = 0,     /* io_uring when the probe succeeds, else epoll */
    CIO_BACKEND_IO_URING = 1, /* fail when the probe fails */
    CIO_BACKEND_EPOLL = 2,
};

struct cio_loop_options {
    uint32_t backend;              /* enum cio_backend */
    uint32_t handles_max;          /* most handles alive at once; more: -ENFILE from the open functions */
    uint32_t ring_entries;         /* io_uring submission entries, power of two (0: 1024) */
    uint32_t receive_buffers;      /* provided buffers, power of two (0: 128) */
    uint32_t receive_buffer_bytes; /* bytes of each (0: 8192) */
    uint32_t pipes_max;            /* most pipes that pumps splice through; without one a pump copies (0: none). With
                                      any, the process ignores SIGPIPE: splice(2) has no flag against it */
    uint64_t output_bytes_max;     /* most bytes queued for sending over all handles (0: no limit); more: -ENOBUFS */
};

/* Makes a loop. `reason` receives one line that says which backend runs and, where a probe failed, why
 * (for example "epoll: io_uring_setup: Operation not permitted"). -errno when the asked-for backend can't be had;
 * `reason` is filled then as well. */
int cio_loop_create(cio_loop **loop, const struct cio_loop_options *options, char *reason, size_t reason_size);

/* Closes every descriptor it still owns, abruptly, and frees all. */
void cio_loop_destroy(cio_loop *loop);

/* The backend in use: CIO_BACKEND_IO_URING or CIO_BACKEND_EPOLL. */
uint32_t cio_loop_backend(const cio_loop *loop);

enum cio_event_kind {
    CIO_EVENT_DATA = 1,      /* data, length: received bytes (mutable, the caller's until the next turn) */
    CIO_EVENT_END = 2,       /* the peer finished sending (FIN); follows all DATA */
    CIO_EVENT_DRAINED = 3,   /* pending output fell to the low mark after it had exceeded the high mark */
    CIO_EVENT_CONNECTED = 4, /* a cio_stream_connect succeeded */
    CIO_EVENT_FAILED = 5,    /* result -errno: the socket is broken or the connect failed; the last event of the handle,
                                which the caller must still close */
    CIO_EVENT_DETACHED = 6,  /* result: the descriptor, the caller's from now on; the handle is dead. data, length: what a
                                stream had not sent (CIO_DETACH_UNSENT) */
    CIO_EVENT_ACCEPTED = 7,  /* result: a new connection's descriptor (O_NONBLOCK, CLOEXEC), the caller's; or -errno
                                (EMFILE, ENFILE, ENOBUFS, ENOMEM), after which the listener is paused: the caller decides
                                when to resume */
    CIO_EVENT_MESSAGE = 8,   /* a whole SEQPACKET message: data, length, descriptors, descriptor_count (the caller's);
                                result 0, or -EMFILE when this process had no room for all its descriptors: the first
                                ones are there, the others were closed by the kernel */
    CIO_EVENT_READY = 9,     /* a polled foreign descriptor is ready; result: the poll mask. One shot: re-arm it */
    CIO_EVENT_RESOLVED = 10, /* a cio_resolve finished: data: array of struct sockaddr_storage, length: bytes of it;
                                result 0, or a getaddrinfo code (positive), data then holds its text */
    CIO_EVENT_FINISHED = 11, /* cio_stream_finish has sent everything and the FIN */
    CIO_EVENT_PUMPED = 12,   /* a pump of limited length carried all of it; what follows comes as DATA again */
};

/* One thing that happened. Plain data; pointers are valid until the next cio_loop_turn. */
struct cio_event {
    cio_handle handle;
    uint64_t tag; /* what the caller gave when it opened the handle */
    uint32_t kind;
    int32_t result;
    uint8_t *data;
    uint32_t length;
    uint32_t descriptor_count;
    int32_t *descriptors;
};

/* One turn: submits all that is queued, waits for something to happen until `deadline_ns` on CLOCK_MONOTONIC
 * (0: does not wait; UINT64_MAX: no deadline), and stores at most `max` events. Returns how many (0 at the deadline or
 * a signal), or -errno for what only a bug can cause. Events of one handle keep their order. The batch holds no event
 * of a handle after its FAILED or DETACHED; events that are already in the batch of a handle which the caller closes
 * while it works through the batch are recognised by cio_handle_alive. */
int cio_loop_turn(cio_loop *loop, uint64_t deadline_ns, struct cio_event *events, uint32_t max);

/* CLOCK_MONOTONIC as the last turn read it after its wait, in nanoseconds. */
uint64_t cio_loop_now(const cio_loop *loop);

/* Ends the wait of a turn in progress or of the next one. Callable from any thread and from a signal handler. */
void cio_loop_wake(cio_loop *loop);

/* Whether the handle is open: neither closed, detached nor reused. */
bool cio_handle_alive(const cio_loop *loop, cio_handle handle);

struct cio_loop_counters {
    uint64_t turns, events, stale_completions, receive_buffer_shortages, system_calls;
    uint64_t handles_open;    /* gauge; includes those that linger */
    uint64_t handles_lingering;
    uint64_t output_bytes;    /* gauge: bytes queued for sending */
    uint64_t output_chunks;   /* gauge: chunks allocated, in use or pooled */
    uint64_t pump_bytes_copied, pump_bytes_spliced;
    uint64_t pipe_shortages;  /* times that a pump had to copy because no pipe of use could be had */
    uint64_t pumps, pipes;    /* gauges: pumps that run; pipes open, in use or pooled */
};
void cio_loop_counters_read(const cio_loop *loop, struct cio_loop_counters *counters);

/* CLOCK_MONOTONIC and CLOCK_REALTIME in nanoseconds. */
uint64_t cio_clock_monotonic(void);
uint64_t cio_clock_realtime(void);

/* ---- Streams: connected stream sockets (TCP or Unix) -------------------------------------------------------------- */

/* Takes a connected stream socket and makes it non-blocking. Reading is off until cio_stream_read. */
int cio_stream_open(cio_loop *loop, int descriptor, uint64_t tag, cio_handle *handle);

/* Starts to connect. CONNECTED or FAILED follows, never from within this call. The caller bounds the time. */
int cio_stream_connect(cio_loop *loop, const struct sockaddr *address, socklen_t length, uint64_t tag,
                       cio_handle *handle);

/* Switches reading on or off. Bytes that the kernel had already delivered when it was switched off still come as DATA. */
void cio_stream_read(cio_loop *loop, cio_handle handle, bool on);

/* Queues a copy of the bytes; they are sent at the end of the turn, gathered. Returns the bytes now pending, or -EPIPE
 * after finish, -EBADF for a dead handle, -ENOBUFS at output_bytes_max (nothing queued then). */
ssize_t cio_stream_write(cio_loop *loop, cio_handle handle, const void *bytes, size_t length);

/* The same for a caller that produces bytes in place: returns room of at least 1 and at most `want` bytes and its size
 * in `got`; NULL as cio_stream_write fails. cio_stream_commit says how many were written (at most `got`) before any
 * other call on this loop. */
uint8_t *cio_stream_reserve(cio_loop *loop, cio_handle handle, size_t want, size_t *got);
ssize_t cio_stream_commit(cio_loop *loop, cio_handle handle, size_t length);

/* Bytes queued and not yet taken by the kernel. */
size_t cio_stream_pending(const cio_loop *loop, cio_handle handle);

/* High and low mark in bytes for DRAINED (defaults 262144 and 65536). */
void cio_stream_marks(cio_loop *loop, cio_handle handle, uint32_t high, uint32_t low);

/* What was carried in the handle's life: bytes that pumps took from the stream and when they did last (cio_loop_now of
 * then), and bytes that the kernel took for it, from pumps and from writes. */
struct cio_stream_totals {
    uint64_t pumped, pumped_at, sent;
};
struct cio_stream_totals cio_stream_totals_read(const cio_loop *loop, cio_handle handle);

/* Sends what is queued, then FIN (shutdown SHUT_WR). FINISHED follows. Reading goes on. */
void cio_stream_finish(cio_loop *loop, cio_handle handle);

enum cio_close_mode {
    CIO_CLOSE_LINGER = 0, /* send what is queued, FIN, discard what still comes until the peer's FIN, at most
                             `linger_ms` in all without progress, 5 s after the FIN and 16 MiB; then close. Keeps an answer
                             from being destroyed by a reset while the peer still sends. A stream that is not yet
                             connected is closed at once. At most a quarter of handles_max lingers: then the one that
                             has lingered longest is closed */
    CIO_CLOSE_NOW = 1,    /* drop what is queued and close */
    CIO_CLOSE_RESET = 2,  /* send what is queued as far as that does not block, drop the rest, reset (SO_LINGER 0) */
};
#define CIO_LINGER_MS 30000

/* Closes. The handle is dead to the caller from here on; no event follows. */
void cio_stream_close(cio_loop *loop, cio_handle handle, enum cio_close_mode mode);

enum cio_detach_mode {
    CIO_DETACH_SENT = 0,   /* what is queued is sent first */
    CIO_DETACH_UNSENT = 1, /* what the kernel has not taken yet comes with DETACHED, to be sent by whoever goes on; a finish
                              that waits for it is forgotten */
};

/* Takes the socket out of the loop: stops reading, waits for every operation in flight, then DETACHED hands the descriptor
 * back. DATA and END may still come before it. -EBADF for a dead handle. */
int cio_stream_detach(cio_loop *loop, cio_handle handle, enum cio_detach_mode mode);

/* The descriptor behind a handle, still owned by the loop: for socket options and names only. -EBADF if dead. */
int cio_handle_descriptor(const cio_loop *loop, cio_handle handle);

/* ---- Pumps: from one stream to another with no caller in between ------------------------------------------------------ */

/* From the next turn on, carries what `from` receives to `to`, `length` bytes or (UINT64_MAX) until `from` ends. Reading
 * of `from` is up to the caller, as always; a full `to` holds it back by itself. There is no DATA of `from` meanwhile. The
 * pump is over with the first of
 *  - PUMPED: `length` bytes were handed to `to`;
 *  - END of `from`: everything before it was handed to `to` (the caller decides whether `to` finishes, too);
 *  - FAILED of `from`;
 *  - FAILED of `to`, or the caller closing it: then `from` is not read until cio_pump_stop, or until it is closed.
 * The caller writes nothing to `to` while the pump runs. Either stream may be in another pump the other way.
 * 0; -EBUSY when one of them is in a pump of the same direction; -EPIPE when one of them can't go on; -ENOMEM. */
int cio_pump_start(cio_loop *loop, cio_handle from, cio_handle to, uint64_t length);

/* Ends the pump that takes from `from`, if there is one. Bytes that it took and that did not reach `to` yet are lost, so
 * this is for the case that `to` is of no more use. */
void cio_pump_stop(cio_loop *loop, cio_handle from);

/* ---- Listeners, messages, foreign descriptors -------------------------------------------------------------------- */

/* Takes a listening socket; ACCEPTED for each connection (multishot where the kernel has it). */
int cio_listener_open(cio_loop *loop, int descriptor, uint64_t tag, cio_handle *handle);
/* Pauses or resumes accepting. A connection that was accepted before the pause still comes. */
void cio_listener_accept(cio_loop *loop, cio_handle handle, bool on);

/* Takes a connected SOCK_SEQPACKET Unix socket; MESSAGE for each message, with up to CIO_DESCRIPTORS_MAX descriptors
 * (CLOEXEC). A message that is too long, or with too many descriptors, is FAILED with -EMSGSIZE. END at EOF. */
#define CIO_DESCRIPTORS_MAX 64
#define CIO_MESSAGE_BYTES_MAX 131072
int cio_message_open(cio_loop *loop, int descriptor, uint64_t tag, cio_handle *handle);

/* Sends a message, at once or, when the socket is full, when it has room: order is kept. The descriptors are
 * duplicated or sent before the call returns when `take` is false; with `take` they are closed once sent. At most
 * `CIO_MESSAGES_QUEUED_MAX` wait; then -EAGAIN (nothing taken). Returns the number of messages that wait. */
#define CIO_MESSAGES_QUEUED_MAX 4096
int cio_message_send(cio_loop *loop, cio_handle handle, const void *bytes, size_t length, const int *descriptors,
                     uint32_t descriptor_count, bool take);
/* Messages that wait until the socket has room. */
size_t cio_message_waiting(const cio_loop *loop, cio_handle handle);

/* Polls a descriptor that stays the caller's (POLLIN …, as poll(2)). READY once, then cio_poll_arm for the next. */
int cio_poll_open(cio_loop *loop, int descriptor, uint32_t mask, uint64_t tag, cio_handle *handle);
void cio_poll_arm(cio_loop *loop, cio_handle handle, uint32_t mask);

/* Takes a listener or a message socket out of the loop: what was accepted and the messages that were received come first,
 * queued messages are sent; then DETACHED hands the descriptor back. -EBADF for a dead handle. */
int cio_handle_detach(cio_loop *loop, cio_handle handle);

/* Closes a listener, message socket (queued messages are dropped), poll, or resolve. */
void cio_handle_close(cio_loop *loop, cio_handle handle);

/* Looks a name up (getaddrinfo, stream sockets) on a helper thread. RESOLVED follows. */
int cio_resolve(cio_loop *loop, const char *host, const char *port, uint64_t tag, cio_handle *handle);

/* ---- UDP ---------------------------------------------------------------------------------------------------------- */

/* A packet that was received: `length` bytes of it lie in the area; `truncated`: it was longer. */
struct cio_datagram {
    struct sockaddr_storage from;
    uint32_t length;
    bool truncated;
};
#define CIO_DATAGRAMS_MAX 16u

/* A UDP socket: non-blocking, CLOEXEC; one for IPv6 takes IPv4 as well. The caller polls and closes it. */
int cio_datagram_bind(const struct sockaddr *address, socklen_t length);
/* Takes up to `count` packets (at most CIO_DATAGRAMS_MAX) that wait: the first into the first `size` bytes of the area, and so
 * on. Returns how many, or -errno (-EAGAIN: none waits). */
int cio_datagram_receive(int descriptor, uint8_t *area, size_t size, struct cio_datagram *datagrams, uint32_t count);
/* Sends a packet without waiting: 0 or -errno. */
int cio_datagram_send(int descriptor, const void *bytes, size_t length, const struct sockaddr *to, socklen_t to_length);

/* ---- Sockets ------------------------------------------------------------------------------------------------------ */

/* A listening TCP socket: non-blocking, CLOEXEC, SO_REUSEADDR, backlog SOMAXCONN. `v6_only` matters for IPv6 only. `share_port`:
 * sockets that share theirs may overlap with the address. */
int cio_socket_listen(const struct sockaddr *address, socklen_t length, bool v6_only, bool share_port);
/* Makes calls on a socket that another program made return at once. */
void cio_socket_nonblocking(int descriptor);
/* Whether sockets that are bound later may overlap with this one (SO_REUSEPORT). */
int cio_socket_share_port(int descriptor, bool share);
/* A listening socket drops the first segment (SYN) of new connections from now on, so that the peer sends it again, after a
 * second, to whoever listens then. Handshakes that have begun go on. */
int cio_socket_drop_handshakes(int descriptor);
/* A connection that waits at a listening socket, non-blocking and CLOEXEC; -EAGAIN: none. */
int cio_socket_accept(int descriptor);
/* A listening Unix stream socket with the given mode; removes a stale socket of that name that nobody listens on. */
int cio_socket_listen_unix(const char *path, mode_t mode);
/* A pair of Unix sockets: SOCK_STREAM or SOCK_SEQPACKET; CLOEXEC. */
int cio_socket_pair(int type, int descriptors[2]);
/* The addresses of this machine's interfaces that are up, IPv4 and IPv6, at most `count`: how many there are, or -errno. */
int cio_machine_addresses(struct sockaddr_storage *addresses, uint32_t count);
/* The peer's or own address. */
int cio_socket_peer(int descriptor, struct sockaddr_storage *address, socklen_t *length);
int cio_socket_name(int descriptor, struct sockaddr_storage *address, socklen_t *length);
/* TCP_NODELAY; keep-alive after `idle` s, every `interval` s, `count` times; TCP_USER_TIMEOUT in ms (0: none).
 * Quietly does nothing on a Unix socket. */
int cio_socket_nodelay(int descriptor);
/* TCP_NOTSENT_LOWAT: the socket is writable only while fewer bytes wait in the kernel to be sent for the first time. */
int cio_socket_unsent_max(int descriptor, unsigned bytes);
int cio_socket_keepalive(int descriptor, int idle, int interval, int count, unsigned user_timeout_ms);
/* Bytes of a TCP socket that the peer has not acknowledged, sent or not; or -errno. */
int cio_socket_unacknowledged(int descriptor);
/* Credentials of the process at the other end of a Unix socket. */
int cio_socket_credentials(int descriptor, pid_t *pid, uid_t *uid, gid_t *gid);
/* What a descriptor is: 1 stream socket, 2 seqpacket, 3 datagram, 4 listening stream, 5 regular file or memfd, 0 other. */
int cio_descriptor_kind(int descriptor);
/* close(2), once, without EINTR trouble. */
void cio_descriptor_close(int descriptor);
/* Writes all to a blocking or non-blocking file, memfd or pipe; no waiting: bytes written or -errno (-EAGAIN: none). */
ssize_t cio_descriptor_write(int descriptor, const void *bytes, size_t length);
/* The same, but first asks poll(2) without waiting whether it would block (for an inherited stderr): -EAGAIN if so. */
ssize_t cio_descriptor_write_ready(int descriptor, const void *bytes, size_t length);

/* ---- Processes, signals, memory ------------------------------------------------------------------------------------ */

/* Starts `path` (or, if `executable` >= 0, that descriptor through execveat) with arguments and environment; descriptors[i] becomes descriptor i+3 in the child, all others are closed; signals are reset to default;
 * with `die_with_parent` the child gets SIGKILL when the parent ends. Returns the pid and a pidfd (poll it: readable at
 * the child's end), or -errno, also for a failed exec. */
pid_t cio_process_spawn(const char *path, int executable, char *const arguments[], char *const environment[], const int *descriptors,
                        uint32_t descriptor_count, bool die_with_parent, int *pidfd);
/* A handle of a child that this program did not start itself, for cio_process_signal and to hear of its end: -errno. */
int cio_process_open(pid_t pid);
/* Asks the scheduler for turns of so many microseconds (a slice, sched(7); since Linux 6.12, else nothing happens): a process with a
 * short one gets its turn sooner when others keep the processors busy, and gives it up sooner. pid 0: this process. Children begin
 * with a long one, so that their start holds nobody up. */
enum { CIO_SLICE_SHORT = 200, CIO_SLICE_LONG = 10000 };
void cio_process_set_slice(pid_t pid, uint32_t microseconds);
/* Executes the program that the descriptor holds in this one's place: -errno, when that fails. */
int cio_process_replace(int executable, char *const arguments[], char *const environment[]);
/* Reaps one ended child without waiting: its pid and in `status` what waitpid gives, 0 when there is none. */
pid_t cio_process_reap(pid_t pid, int *status);
int cio_process_signal(int pidfd, int signal);
/* Blocks the signals (also for later threads and until an exec that unblocks them) and returns a signalfd. */
int cio_signal_open(const int *signals, uint32_t count);
/* The next pending signal's number from a signalfd, 0 when there is none. */
int cio_signal_read(int descriptor);
/* Ignores SIGPIPE. */
void cio_signal_ignore_pipe(void);
/* A sealed-size memfd of `size` zero bytes (size 0: growable); CLOEXEC. */
int cio_memory_create(const char *name, size_t size);
/* Maps it shared, read-write; NULL and errno on failure. */
void *cio_memory_map(int descriptor, size_t size);
void cio_memory_unmap(void *address, size_t size);
/* The size of a file or memfd in bytes. */
int64_t cio_descriptor_size(int descriptor);
/* Reads at `offset` of a file or memfd: bytes read (0 at the end) or -errno. */
ssize_t cio_descriptor_read_at(int descriptor, void *bytes, size_t length, uint64_t offset);
/* Processors this process may run on (affinity and cgroup quota, at least 1). */
unsigned cio_processor_count(void);
/* The path with which this process's program was executed, as execve got it; NULL when the kernel does not say. Never freed. */
const char *cio_started_path(void);
/* Raises the soft limit of open files to the hard one; returns the limit in force. */
uint64_t cio_descriptor_limit_raise(void);
/* Raises the limit of locked memory, which rings and their buffers are counted against, as far as it goes. */
void cio_memlock_limit_raise(void);

/* Whether something keeps the machine's clock right, as the kernel was told: 0 or 1, or -errno. */
int cio_clock_synchronised(void);
/* Fills with random bytes from the kernel. */
int cio_random(void *bytes, size_t length);

/* ---- Confinement and diagnosis ----------------------------------------------------------------------------------------- */

/* Looks up USER[:GROUP], each a name or a number. A number without an account is in the group of the same number, unless
 * one is named. Waits for the system's databases. -ENOENT: no such user; -ESRCH: no such group; -EINVAL: no such form. */
int cio_user_lookup(const char *text, uid_t *uid, gid_t *gid);

/* No core file of this process, which has keys in its memory, and nobody but root may attach to it or read its memory, until
 * the next exec: 0 or -errno. */
int cio_process_hide(void);

/* Gives up all privileges of this process, for ever: every capability in every set, what an exec could bring
 * (no_new_privs) and, with `change_user`, user, group and supplementary groups; then its memory is closed to other
 * processes of that user as well. The process gets SIGKILL when its parent ends. -errno: it must not go on. */
int cio_privileges_drop(bool change_user, uid_t uid, gid_t gid);

/* Whether a child of this process could become that user, and this process could still end it: tries it. 0 or -errno. */
int cio_privileges_probe(uid_t uid, gid_t gid);

/* From here on this process, or this thread and those that it starts, makes only the system calls that a worker needs for the loop that it has made (filter.c); any
 * other ends it with SIGSYS. -EOPNOTSUPP: an architecture for which there is no table, or a build with a sanitizer. */
int cio_filter_install(bool every_thread);

/* Whenever this process gets the signal, it writes the stack of the calling thread to stderr and goes on: one line, JSON
 * or for people. With `crashes`, so do the signals of a crash before they end it. For one thread of a process; to be
 * called before files are out of reach. */
int cio_stack_install(int signal, bool json, bool crashes);

/* Reaps one ended child of which nobody else hears: `*pid` is one that is ended and not in `own`. Returns 1 when there
 * was one, 0 when none is left; 2 when one of `own` is in the way, which its owner reaps: to be asked again then. */
int cio_process_reap_other(const pid_t *own, uint32_t count, pid_t *pid);

#endif
