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

I64 = NDArray[np.int64]
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


def derive_keys(keys: U64, parts: U64) -> U64:
    """`derive_key` of each key and part."""
    golden = np.uint64(GOLDEN64)
    outer = mix64_array(mix64_array(keys) + golden)
    return mix64_array(outer * golden + mix64_array(parts) + golden)


def permute(indices: I64, *, sizes: I64, keys: U64) -> I64:
    """Where keyed permutations of range(sizes[i]) send indices[i], without a table.

    A balanced Feistel network on the smallest even number of bits that holds the size, walked along
    its cycle until it falls below the size again (Black and Rogaway 2002): at most four steps on
    average.
    """
    # The exponent of a float is the number of bits of a whole number.
    half_bits = np.maximum(1, (np.frexp(sizes - 1)[1] + 1) // 2).astype(np.uint64)
    half_masks = (np.uint64(1) << half_bits) - np.uint64(1)
    rounds = np.arange(NUM_FEISTEL_ROUNDS, dtype=np.uint64)
    round_keys = derive_keys(keys, rounds[:, None])
    limits = sizes.astype(np.uint64)
    values = indices.astype(np.uint64)
    outside = np.arange(len(values))
    while len(outside):
        bits, mask, inputs = half_bits[outside], half_masks[outside], values[outside]
        left, right = inputs >> bits, inputs & mask
        for round_key in round_keys[:, outside]:
            left, right = right, left ^ (mix64_array(right ^ round_key) & mask)
        outputs = (left << bits) | right
        values[outside] = outputs
        outside = outside[outputs >= limits[outside]]
    return values.astype(np.int64)
