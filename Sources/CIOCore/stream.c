/* Streams: the public calls, and what a stream does when a backend reports progress.
 *
 *   connecting ──► open ──► finishing ──► half closed      any ──► failed (the caller still closes)
 *                   │  └──► detaching ──► gone             any ──► closed: zombie, or lingering ──► zombie ──► free
 *
 * A public call never makes a system call on the socket (but for opening and closing it) and never an event: it changes
 * flags and queues, and the next turn does the rest.
 *
 * When sending fails because the peer reset or shut the connection, the peer's last words may still lie in the socket
 * (an early error answer, say): they are delivered first, and FAILED follows.
 */
#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

int descriptor_nonblocking(int descriptor) {
    int on = 1;
    return ioctl(descriptor, FIONBIO, &on) == 0 ? 0 : -errno;
}

/* ---- Opening -------------------------------------------------------------------------------------------------------- */

static int stream_start(cio_loop *loop, int descriptor, uint32_t flags, int error, uint64_t tag, cio_handle *handle) {
    struct slot *slot;
    int result = slot_take(loop, SLOT_STREAM, descriptor, tag, &slot);
    if (result < 0) {
        close(descriptor);
        return result;
    }
    slot->flags |= flags;
    slot->error = error;
    slot->output.mark_high = MARK_HIGH_DEFAULT;
    slot->output.mark_low = MARK_LOW_DEFAULT;
    if (error == 0) {
        result = loop->backend->attach(loop, slot);
        if (result < 0) {
            slot_free(loop, slot);
            close(descriptor);
            return result;
        }
    }
    if (flags & (SLOT_CONNECTING | SLOT_CONNECT_DONE)) slot_touch(loop, slot);
    *handle = slot_handle(loop, slot);
    return 0;
}

int cio_stream_open(cio_loop *loop, int descriptor, uint64_t tag, cio_handle *handle) {
    int domain = 0, result = 0;
    socklen_t length = sizeof domain;
    if (getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0) result = -errno;
    if (result == 0) result = descriptor_nonblocking(descriptor);
    if (result < 0) {
        if (result != -EBADF) close(descriptor);
        return result;
    }
    return stream_start(loop, descriptor, domain == AF_UNIX ? SLOT_UNIX : 0, 0, tag, handle);
}

int cio_stream_connect(cio_loop *loop, const struct sockaddr *address, socklen_t length, uint64_t tag,
                       cio_handle *handle) {
    int descriptor = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return -errno;
    uint32_t flags = address->sa_family == AF_UNIX ? SLOT_UNIX : 0;
    int error = 0;
    if (connect(descriptor, address, length) == 0) flags |= SLOT_CONNECT_DONE;
    else if (errno == EINPROGRESS || errno == EINTR) flags |= SLOT_CONNECTING;
    else {
        flags |= SLOT_CONNECTING;
        error = -errno;
    }
    return stream_start(loop, descriptor, flags, error, tag, handle);
}

/* ---- The caller's wishes -------------------------------------------------------------------------------------------- */

void cio_stream_read(cio_loop *loop, cio_handle handle, bool on) {
    struct slot *slot = slot_find(loop, handle, SLOT_STREAM);
    if (slot == NULL || on == ((slot->flags & SLOT_READING) != 0) || (slot->flags & SLOT_DETACHING) != 0) return;
    slot->flags ^= SLOT_READING;
    if (on) {
        if (!(slot->pump_flags & PUMP_HELD)) list_remove(loop, LIST_PAUSED, slot);
    } else if ((slot->flags & (SLOT_CONNECTING | SLOT_FAILED)) == 0) {
        slot->timed_since = loop->now;
        list_add(loop, LIST_PAUSED, slot);
    }
    slot_touch(loop, slot);
}

ssize_t cio_stream_write(cio_loop *loop, cio_handle handle, const void *bytes, size_t length) {
    struct slot *slot = slot_find(loop, handle, SLOT_STREAM);
    if (slot == NULL) return -EBADF;
    if (slot->flags & (SLOT_FINISHING | SLOT_DETACHING | SLOT_WRITE_BROKEN | SLOT_FAILED)) return -EPIPE;
    return output_append(loop, slot, bytes, length);
}

