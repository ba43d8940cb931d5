/* Listeners and polls of foreign descriptors: the public calls, and what they have in common on both backends.
 *
 * An accept that fails for want of descriptors or memory pauses the listener and tells the caller, because trying again
 * at once would spin: the connection stays in the backlog and would fail again.
 */
#include "internal.h"

#include <errno.h>
#include <unistd.h>

int cio_listener_open(cio_loop *loop, int descriptor, uint64_t tag, cio_handle *handle) {
    int result = descriptor_nonblocking(descriptor);
    if (result == -EBADF) return result;
    if (result == 0) result = slot_open(loop, SLOT_LISTENER, descriptor, 0, 0, tag, handle);
    if (result < 0) close(descriptor);
    return result;
}

void cio_listener_accept(cio_loop *loop, cio_handle handle, bool on) {
    struct slot *slot = slot_find(loop, handle, SLOT_LISTENER);
    if (slot == NULL || on == ((slot->flags & SLOT_READING) != 0)) return;
    slot->flags ^= SLOT_READING;
    slot_touch(loop, slot);
}

bool accept_error_is_transient(int error) {
    switch (error) {
    case -ECONNABORTED:
    case -EINTR:
    case -EPROTO:
    case -ENOPROTOOPT:
    case -EPERM:
    case -ENETDOWN:
    case -EHOSTDOWN:
    case -ENONET:
    case -EHOSTUNREACH:
    case -EOPNOTSUPP:
    case -ENETUNREACH: return true;
    default: return false;
    }
}

bool listener_accepted(cio_loop *loop, struct slot *slot, int result) {
    if (slot->flags & SLOT_CLOSED) {
        if (result >= 0) close(result);
        return false;
    }
    if (result >= 0) {
        event_add(loop, slot, CIO_EVENT_ACCEPTED, result);
        return true;
    }
    if (accept_error_is_transient(result)) return true;
    if (slot->flags & SLOT_READING) {
        slot->flags &= ~(uint32_t)SLOT_READING;
        event_add(loop, slot, CIO_EVENT_ACCEPTED, result);
    }
    return false;
}

int cio_poll_open(cio_loop *loop, int descriptor, uint32_t mask, uint64_t tag, cio_handle *handle) {
    return slot_open(loop, SLOT_POLL, descriptor, 0, mask, tag, handle);
}

void cio_poll_arm(cio_loop *loop, cio_handle handle, uint32_t mask) {
    struct slot *slot = slot_find(loop, handle, SLOT_POLL);
    if (slot == NULL) return;
    if ((slot->flags & SLOT_READING) != 0 && slot->mask == mask) return;
    slot->flags |= SLOT_READING | SLOT_POLL_STALE;
    slot->mask = mask;
    slot_touch(loop, slot);
}

int cio_handle_detach(cio_loop *loop, cio_handle handle) {
    struct slot *slot = slot_find(loop, handle, SLOT_FREE);
    if (slot == NULL || (slot->kind != SLOT_LISTENER && slot->kind != SLOT_MESSAGE)) return -EBADF;
    if (slot->flags & (SLOT_FAILED | SLOT_ENDED)) return -EBADF;
    slot->flags = (slot->flags & ~(uint32_t)SLOT_READING) | SLOT_DETACHING;
    slot_touch(loop, slot);
    return 0;
}

void handle_settle(cio_loop *loop, struct slot *slot) {
    if ((slot->flags & (SLOT_DETACHING | SLOT_FAILED | SLOT_ENDED | SLOT_ZOMBIE | SLOT_GONE)) != SLOT_DETACHING) return;
    if (slot->kind == SLOT_MESSAGE && slot->queue.count > 0) return;
    if (!loop->backend->quiesce(loop, slot)) return;
    event_add(loop, slot, CIO_EVENT_DETACHED, slot->descriptor);
    slot->descriptor = -1;
    slot->flags |= SLOT_GONE;
    slot_touch(loop, slot);
}

void cio_handle_close(cio_loop *loop, cio_handle handle) {
    struct slot *slot = slot_find(loop, handle, SLOT_FREE);
    if (slot == NULL || slot->kind == SLOT_STREAM) return;
    if (slot->kind == SLOT_RESOLVE) {
        slot_free(loop, slot); /* an answer that still comes finds no handle */
        return;
    }
    slot_close(loop, slot);
}
