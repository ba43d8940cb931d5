/* Message sockets: whole SEQPACKET messages, with descriptors riding along (SCM_RIGHTS).
 *
 * Messages are sent straight away while the socket has room, on both backends: a plain sendmsg costs less than a
 * submission, and the caller's descriptors need no copy. Only when the socket is full a message is copied and waits.
 *
 * Invariants: a waiting message owns its descriptors; messages are sent in order, so nothing is sent directly while one
 * waits. What is received owns nothing until the event: every early exit closes the descriptors that came.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A message that waits for room. */
struct message {
    struct message *next;
    size_t length;
    uint32_t descriptor_count;
    int32_t descriptors[CIO_DESCRIPTORS_MAX];
    uint8_t bytes[];
};

union control {
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(sizeof(int) * CIO_DESCRIPTORS_MAX)];
};

int cio_message_open(cio_loop *loop, int descriptor, uint64_t tag, cio_handle *handle) {
    int result = descriptor_nonblocking(descriptor);
    if (result == -EBADF) return result;
    if (result == 0 && cio_descriptor_kind(descriptor) != 2) result = -EPROTOTYPE;
    if (result == 0) result = slot_open(loop, SLOT_MESSAGE, descriptor, SLOT_UNIX, 0, tag, handle);
    if (result < 0) close(descriptor);
    return result;
}

static void descriptors_close(const int32_t *descriptors, uint32_t count) {
    for (uint32_t index = 0; index < count; index++) close(descriptors[index]);
}

/* One sendmsg: 0 or -errno. */
static int message_transmit(int descriptor, const uint8_t *bytes, size_t length, const int32_t *descriptors,
                            uint32_t descriptor_count) {
    union control control;
    struct iovec vector = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = length};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1};
    if (descriptor_count > 0) {
        size_t size = sizeof(int) * descriptor_count;
        memset(&control, 0, sizeof control);
        header.msg_control = control.bytes;
        header.msg_controllen = CMSG_SPACE(size);
        struct cmsghdr *part = CMSG_FIRSTHDR(&header);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(size);
        memcpy(CMSG_DATA(part), descriptors, size);
    }
    ssize_t sent;
    do sent = sendmsg(descriptor, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

/* Whether a failed send may succeed later without anything being wrong. ETOOMANYREFS: too many descriptors of this user
 * are on their way already. */
static bool message_may_wait(int error) {
    return error == -EAGAIN || error == -ENOBUFS || error == -ENOMEM || error == -ETOOMANYREFS;
}

static int message_enqueue(struct slot *slot, const void *bytes, size_t length, const int *descriptors,
                           uint32_t descriptor_count, bool take) {
    struct message *message = malloc(sizeof *message + length);
    if (message == NULL) return -ENOMEM;
    *message = (struct message){.length = length};
    if (length > 0) memcpy(message->bytes, bytes, length);
    for (; message->descriptor_count < descriptor_count; message->descriptor_count++) {
        uint32_t index = message->descriptor_count;
        int owned = take ? descriptors[index] : fcntl(descriptors[index], F_DUPFD_CLOEXEC, 3);
        if (owned < 0) {
            int error = -errno;
            descriptors_close(message->descriptors, message->descriptor_count);
            free(message);
            return error;
        }
        message->descriptors[index] = owned;
    }
    if (slot->queue.last != NULL) slot->queue.last->next = message;
    else slot->queue.first = message;
    slot->queue.last = message;
    slot->queue.count++;
    return 0;
}

int cio_message_send(cio_loop *loop, cio_handle handle, const void *bytes, size_t length, const int *descriptors,
                     uint32_t descriptor_count, bool take) {
    struct slot *slot = slot_find(loop, handle, SLOT_MESSAGE);
    if (slot == NULL) return -EBADF;
    if (slot->flags & SLOT_FAILED) return -EPIPE;
    if (length == 0 || length > CIO_MESSAGE_BYTES_MAX || descriptor_count > CIO_DESCRIPTORS_MAX) return -EMSGSIZE;
    int result = -EAGAIN;
    if (slot->queue.count == 0) {
        result = message_transmit(slot->descriptor, bytes, length, descriptors, descriptor_count);
        loop->counters.system_calls++;
        if (result == 0) {
            if (take) descriptors_close(descriptors, descriptor_count);
            return 0;
        }
        if (!message_may_wait(result)) return result;
    }
    if (slot->queue.count >= CIO_MESSAGES_QUEUED_MAX) return -EAGAIN;
    result = message_enqueue(slot, bytes, length, descriptors, descriptor_count, take);
    if (result < 0) return result;
    slot->flags |= SLOT_BLOCKED;
    slot_touch(loop, slot);
    return (int)slot->queue.count;
}

bool message_flush(cio_loop *loop, struct slot *slot) {
    while (slot->queue.first != NULL) {
        struct message *message = slot->queue.first;
        int result = message_transmit(slot->descriptor, message->bytes, message->length, message->descriptors,
                                      message->descriptor_count);
        loop->counters.system_calls++;
        if (result == -EAGAIN) return true;
        if (message_may_wait(result)) {
            /* The socket has room, so no readiness will tell when to try again. */
            slot->timed_since = loop->now;
            list_add(loop, LIST_RETRY, slot);
            return false;
        }
        if (result < 0) {
            /* The receive side says what is wrong, after the messages that lie in the socket. */
            message_queue_drop(slot);
            break;
        }
        slot->queue.first = message->next;
        if (message->next == NULL) slot->queue.last = NULL;
        slot->queue.count--;
        descriptors_close(message->descriptors, message->descriptor_count);
        free(message);
    }
    slot->flags &= ~(uint32_t)SLOT_BLOCKED;
    return false;
}

size_t cio_message_waiting(const cio_loop *loop, cio_handle handle) {
    const struct slot *slot = slot_find(loop, handle, SLOT_MESSAGE);
    return slot == NULL ? 0 : slot->queue.count;
}

void message_queue_drop(struct slot *slot) {
    struct message *message = slot->queue.first;
    while (message != NULL) {
        struct message *next = message->next;
        descriptors_close(message->descriptors, message->descriptor_count);
        free(message);
        message = next;
    }
    slot->queue.first = slot->queue.last = NULL;
    slot->queue.count = 0;
}

/* Copies the descriptors out of the control data: how many. */
static uint32_t descriptors_collect(struct msghdr *header, int32_t *descriptors) {
    uint32_t count = 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part != NULL; part = CMSG_NXTHDR(header, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        size_t length = part->cmsg_len - CMSG_LEN(0);
        for (size_t offset = 0; offset + sizeof(int) <= length; offset += sizeof(int)) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(part) + offset, sizeof descriptor);
            if (count < CIO_DESCRIPTORS_MAX) descriptors[count++] = descriptor;
            else close(descriptor);
        }
    }
    return count;
}