size_t cio_stream_pending(const cio_loop *loop, cio_handle handle) {
    const struct slot *slot = slot_find(loop, handle, SLOT_STREAM);
    return slot == NULL ? 0 : slot->output.pending + pump_underway(loop, slot);
}

struct cio_stream_totals cio_stream_totals_read(const cio_loop *loop, cio_handle handle) {
    const struct slot *slot = slot_find(loop, handle, SLOT_STREAM);
    return slot == NULL ? (struct cio_stream_totals){0} : slot->output.totals;
}

void cio_stream_marks(cio_loop *loop, cio_handle handle, uint32_t high, uint32_t low) {
    struct slot *slot = slot_find(loop, handle, SLOT_STREAM);
    if (slot == NULL) return;
    slot->output.mark_high = high;
    slot->output.mark_low = low < high ? low : high;
    if (slot->output.pending > high) slot->flags |= SLOT_ABOVE_HIGH;
}

void cio_stream_finish(cio_loop *loop, cio_handle handle) {
    struct slot *slot = slot_find(loop, handle, SLOT_STREAM);
    if (slot == NULL || (slot->flags & (SLOT_FINISHING | SLOT_FAILED)) != 0) return;
    slot->flags |= SLOT_FINISHING;
    slot_touch(loop, slot);
}

/* The stream is of no more use to pumps. */
static void pumps_leave(cio_loop *loop, struct slot *slot) {
    if (slot->output.pump_from != 0) pump_source_over(loop, slot);
    if (slot->output.pump_to != 0) pump_target_over(loop, slot);
}

int cio_stream_detach(cio_loop *loop, cio_handle handle, enum cio_detach_mode mode) {
    struct slot *slot = slot_find(loop, handle, SLOT_STREAM);
    if (slot == NULL || (slot->flags & SLOT_FAILED) != 0) return -EBADF;
    pumps_leave(loop, slot);
    list_remove(loop, LIST_PAUSED, slot);
    slot->flags = (slot->flags & ~(uint32_t)SLOT_READING) | SLOT_DETACHING;
    if (mode == CIO_DETACH_UNSENT) slot->pump_flags |= STREAM_DETACH_UNSENT;
    slot_touch(loop, slot);
    return 0;
}

/* ---- Closing -------------------------------------------------------------------------------------------------------- */

