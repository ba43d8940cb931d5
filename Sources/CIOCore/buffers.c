/* Memory for bytes on their way: chunks for output, and the area that one turn receives into.
 *
 * Chunks come from slabs of 256 KiB that are mapped directly, because a large malloc'd buffer lies 16 bytes off a page
 * boundary, which makes the kernel's copies measurably slower. A few empty slabs are kept so that a steady load maps
 * nothing; the rest go back, so that a burst does not stay in the process for ever.
 *
 * Invariants: a slab is on the pool's list exactly while it has a free chunk; slabs in use stand before empty ones.
 */
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define SLAB_CHUNKS 16u
#define SLAB_BYTES (SLAB_CHUNKS * CHUNK_SIZE)
#define SLABS_EMPTY_KEPT 4u

struct slab {
    struct slab *previous, *next;
    uint8_t *base;
    struct chunk *free; /* given back */
    uint32_t carved;    /* chunks that were ever taken; those behind were never touched */
    uint32_t used;
};

static void slab_unlink(struct chunk_pool *pool, struct slab *slab) {
    if (slab->previous != NULL) slab->previous->next = slab->next;
    else pool->first = slab->next;
    if (slab->next != NULL) slab->next->previous = slab->previous;
    else pool->last = slab->previous;
}

static void slab_link_first(struct chunk_pool *pool, struct slab *slab) {
    slab->previous = NULL;
    slab->next = pool->first;
    if (pool->first != NULL) pool->first->previous = slab;
    else pool->last = slab;
    pool->first = slab;
}

static void slab_link_last(struct chunk_pool *pool, struct slab *slab) {
    slab->next = NULL;
    slab->previous = pool->last;
    if (pool->last != NULL) pool->last->next = slab;
    else pool->first = slab;
    pool->last = slab;
}

static struct slab *slab_create(struct chunk_pool *pool) {
    struct slab *slab = calloc(1, sizeof *slab);
    if (slab == NULL) return NULL;
    void *base = mmap(NULL, SLAB_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        free(slab);
        return NULL;
    }
    slab->base = base;
    pool->slabs++;
    pool->slabs_empty++;
    pool->chunks += SLAB_CHUNKS;
    slab_link_first(pool, slab);
    return slab;
}

static void slab_destroy(struct chunk_pool *pool, struct slab *slab) {
    slab_unlink(pool, slab);
    pool->slabs--;
    pool->slabs_empty--;
    pool->chunks -= SLAB_CHUNKS;
    UNPOISON(slab->base, SLAB_BYTES);
    munmap(slab->base, SLAB_BYTES);
    free(slab);
}

static struct chunk *chunk_take_one(struct chunk_pool *pool) {
    struct slab *slab = pool->first;
    if (slab == NULL && (slab = slab_create(pool)) == NULL) return NULL;
    struct chunk *chunk = slab->free;
    if (chunk != NULL) {
        UNPOISON(chunk, CHUNK_SIZE);
        slab->free = chunk->next;
    } else {
        chunk = (struct chunk *)(void *)(slab->base + (size_t)slab->carved * CHUNK_SIZE);
        slab->carved++;
    }
    if (slab->used++ == 0) pool->slabs_empty--;
    if (slab->used == SLAB_CHUNKS) slab_unlink(pool, slab);
    *chunk = (struct chunk){.slab = slab};
    return chunk;
}

struct chunk *chunk_take(struct chunk_pool *pool, size_t count) {
    struct chunk *first = NULL;
    for (; count > 0; count--) {
        struct chunk *chunk = chunk_take_one(pool);
        if (chunk == NULL) {
            while (first != NULL) {
                struct chunk *next = first->next;
                chunk_give(pool, first);
                first = next;
            }
            return NULL;
        }
        chunk->next = first;
        first = chunk;
    }
    return first;
}

void chunk_give(struct chunk_pool *pool, struct chunk *chunk) {
    struct slab *slab = chunk->slab;
    chunk->next = slab->free;
    slab->free = chunk;
    POISON(chunk_data(chunk), CHUNK_BYTES);
    if (slab->used-- == SLAB_CHUNKS) slab_link_first(pool, slab);
    if (slab->used > 0) return;
    pool->slabs_empty++;
    if (pool->slabs_empty > SLABS_EMPTY_KEPT + (pool->slabs - pool->slabs_empty) / 2) {
        slab_destroy(pool, slab);
    } else {
        slab_unlink(pool, slab);
        slab_link_last(pool, slab);
    }
}

void chunk_pool_destroy(struct chunk_pool *pool) {
    while (pool->first != NULL) slab_destroy(pool, pool->first);
}

int receive_area_create(struct receive_area *area, size_t size) {
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return -errno;
    *area = (struct receive_area){.base = base, .size = size};
    POISON(area->base, area->size);
    return 0;
}

void receive_area_destroy(struct receive_area *area) {
    if (area->base == NULL) return;
    UNPOISON(area->base, area->size);
    munmap(area->base, area->size);
    area->base = NULL;
}

void receive_area_reset(struct receive_area *area) {
    POISON(area->base, area->used);
    area->used = 0;
}

uint8_t *receive_area_room(struct receive_area *area, size_t least, size_t most, size_t *room) {
    size_t left = area->size - area->used;
    if (left < least) return NULL;
    *room = left < most ? left : most;
    UNPOISON(area->base + area->used, *room);
    return area->base + area->used;
}

void receive_area_take(struct receive_area *area, size_t length) {
    area->used += (length + 63) & ~(size_t)63;
    if (area->used > area->size) area->used = area->size;
    POISON(area->base + area->used, area->size - area->used);
}