static enum message_step message_failed(cio_loop *loop, struct slot *slot, int error) {
    slot->flags |= SLOT_FAILED;
    event_add(loop, slot, CIO_EVENT_FAILED, error);
    (void)loop->backend->quiesce(loop, slot);
    return MESSAGE_OVER;
}

enum message_step message_receive(cio_loop *loop, struct slot *slot) {
    size_t room;
    uint8_t *bytes = receive_area_room(&loop->area, CIO_MESSAGE_BYTES_MAX, CIO_MESSAGE_BYTES_MAX, &room);
    if (bytes == NULL || !loop_has_room(loop) || TURN_DESCRIPTORS - loop->descriptors_used < CIO_DESCRIPTORS_MAX) {
        return MESSAGE_ROOM;
    }
    union control control;
    struct iovec vector = {.iov_base = bytes, .iov_len = room};
    struct msghdr header = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t length;
    do length = recvmsg(slot->descriptor, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    loop->counters.system_calls++;
    if (length < 0) return errno == EAGAIN ? MESSAGE_EMPTY : message_failed(loop, slot, -errno);
    int32_t *descriptors = loop->descriptors + loop->descriptors_used;
    uint32_t count = descriptors_collect(&header, descriptors);
    /* Cut control data with room left in ours: the kernel found no number for a descriptor and dropped it and the rest. The
     * message itself is whole, and whoever gets it can do without. */
    bool is_short = (header.msg_flags & MSG_CTRUNC) != 0 && count < CIO_DESCRIPTORS_MAX;
    if ((header.msg_flags & MSG_TRUNC) != 0 || ((header.msg_flags & MSG_CTRUNC) != 0 && !is_short)) {
        descriptors_close(descriptors, count);
        return message_failed(loop, slot, -EMSGSIZE);
    }
    if (length == 0 && count == 0 && !is_short) {
        slot->flags |= SLOT_ENDED;
        event_add(loop, slot, CIO_EVENT_END, 0);
        return MESSAGE_OVER;
    }
    receive_area_take(&loop->area, (size_t)length);
    loop->descriptors_used += count;
    struct cio_event *event = event_add(loop, slot, CIO_EVENT_MESSAGE, is_short ? -EMFILE : 0);
    event->data = bytes;
    event->length = (uint32_t)length;
    event->descriptors = descriptors;
    event->descriptor_count = count;
    return MESSAGE_MORE;
}