static void slot_destroy(cio_loop *loop, struct slot *slot) {
    if (slot->kind == SLOT_STREAM) output_drop(loop, slot);
    if (slot->kind == SLOT_MESSAGE) message_queue_drop(slot);
    if (slot->flags & SLOT_LINGERING) loop->counters.handles_lingering--;
    if (slot->descriptor >= 0 && slot->kind != SLOT_POLL) {
        if (slot->flags & SLOT_RESET) {
            struct linger linger = {.l_onoff = 1, .l_linger = 0};
            (void)setsockopt(slot->descriptor, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        }
        close(slot->descriptor);
    }
    slot_free(loop, slot);
}

void slot_close(cio_loop *loop, struct slot *slot) {
    if (slot->kind == SLOT_STREAM) pumps_leave(loop, slot);
    slot->flags |= SLOT_CLOSED | SLOT_ZOMBIE;
    list_remove(loop, LIST_DIRTY, slot);
    list_remove(loop, LIST_READY, slot);
    list_remove(loop, LIST_LINGER_SEND, slot);
    list_remove(loop, LIST_LINGER_FIN, slot);
    list_remove(loop, LIST_PAUSED, slot);
    list_remove(loop, LIST_RETRY, slot);
    if (loop->backend->quiesce(loop, slot)) slot_destroy(loop, slot);
}

/* Keeps those that linger from taking all handles: the one that has lingered longest goes. */
static void linger_make_room(cio_loop *loop) {
    uint64_t most = loop->slots_max / LINGERING_SHARE;
    if (loop->counters.handles_lingering < (most > 0 ? most : 1)) return;
    uint32_t oldest = loop->lists[LIST_LINGER_FIN].first;
    if (oldest == NONE) oldest = loop->lists[LIST_LINGER_SEND].first;
    if (oldest != NONE) slot_close(loop, &loop->slots[oldest]);
}

static void stream_linger(cio_loop *loop, struct slot *slot) {
    pumps_leave(loop, slot);
    linger_make_room(loop);
    list_remove(loop, LIST_PAUSED, slot);
    slot->flags &= ~(uint32_t)SLOT_DETACHING;
    slot->pump_flags &= (uint8_t)~STREAM_DETACH_UNSENT;
    slot->flags |= SLOT_CLOSED | SLOT_LINGERING | SLOT_FINISHING | SLOT_READING;
    loop->counters.handles_lingering++;
    slot->timed_since = loop->now;
    list_add(loop, LIST_LINGER_SEND, slot);
    slot_touch(loop, slot);
}

/* What was written in the turn of a reset goes out before it, as far as the socket takes it at once: a relay passes on the
 * data that came together with the reset. */
static void send_last_words(cio_loop *loop, struct slot *slot) {
    const uint32_t can_not = SLOT_SENDING | SLOT_BLOCKED | SLOT_WRITE_BROKEN | SLOT_FAILED | SLOT_CONNECTING;
    if (slot->output.pending == 0 || (slot->flags & can_not) != 0) return;
    struct iovec vectors[IOVECS_PER_SEND];
    size_t total;
    struct msghdr header = {.msg_iov = vectors};
    header.msg_iovlen = (size_t)output_gather(slot, vectors, IOVECS_PER_SEND, &total);
    (void)sendmsg(slot->descriptor, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    loop->counters.system_calls++;
}

void cio_stream_close(cio_loop *loop, cio_handle handle, enum cio_close_mode mode) {
    struct slot *slot = slot_of_generation(loop, (uint32_t)handle, (uint32_t)(handle >> 32));
    if (slot == NULL || slot->kind != SLOT_STREAM || (slot->flags & SLOT_CLOSED) != 0) return;
    if (slot->flags & SLOT_GONE) { /* the descriptor is the caller's already */
        slot->flags |= SLOT_CLOSED;
        return;
    }
    if (mode == CIO_CLOSE_RESET) {
        send_last_words(loop, slot);
        slot->flags |= SLOT_RESET;
    }
    bool pointless = (slot->flags & (SLOT_FAILED | SLOT_WRITE_BROKEN | SLOT_CONNECTING)) != 0 ||
                     ((slot->flags & SLOT_ENDED) != 0 && slot->output.pending == 0);
    if (mode == CIO_CLOSE_LINGER && !pointless) stream_linger(loop, slot);
    else slot_close(loop, slot);
}

static void linger_progress(cio_loop *loop, struct slot *slot) {
    if (!(slot->flags & SLOT_LINGER_SEND)) return;
    list_remove(loop, LIST_LINGER_SEND, slot);
    slot->timed_since = loop->now;
    list_add(loop, LIST_LINGER_SEND, slot);
}

/* A reset that came while nobody read: without a look at it, a connection that back-pressure holds would outlive its peer. */
static void paused_check(cio_loop *loop, struct slot *slot) {
    struct pollfd look = {.fd = slot->descriptor};
    list_remove(loop, LIST_PAUSED, slot);
    loop->counters.system_calls++;
    if (poll(&look, 1, 0) > 0 && (look.revents & POLLERR) != 0) {
        int error = 0;
        socklen_t length = sizeof error;
        if (getsockopt(slot->descriptor, SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error == 0) error = ECONNRESET;
        stream_failed(loop, slot, -error);
        return;
    }
    slot->timed_since = loop->now;
    list_add(loop, LIST_PAUSED, slot);
}

uint64_t timed_expire(cio_loop *loop) {
    static const struct {
        enum list_kind list;
        uint64_t time;
    } rows[] = {{LIST_LINGER_SEND, LINGER_SEND_NS},
                {LIST_LINGER_FIN, LINGER_FIN_NS},
                {LIST_PAUSED, PAUSED_NS},
                {LIST_RETRY, RETRY_NS}};
    uint64_t next = UINT64_MAX;
    for (size_t row = 0; row < sizeof rows / sizeof rows[0]; row++) {
        uint32_t index;
        while ((index = loop->lists[rows[row].list].first) != NONE) {
            struct slot *slot = &loop->slots[index];
            uint64_t end = slot->timed_since + rows[row].time;
            if (end > loop->now || (rows[row].list == LIST_PAUSED && !loop_has_room(loop))) {
                if (end < next) next = end;
                break;
            }
            if (rows[row].list == LIST_PAUSED) {
                paused_check(loop, slot);
                continue;
            }
            if (rows[row].list == LIST_RETRY) {
                list_remove(loop, LIST_RETRY, slot);
                slot_touch(loop, slot);
                continue;
            }
            slot_close(loop, slot);
        }
    }
    return next;
}

void slot_quiet(cio_loop *loop, struct slot *slot) {
    if (slot->flags & SLOT_ZOMBIE) slot_destroy(loop, slot);
    else if (slot->kind == SLOT_STREAM && (slot->flags & SLOT_FAILED) != 0) output_drop(loop, slot);
    else if (slot->kind == SLOT_STREAM) stream_settle(loop, slot);
}

/* ---- What a backend reports ----------------------------------------------------------------------------------------- */

static bool stream_is_over(const struct slot *slot) {
    return (slot->flags & (SLOT_FAILED | SLOT_ZOMBIE | SLOT_GONE)) != 0;
}

void stream_connected(cio_loop *loop, struct slot *slot, int error) {
    if (stream_is_over(slot)) return;
    if (error < 0) {
        stream_failed(loop, slot, error);
        return;
    }
    slot->flags &= ~(uint32_t)(SLOT_CONNECTING | SLOT_CONNECT_DONE);
    if (!(slot->flags & SLOT_CLOSED)) event_add(loop, slot, CIO_EVENT_CONNECTED, 0);
    slot_touch(loop, slot);
}

bool stream_service_connect(cio_loop *loop, struct slot *slot) {
    if (stream_is_over(slot)) return false;
    if (slot->error != 0 && (slot->flags & SLOT_CONNECTING) != 0) stream_connected(loop, slot, slot->error);
    else if (slot->flags & SLOT_CONNECT_DONE) stream_connected(loop, slot, 0);
    return !stream_is_over(slot);
}

void stream_connect_check(cio_loop *loop, struct slot *slot) {
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(slot->descriptor, SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
    loop->counters.system_calls++;
    stream_connected(loop, slot, -error);
}

void stream_sent(cio_loop *loop, struct slot *slot, size_t length) {
    output_consume(loop, slot, length);
    slot->output.totals.sent += length;
    if (stream_is_over(slot)) return;
    linger_progress(loop, slot);
    if (slot->output.pump_to != 0) pump_target_moved(loop, slot);
    if ((slot->flags & SLOT_ABOVE_HIGH) && slot->output.pending <= slot->output.mark_low) {
        slot->flags &= ~(uint32_t)SLOT_ABOVE_HIGH;
        if (!(slot->flags & SLOT_CLOSED)) event_add(loop, slot, CIO_EVENT_DRAINED, 0);
    }
}

void stream_send_failed(cio_loop *loop, struct slot *slot, int error) {
    if (stream_is_over(slot)) return;
    bool maybe_last_words = (error == -EPIPE || error == -ECONNRESET) && stream_is_read(slot) &&
                            (slot->flags & SLOT_CLOSED) == 0;
    if (!maybe_last_words) {
        stream_failed(loop, slot, error);
        return;
    }
    output_drop(loop, slot);
    if (slot->output.pump_to != 0) pump_target_over(loop, slot);
    slot->flags |= SLOT_WRITE_BROKEN;
    slot->error = error;
    /* Makes the receive end after what lies in the socket, whatever the peer does. */
    (void)shutdown(slot->descriptor, SHUT_RD);
}

bool stream_received(cio_loop *loop, struct slot *slot, uint8_t *data, size_t length) {
    if (stream_is_over(slot)) return false;
    if (slot->flags & SLOT_CLOSED) {
        slot->output.discarded += length;
        return false;
    }
    if (slot->output.pump_from != 0) {
        size_t taken = pump_take(loop, slot, data, length);
        if (taken == length) return false;
        data += taken;
        length -= taken;
    }
    struct cio_event *event = event_add(loop, slot, CIO_EVENT_DATA, 0);
    event->data = data;
    event->length = (uint32_t)length;
    return true;
}

void stream_ended(cio_loop *loop, struct slot *slot) {
    if (stream_is_over(slot) || (slot->flags & SLOT_ENDED) != 0) return;
    if (slot->flags & SLOT_WRITE_BROKEN) {
        stream_failed(loop, slot, slot->error);
        return;
    }
    if (slot->output.pump_from != 0) pump_source_over(loop, slot);
    slot->flags |= SLOT_ENDED;
    if (!(slot->flags & SLOT_CLOSED)) event_add(loop, slot, CIO_EVENT_END, 0);
    else stream_settle(loop, slot);
}

void stream_failed(cio_loop *loop, struct slot *slot, int error) {
    if (stream_is_over(slot)) return;
    if (slot->flags & SLOT_CLOSED) {
        slot_close(loop, slot);
        return;
    }
    if (slot->flags & SLOT_WRITE_BROKEN) error = slot->error;
    pumps_leave(loop, slot);
    list_remove(loop, LIST_PAUSED, slot);
    slot->flags |= SLOT_FAILED;
    event_add(loop, slot, CIO_EVENT_FAILED, error);
    if (loop->backend->quiesce(loop, slot)) output_drop(loop, slot);
}

static void stream_finish_now(cio_loop *loop, struct slot *slot) {
    if (shutdown(slot->descriptor, SHUT_WR) != 0) {
        stream_failed(loop, slot, -errno);
        return;
    }
    slot->flags |= SLOT_FIN_SENT;
    if (!(slot->flags & SLOT_CLOSED)) {
        event_add(loop, slot, CIO_EVENT_FINISHED, 0);
    } else {
        list_remove(loop, LIST_LINGER_SEND, slot);
        slot->timed_since = loop->now;
        list_add(loop, LIST_LINGER_FIN, slot);
    }
}

/* Hands the descriptor back once nothing is in flight. */
static void stream_detach_now(cio_loop *loop, struct slot *slot) {
    if (!loop->backend->quiesce(loop, slot)) return;
    ssize_t length = output_take(loop, slot, &slot->output.unsent);
    if (length < 0) {
        /* No memory for the rest: then it is sent first, after all. */
        slot->pump_flags &= (uint8_t)~STREAM_DETACH_UNSENT;
        slot_touch(loop, slot);
        return;
    }
    struct cio_event *event = event_add(loop, slot, CIO_EVENT_DETACHED, slot->descriptor);
    event->data = slot->output.unsent;
    event->length = (uint32_t)length;
    slot->descriptor = -1;
    slot->flags |= SLOT_GONE;
    slot_touch(loop, slot);
}

void stream_settle(cio_loop *loop, struct slot *slot) {
    if (stream_is_over(slot) || (slot->flags & SLOT_CONNECTING) != 0) return;
    if (slot->flags & SLOT_WRITE_BROKEN) {
        if (!stream_is_read(slot)) stream_failed(loop, slot, slot->error);
        return;
    }
    if (slot->pump_flags & STREAM_DETACH_UNSENT) {
        stream_detach_now(loop, slot);
        return;
    }
    if (slot->output.pending > 0 || (slot->flags & SLOT_SENDING) != 0) return;
    if ((slot->flags & (SLOT_FINISHING | SLOT_FIN_SENT)) == SLOT_FINISHING) {
        stream_finish_now(loop, slot);
        if (stream_is_over(slot)) return;
    }
    if ((slot->flags & SLOT_LINGERING) != 0 && (slot->flags & SLOT_ENDED) != 0) {
        slot_close(loop, slot);
        return;
    }
    if (slot->flags & SLOT_DETACHING) stream_detach_now(loop, slot);
}
