"""The one order of a run: which row of which domain is sample number s.

1. `draw_domains`: sample s falls on the point frac(offset + s / golden ratio) of the unit interval,
   which the weights in effect at s cut into one stretch per domain. The points are a
   low-discrepancy sequence, so counts follow the weights like quotas, and no state is needed.
2. `DomainRows`: the n-th draw of a domain takes the n-th row of that domain's own endless order:
   shards permuted per epoch, a window of a few shards at a time, rows permuted inside the window.
   Weights decide only when a row's turn comes.
3. `Order` joins the two and counts draws per domain: its whole state is a sample number and K
   cursors.

The sequence is a function of (shards, seed, weight log). World size, workers, prefetching and
restarts do not appear here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.integers import GOLDEN64, U64, derive_key, mix64_array, permute
from toolkit.weights import WeightLog

STATE_VERSION = 1
UNITS = 1 << 32
"""Weights are drawn in units of 2^-32."""

ROWS_PER_BLOCK = 256
"""Rows of a domain's order are computed at most this many at a time."""

I64 = NDArray[np.int64]


def quota_units(weights: Sequence[float]) -> U64:
    """The weights in whole units of 2^-32 that sum to exactly 2^32; a weight of 0 stays 0.

    Largest-remainder rounding; ties go to the earlier domain.
    """
    scaled = np.asarray(weights, dtype=np.float64)
    scaled = scaled / scaled.sum() * UNITS
    units: I64 = np.floor(scaled).astype(np.int64)
    order = np.argsort(units - scaled, kind="stable")
    positive = order[np.asarray(weights)[order] > 0]
    missing = UNITS - int(units.sum())
    units[positive[:missing]] += 1
    # What rounding of the floats themselves may leave over.
    units[np.argmax(units)] += UNITS - int(units.sum())
    return units.astype(np.uint64)


def draw_domains(weights: Sequence[float], *, start: int, stop: int, key: int) -> I64:
    """The domain of each sample in [start, stop).

    In any n consecutive samples under constant weights, the count of a domain differs from n times
    its weight by at most 3 + 1.45 log2(n): n is a sum of at most half as many Fibonacci numbers as
    it has golden-ratio digits, and each such block is off by at most 2 (Denjoy-Koksma inequality).
    """
    samples = np.arange(start, stop, dtype=np.uint64)
    points = (samples * np.uint64(GOLDEN64) + np.uint64(key)) >> np.uint64(32)
    ends = np.cumsum(quota_units(weights))
    return np.searchsorted(ends, points, side="right").astype(np.int64)


