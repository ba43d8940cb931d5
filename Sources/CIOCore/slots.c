/* The table of handles: slots with generations, and the intrusive lists that run through them.
 *
 * The table is mapped whole at its greatest size, because untouched pages cost nothing and slots then never move: the
 * kernel's completions and the lists refer to them by index. A generation is odd while the slot is in use, so that a
 * handle is never 0 and a handle of a free slot never matches.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>

static const uint32_t list_flags[LIST_COUNT] = {
    [LIST_DIRTY] = SLOT_DIRTY,
    [LIST_READY] = SLOT_READY,
    [LIST_LINGER_SEND] = SLOT_LINGER_SEND,
    [LIST_LINGER_FIN] = SLOT_LINGER_FIN,
    [LIST_PAUSED] = SLOT_PAUSED,
    [LIST_RETRY] = SLOT_RETRY,
};

static struct link *link_of(struct slot *slot, enum list_kind list) {
    switch (list) {
    case LIST_DIRTY: return &slot->work;
    case LIST_READY: return &slot->ready;
    default: return &slot->timed;
    }
}

static uint32_t index_of(const cio_loop *loop, const struct slot *slot) { return (uint32_t)(slot - loop->slots); }

void list_add(cio_loop *loop, enum list_kind list, struct slot *slot) {
    if (slot->flags & list_flags[list]) return;
    slot->flags |= list_flags[list];
    struct list *ends = &loop->lists[list];
    uint32_t index = index_of(loop, slot);
    *link_of(slot, list) = (struct link){.previous = ends->last, .next = NONE};
    if (ends->last != NONE) link_of(&loop->slots[ends->last], list)->next = index;
    else ends->first = index;
    ends->last = index;
}

void list_remove(cio_loop *loop, enum list_kind list, struct slot *slot) {
    if (!(slot->flags & list_flags[list])) return;
    slot->flags &= ~list_flags[list];
    struct list *ends = &loop->lists[list];
    struct link link = *link_of(slot, list);
    if (link.previous != NONE) link_of(&loop->slots[link.previous], list)->next = link.next;
    else ends->first = link.next;
    if (link.next != NONE) link_of(&loop->slots[link.next], list)->previous = link.previous;
    else ends->last = link.previous;
}

struct slot *list_pop(cio_loop *loop, enum list_kind list) {
    if (loop->lists[list].first == NONE) return NULL;
    struct slot *slot = &loop->slots[loop->lists[list].first];
    list_remove(loop, list, slot);
    return slot;
}

int slot_take(cio_loop *loop, enum slot_kind kind, int descriptor, uint64_t tag, struct slot **taken) {
    uint32_t index = loop->slots_free;
    if (index != NONE) {
        loop->slots_free = loop->slots[index].work.next;
    } else {
        if (loop->slots_used == loop->slots_max) return -ENFILE;
        index = loop->slots_used++;
    }
    struct slot *slot = &loop->slots[index];
    *slot = (struct slot){
        .generation = slot->generation + 1,
        .descriptor = descriptor,
        .tag = tag,
        .kind = (uint8_t)kind,
    };
    loop->counters.handles_open++;
    *taken = slot;
    return 0;
}

int slot_open(cio_loop *loop, enum slot_kind kind, int descriptor, uint32_t flags, uint32_t mask, uint64_t tag,
              cio_handle *handle) {
    struct slot *slot;
    int result = slot_take(loop, kind, descriptor, tag, &slot);
    if (result < 0) return result;
    slot->flags |= SLOT_READING | flags;
    slot->mask = mask;
    result = loop->backend->attach(loop, slot);
    if (result < 0) {
        slot_free(loop, slot);
        return result;
    }
    slot_touch(loop, slot);
    *handle = slot_handle(loop, slot);
    return 0;
}

void slot_free(cio_loop *loop, struct slot *slot) {
    for (int list = 0; list < LIST_COUNT; list++) list_remove(loop, (enum list_kind)list, slot);
    if (slot->kind == SLOT_STREAM) free(slot->output.unsent);
    slot->generation++;
    slot->kind = SLOT_FREE;
    slot->flags = 0;
    slot->work.next = loop->slots_free;
    loop->slots_free = index_of(loop, slot);
    loop->counters.handles_open--;
}

cio_handle slot_handle(const cio_loop *loop, const struct slot *slot) {
    return (cio_handle)slot->generation << 32 | index_of(loop, slot);
}

struct slot *slot_of_generation(const cio_loop *loop, uint32_t index, uint32_t generation) {
    if (index >= loop->slots_used) return NULL;
    struct slot *slot = &loop->slots[index];
    return slot->generation == generation && slot->kind != SLOT_FREE ? slot : NULL;
}

struct slot *slot_find(const cio_loop *loop, cio_handle handle, enum slot_kind kind) {
    struct slot *slot = slot_of_generation(loop, (uint32_t)handle, (uint32_t)(handle >> 32));
    if (slot == NULL || (slot->flags & (SLOT_CLOSED | SLOT_GONE)) != 0) return NULL;
    return kind == SLOT_FREE || slot->kind == kind ? slot : NULL;
}

bool cio_handle_alive(const cio_loop *loop, cio_handle handle) {
    const struct slot *slot = slot_of_generation(loop, (uint32_t)handle, (uint32_t)(handle >> 32));
    return slot != NULL && (slot->flags & SLOT_CLOSED) == 0;
}

int cio_handle_descriptor(const cio_loop *loop, cio_handle handle) {
    const struct slot *slot = slot_find(loop, handle, SLOT_FREE);
    return slot == NULL ? -EBADF : slot->descriptor;
}
