// The bytes that bulk transfers carry, so that whoever receives them can tell a lost, doubled or misplaced byte.
//
// The stream is a 1 MiB block that repeats; each of its 64-bit words is a mix of its own index, so that any eight bytes name their
// place. A receiver that knows its offset compares the ends of each piece that it gets: cheap enough to stay on while measuring.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PATTERN_BYTES = 1 << 20, PATTERN_CHECK_BYTES = 64 };

// The block twice in a row, page-aligned: any piece of up to 1 MiB can be read from `pattern_at` without wrapping.
static uint8_t *pattern_block;

static inline int pattern_make(void) {
    void *memory = mmap(NULL, 2 * PATTERN_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return -1;
    pattern_block = memory;
    for (uint64_t index = 0; index < PATTERN_BYTES / 8; index += 1) {
        uint64_t word = (index + 1) * 0x9E3779B97F4A7C15u;
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9u;
        word ^= word >> 27;
        memcpy(pattern_block + index * 8, &word, 8);
    }
    memcpy(pattern_block + PATTERN_BYTES, pattern_block, PATTERN_BYTES);
    return 0;
}

static inline const uint8_t *pattern_at(uint64_t offset) { return pattern_block + offset % PATTERN_BYTES; }

// Whether both ends of a piece (at most 1 MiB) that arrived at `offset` of the stream are what they must be.
static inline int pattern_fits(const uint8_t *bytes, size_t count, uint64_t offset) {
    size_t head = count < PATTERN_CHECK_BYTES ? count : PATTERN_CHECK_BYTES;
    return memcmp(bytes, pattern_at(offset), head) == 0
        && memcmp(bytes + count - head, pattern_at(offset + count - head), head) == 0;
}
