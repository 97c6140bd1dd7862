"""Integer mixing is pinned, keyed permutations are permutations."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from toolkit.integers import derive_key, mix64, mix64_array, permute


def test_mix64_is_splitmix64s_finalizer() -> None:
    """SplitMix64 seeded with 0 first returns the finalizer of multiples of its increment."""
    increment = 0x9E3779B97F4A7C15
    assert [mix64(i * increment) for i in (1, 2, 3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


@given(st.integers(0, (1 << 64) - 1))
def test_the_array_form_agrees(value: int) -> None:
    assert mix64_array(np.array([value], dtype=np.uint64)).tolist() == [mix64(value)]


def test_keys_depend_on_order_and_boundaries_of_their_parts() -> None:
    keys = [derive_key(1, 2), derive_key(2, 1), derive_key("ab", "c"), derive_key("a", "bc"),
            derive_key(1), derive_key(1, 0), derive_key()]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert derive_key(17, "train", "code") == 0xAC54C5E4F5B9F89F


@given(st.integers(1, 300), st.integers(0, (1 << 64) - 1))
def test_permute_is_a_permutation(size: int, key: int) -> None:
    images = permute(np.arange(size, dtype=np.uint64), size=size, key=key)
    assert sorted(images.tolist()) == list(range(size))


def test_permute_of_one_index_is_that_of_the_whole() -> None:
    whole = permute(np.arange(1000, dtype=np.uint64), size=1000, key=8)
    for index in (0, 1, 511, 999):
        one = permute(np.array([index], dtype=np.uint64), size=1000, key=8)
        assert one.tolist() == [whole[index]]


def test_permute_mixes() -> None:
    """Neighbours land apart: the mean distance of a random permutation of n is n / 3."""
    images = permute(np.arange(4096, dtype=np.uint64), size=4096, key=1).astype(np.int64)
    assert 0.9 < np.abs(np.diff(images)).mean() / (4096 / 3) < 1.1
