"""Pseudo-random bytes that both ends make for themselves, so that a gigabyte is compared without being kept."""

import hashlib
import random

BLOCK = random.Random(20).randbytes(1 << 20)


def blocks(total):
    """`total` bytes in blocks of at most 1 MiB. Each block is rotated by its index, so that order matters."""
    index = 0
    while total:
        cut = (index * 7919) % len(BLOCK)
        block = (BLOCK[cut:] + BLOCK[:cut])[:total]
        yield block
        total -= len(block)
        index += 1


def digest(total):
    state = hashlib.blake2b()
    for block in blocks(total):
        state.update(block)
    return state.hexdigest()