class DomainRows:
    """One domain's endless order of its own rows, addressed by draw number."""

    def __init__(self, rows_per_shard: Sequence[int], *, key: int, shards_per_window: int) -> None:
        self.num_rows = sum(rows_per_shard)
        self._rows_per_shard = np.asarray(rows_per_shard, dtype=np.int64)
        self._first_rows = np.cumsum(self._rows_per_shard) - self._rows_per_shard
        self._key = key
        self._shards_per_window = shards_per_window
        # A block of a small domain would otherwise span hundreds of epochs.
        self._rows_per_block = min(ROWS_PER_BLOCK, self.num_rows)
        self._blocks: OrderedDict[int, I64] = OrderedDict()

    def take(self, start: int, stop: int) -> I64:
        """Row ids of the draws [start, stop)."""
        size = self._rows_per_block
        blocks = [self._block(i) for i in range(start // size, -(-stop // size))]
        rows = np.concatenate(blocks) if len(blocks) != 1 else blocks[0]
        offset = start // size * size
        return rows[start - offset : stop - offset]

    def _block(self, block: int) -> I64:
        rows = self._blocks.get(block)
        if rows is None:
            size = self._rows_per_block
            draws = np.arange(block * size, (block + 1) * size, dtype=np.int64)
            rows = np.empty(size, dtype=np.int64)
            epochs = draws // self.num_rows
            for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
                mask = epochs == epoch
                rows[mask] = self._rows_of_epoch(epoch, draws[mask] % self.num_rows)
            self._blocks[block] = rows
            if len(self._blocks) > 2:
                self._blocks.popitem(last=False)
        return rows

    def _rows_of_epoch(self, epoch: int, positions: I64) -> I64:
        """Row ids at `positions` of one epoch's permutation of all rows."""
        epoch_key = derive_key(self._key, epoch)
        shard_ids = np.arange(len(self._rows_per_shard), dtype=np.uint64)
        shards = np.argsort(mix64_array(shard_ids * np.uint64(GOLDEN64) + np.uint64(epoch_key)),
                            kind="stable")  # fmt: skip
        ends = np.cumsum(self._rows_per_shard[shards])
        starts = ends - self._rows_per_shard[shards]
        window_starts = starts[:: self._shards_per_window]
        windows = np.searchsorted(window_starts, positions, side="right") - 1
        places = np.empty_like(positions)
        for window in np.unique(windows):
            mask = windows == window
            first = int(window_starts[window])
            is_last = window + 1 == len(window_starts)
            size = (self.num_rows if is_last else int(window_starts[window + 1])) - first
            inside = (positions[mask] - first).astype(np.uint64)
            key = derive_key(epoch_key, int(window))
            places[mask] = permute(inside, size=size, key=key).astype(np.int64) + first
        slots = np.searchsorted(ends, places, side="right")
        rows: I64 = self._first_rows[shards[slots]] + places - starts[slots]
        return rows


@dataclass(frozen=True, kw_only=True)
class RowKeys:
    """Samples by name: sample i is row `rows[i]` of domain `domains[i]`."""

    domains: I64
    rows: I64

    def __len__(self) -> int:
        return len(self.domains)

    def __getitem__(self, part: slice) -> RowKeys:
        return RowKeys(domains=self.domains[part], rows=self.rows[part])


class Order:
    """The sequence of samples, taken from the front.

    Args:
        weight_log: shared with whoever makes appointments; consulted for each sample as it is
        taken.
    """

    def __init__(
        self,
        domains: Sequence[DomainRows],
        *,
        weight_log: WeightLog,
        seed: int,
    ) -> None:
        self._domains = tuple(domains)
        self._weight_log = weight_log
        self._key = derive_key(seed, "quota")
        self.num_samples = 0
        """Samples taken so far."""
        self.cursors = np.zeros(len(self._domains), dtype=np.int64)
        """Draws made from each domain so far, over all epochs."""

    def take(self, num_samples: int) -> RowKeys:
        """The next `num_samples` samples."""
        start, stop = self.num_samples, self.num_samples + num_samples
        domains = np.concatenate(
            [
                draw_domains(weights.sampled, start=first, stop=last, key=self._key)
                for first, last, weights in self._weight_log.segments(start, stop)
            ]
        )
        rows = np.empty(num_samples, dtype=np.int64)
        by_domain = np.argsort(domains, kind="stable")
        drawn, counts = np.unique(domains, return_counts=True)
        end = 0
        for domain, count in zip(drawn.tolist(), counts.tolist(), strict=True):
            cursor = int(self.cursors[domain])
            rows[by_domain[end : end + count]] = self._domains[domain].take(cursor, cursor + count)
            end += count
        self.cursors[drawn] += counts
        self.num_samples = stop
        return RowKeys(domains=domains, rows=rows)

    def state_dict(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "num_samples": self.num_samples,
            "cursors": self.cursors.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["version"] != STATE_VERSION:
            raise ValueError(f"order state of version {state['version']}, expected {STATE_VERSION}")
        if len(state["cursors"]) != len(self._domains):
            raise ValueError(f"{len(state['cursors'])} cursors for {len(self._domains)} domains")
        self.num_samples = state["num_samples"]
        self.cursors = np.asarray(state["cursors"], dtype=np.int64)


def build_domain_rows(
    rows_per_shard: Sequence[int], *, name: str, seed: int, use: str, shards_per_window: int
) -> DomainRows:
    """The order of the domain `name` for one use ("train", "probe"); uses are independent."""
    return DomainRows(
        rows_per_shard, key=derive_key(seed, use, name), shards_per_window=shards_per_window
    )
