"""Rows by number, straight from the bytes of MDS shards.

A shard with one fixed-width column is a header (row count, offsets, column description) followed by
a contiguous matrix of tokens. So a row needs no decoding: the file is memory-mapped once, its hash
is compared with the manifest's once, and a row is a slice of the matrix.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from shards.errors import InputError
from shards.manifest import DomainManifest, ShardFile, SplitName

MAX_OPEN_SHARDS = 512
"""CPython keeps a file descriptor per map, and the usual limit is 1024 per process."""


@dataclass(frozen=True, kw_only=True)
class SplitRows:
    """Where the rows of one split of one domain lie."""

    folder: Path
    shards: tuple[ShardFile, ...]
    row_length: int
    dtype: str

    @classmethod
    def of(cls, folder: Path, manifest: DomainManifest, split: SplitName) -> SplitRows:
        return cls(
            folder=folder / split,
            shards=tuple(manifest.splits[split].shards),
            row_length=manifest.row_length,
            dtype=manifest.dtype,
        )

    @property
    def num_rows(self) -> int:
        return sum(shard.num_rows for shard in self.shards)

    @property
    def rows_per_shard(self) -> tuple[int, ...]:
        return tuple(shard.num_rows for shard in self.shards)


class RowReader:
    """Reads rows of several splits; a split is named by its position in `splits`.

    Picklable: a copy in another process opens its own maps.
    """

    def __init__(self, splits: Sequence[SplitRows]) -> None:
        self.splits = tuple(splits)
        self._first_rows = [[0, *accumulate(split.rows_per_shard)] for split in self.splits]
        self._matrices: OrderedDict[tuple[int, int], NDArray[Any]] = OrderedDict()
        self._verified: set[tuple[int, int]] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {"splits": self.splits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["splits"])  # type: ignore[misc]

    def read(self, split_ids: Sequence[int], row_ids: Sequence[int]) -> NDArray[np.int64]:
        """The tokens of the rows (split_ids[i], row_ids[i]), shape (len(row_ids), row_length).

        Raises:
            InputError: a shard that is missing, or whose bytes are not those that its manifest was
                written for.
        """
        tokens_BT = np.empty((len(row_ids), self.splits[0].row_length), dtype=np.int64)
        for i, (split_id, row_id) in enumerate(zip(split_ids, row_ids, strict=True)):
            first_rows = self._first_rows[split_id]
            shard_id = bisect_right(first_rows, row_id) - 1
            tokens_BT[i] = self._matrix(split_id, shard_id)[row_id - first_rows[shard_id]]
        return tokens_BT

    def _matrix(self, split_id: int, shard_id: int) -> NDArray[Any]:
        key = (split_id, shard_id)
        matrix = self._matrices.get(key)
        if matrix is None:
            split = self.splits[split_id]
            matrix = _open_shard(split, split.shards[shard_id], verify=key not in self._verified)
            self._verified.add(key)
            self._matrices[key] = matrix
            if len(self._matrices) > MAX_OPEN_SHARDS:
                self._matrices.popitem(last=False)
        else:
            self._matrices.move_to_end(key)
        return matrix


def _open_shard(split: SplitRows, shard: ShardFile, *, verify: bool) -> NDArray[Any]:
    """The shard's rows as a read-only matrix (num_rows, row_length) over the mapped file."""
    path = split.folder / shard.name
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise InputError(f"shard {path} is missing; its manifest lists it") from None
    try:
        if os.fstat(descriptor).st_size != shard.num_bytes:
            raise InputError(f"shard {path} changed its size since its manifest was written")
        data = mmap.mmap(descriptor, shard.num_bytes, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)
    if verify and xxhash.xxh3_64_hexdigest(data) != shard.xxh3_64:
        raise InputError(f"shard {path} does not match its hash; fetch or write it again")
    first_byte = matrix_offset(data, num_rows=shard.num_rows, row_length=split.row_length,
                               item_bytes=np.dtype(split.dtype).itemsize, path=path)  # fmt: skip
    flat = np.frombuffer(data, dtype=split.dtype, offset=first_byte)
    return flat.reshape(shard.num_rows, split.row_length)


def matrix_offset(
    data: bytes | mmap.mmap, *, num_rows: int, row_length: int, item_bytes: int, path: Path
) -> int:
    """The byte at which the rows of an MDS file begin, once its header was found consistent.

    Raises:
        InputError: the header does not describe `num_rows` rows of `row_length` tokens.
    """
    stride = row_length * item_bytes
    header_bytes = 4 * (num_rows + 2)
    if len(data) < header_bytes:
        raise InputError(f"shard {path} is shorter than its own header")
    header = np.frombuffer(data, dtype="<u4", count=num_rows + 2)
    first, last = int(header[1]), int(header[-1])
    if (
        header[0] != num_rows
        or first < header_bytes
        or last != len(data)
        or bool((np.diff(header[1:].astype(np.int64)) != stride).any())
    ):
        raise InputError(f"shard {path} does not hold {num_rows} rows of {row_length} tokens each")
    return first
