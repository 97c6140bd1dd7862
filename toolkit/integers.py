"""Keyed integer mixing: the same bytes on every machine, for as long as this file stands.

Library generators may change their streams between versions and Python's hash() does between
processes; the order of a run may not. Everything here is arithmetic modulo 2^64.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

MASK64 = (1 << 64) - 1
GOLDEN64 = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio, odd."""

NUM_FEISTEL_ROUNDS = 6

U64 = NDArray[np.uint64]


def mix64(value: int) -> int:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64-bit integers."""
    value &= MASK64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK64
    return value ^ (value >> 31)


def mix64_array(values: U64) -> U64:
    """`mix64` of every element."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def derive_key(*parts: int | str) -> int:
    """A 64-bit key from integers and names; order and boundaries of the parts matter."""
    key = 0
    for part in parts:
        if isinstance(part, str):
            digest = hashlib.blake2b(part.encode(), digest_size=8).digest()
            part = int.from_bytes(digest, "little")
        key = mix64(key * GOLDEN64 + mix64(part) + GOLDEN64)
    return key


def permute(indices: U64, *, size: int, key: int) -> U64:
    """Where a keyed permutation of range(size) sends each of `indices`, without a table.

    A balanced Feistel network on the smallest even number of bits that holds `size`, walked along
    its cycle until it falls below `size` again (Black and Rogaway 2002): at most four steps on
    average.
    """
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    half_mask = (np.uint64(1) << half_bits) - np.uint64(1)
    round_keys = [np.uint64(derive_key(key, r)) for r in range(NUM_FEISTEL_ROUNDS)]

    def encrypt(values: U64) -> U64:
        left, right = values >> half_bits, values & half_mask
        for round_key in round_keys:
            left, right = right, left ^ (mix64_array(right ^ round_key) & half_mask)
        return (left << half_bits) | right

    values = encrypt(np.asarray(indices, dtype=np.uint64))
    while (outside := values >= size).any():
        values[outside] = encrypt(values[outside])
    return values
