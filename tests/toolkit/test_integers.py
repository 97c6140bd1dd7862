"""Integer mixing is pinned, keyed permutations are permutations."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from toolkit.integers import derive_key, derive_keys, mix64, mix64_array, permute


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


def permuted(indices: list[int], *, size: int, key: int) -> list[int]:
    images = permute(
        np.array(indices),
        sizes=np.full(len(indices), size),
        keys=np.full(len(indices), key, dtype=np.uint64),
    )
    return images.tolist()


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 40))
def test_the_array_form_of_keys_agrees(key: int, part: int) -> None:
    keys = derive_keys(np.array([key], dtype=np.uint64), np.array([part], dtype=np.uint64))
    assert keys.tolist() == [derive_key(key, part)]


@given(st.integers(1, 300), st.integers(0, (1 << 64) - 1))
def test_permute_is_a_permutation(size: int, key: int) -> None:
    assert sorted(permuted(list(range(size)), size=size, key=key)) == list(range(size))


def test_each_index_has_a_size_and_a_key_of_its_own() -> None:
    sizes, keys = np.array([1000, 7, 1000]), np.array([8, 9, 10], dtype=np.uint64)
    images = permute(np.array([511, 3, 511]), sizes=sizes, keys=keys).tolist()
    assert images == [
        permuted(list(range(int(size))), size=int(size), key=int(key))[index]
        for index, size, key in zip([511, 3, 511], sizes, keys, strict=True)
    ]


def test_permute_mixes() -> None:
    """Neighbours land apart: the mean distance of a random permutation of n is n / 3."""
    images = permuted(list(range(4096)), size=4096, key=1)
    assert 0.9 < np.abs(np.diff(images)).mean() / (4096 / 3) < 1.1
