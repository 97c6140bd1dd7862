"""The one order of a run: which row of which domain is sample number s.

1. `draw_domains`: sample s falls on the point frac(offset + s / golden ratio) of the unit interval,
   which the weights in effect at s cut into one stretch per domain. The points are a
   low-discrepancy sequence, so counts follow the weights like quotas, and no state is needed.
2. `DomainRows`: the n-th draw of a domain takes the n-th row of that domain's own endless order:
   shards permuted per epoch, a window of a few shards at a time, rows permuted inside the window.
   Weights decide only when a row's turn comes.
3. `RowFinder` computes the rows of any draws from many domains at once, each for itself; it keeps
   no rows, only the order of the shards in the epochs that the domains are in.
4. `Order` joins them and counts draws per domain: its whole state is a sample number and K cursors.
   It computes samples ahead of the asking, more and more of them while the weights stay the same.

The sequence is a function of (shards, seed, weight log). World size, workers, prefetching and
restarts do not appear here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from toolkit.integers import GOLDEN64, I64, U64, derive_key, derive_keys, mix64_array, permute
from toolkit.weights import MixtureWeights, WeightLog

STATE_VERSION = 1
UNITS = 1 << 32
"""Weights are drawn in units of 2^-32."""

NUM_SAMPLES_AHEAD = 1 << 13
"""At most this many samples are computed at once, unless more are asked for."""


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


def draw_domains(units: U64, *, start: int, stop: int, key: int) -> I64:
    """The domain of each sample in [start, stop), under weights in `units` of 2^-32.

    In any n consecutive samples the count of a domain differs from n times its weight by at most
    3 + 1.45 log2(n): n is a sum of at most half as many Fibonacci numbers as it has golden-ratio
    digits, and each such block is off by at most 2 (Denjoy-Koksma inequality).
    """
    samples = np.arange(start, stop, dtype=np.uint64)
    points = (samples * np.uint64(GOLDEN64) + np.uint64(key)) >> np.uint64(32)
    return np.searchsorted(np.cumsum(units), points, side="right").astype(np.int64)


@dataclass(frozen=True)
class DomainRows:
    """One domain's endless order of its own rows, addressed by draw number."""

    rows_per_shard: Sequence[int]
    _: KW_ONLY
    key: int
    shards_per_window: int

    def take(self, start: int, stop: int) -> I64:
        """Row ids of the draws [start, stop)."""
        draws = np.arange(start, stop, dtype=np.int64)
        return RowFinder([self]).find(np.zeros_like(draws), draws)


class RowFinder:
    """Finds the rows of draws from several domains in their `DomainRows`.

    The domains lie side by side on one line of places, one place per row: each domain's shards in
    the order of the epoch that it is in, end to end. So one binary search finds the shard of a
    place, whatever its domain.
    """

    def __init__(self, domains: Sequence[DomainRows]) -> None:
        self._domains = tuple(domains)
        self._num_rows = np.array([sum(d.rows_per_shard) for d in domains], dtype=np.int64)
        num_shards = [len(d.rows_per_shard) for d in domains]
        self._slots = np.cumsum([0, *num_shards])
        """Domain i has the shard slots [_slots[i], _slots[i + 1])."""
        self._shards_per_window = np.array([d.shards_per_window for d in domains], dtype=np.int64)
        first_places = np.cumsum(self._num_rows) - self._num_rows
        self._epochs = np.full(len(domains), -1)
        self._epoch_keys = np.zeros(len(domains), dtype=np.uint64)
        self._places = np.append(np.repeat(first_places, num_shards), self._num_rows.sum())
        """Where the shard in each slot starts, and where the last one ends."""
        self._rows = np.zeros(self._slots[-1], dtype=np.int64)
        """The first row, within its domain, of the shard in each slot."""

    def find(self, domains: I64, draws: I64) -> I64:
        """Row ids: for each i, the row that draw number `draws[i]` of `domains[i]` takes."""
        epochs, positions = np.divmod(draws, self._num_rows[domains])
        rows = np.empty_like(draws)
        left = np.arange(len(draws))
        while True:
            # A domain may run through epochs within one call: what lies in later ones waits.
            is_now = epochs[left] == self._epochs[domains[left]]
            now, left = left[is_now], left[~is_now]
            rows[now] = self._find_now(domains[now], positions[now])
            if not len(left):
                return rows
            turning, first = np.unique(domains[left], return_index=True)
            for domain, epoch in zip(turning.tolist(), epochs[left[first]].tolist(), strict=True):
                self._turn(domain, epoch)

    def _turn(self, domain: int, epoch: int) -> None:
        """Puts the shards of one domain in the order of an epoch."""
        rows_per_shard = np.array(self._domains[domain].rows_per_shard, dtype=np.int64)
        key = derive_key(self._domains[domain].key, epoch)
        shard_ids = np.arange(len(rows_per_shard), dtype=np.uint64)
        hashes = mix64_array(shard_ids * np.uint64(GOLDEN64) + np.uint64(key))
        shards = np.argsort(hashes, kind="stable")
        ends = np.cumsum(rows_per_shard[shards])
        slots = slice(self._slots[domain], self._slots[domain + 1])
        self._places[slots] = self._places[slots.start] + ends - rows_per_shard[shards]
        self._rows[slots] = (np.cumsum(rows_per_shard) - rows_per_shard)[shards]
        self._epochs[domain], self._epoch_keys[domain] = epoch, key

    def _find_now(self, domains: I64, positions: I64) -> I64:
        """Row ids at `positions` of the epochs that the domains are in."""
        first_slots, end_slots = self._slots[domains], self._slots[domains + 1]
        places = self._places[first_slots] + positions
        num_slots = self._shards_per_window[domains]
        windows = (self._slots_of(places) - first_slots) // num_slots
        starts = self._places[first_slots + windows * num_slots]
        ends = self._places[np.minimum(first_slots + (windows + 1) * num_slots, end_slots)]
        keys = derive_keys(self._epoch_keys[domains], windows.astype(np.uint64))
        places = starts + permute(places - starts, sizes=ends - starts, keys=keys)
        slots = self._slots_of(places)
        rows: I64 = self._rows[slots] + places - self._places[slots]
        return rows

    def _slots_of(self, places: I64) -> I64:
        return np.searchsorted(self._places, places, side="right") - 1


@dataclass(frozen=True, kw_only=True)
class RowKeys:
    """Samples by name: sample i is row `rows[i]` of domain `domains[i]`."""

    domains: I64
    rows: I64

    def __len__(self) -> int:
        return len(self.domains)

    def __getitem__(self, part: slice) -> RowKeys:
        return RowKeys(domains=self.domains[part], rows=self.rows[part])


@dataclass(frozen=True, kw_only=True)
class _Ahead:
    """The samples from `start` on as they are under `weights`, computed before they are due."""

    start: int
    weights: MixtureWeights
    keys: RowKeys


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
        self._finder = RowFinder(domains)
        self._weight_log = weight_log
        self._key = derive_key(seed, "quota")
        self._ahead: _Ahead | None = None
        self.num_samples = 0
        """Samples taken so far."""
        self.cursors = np.zeros(len(domains), dtype=np.int64)
        """Draws made from each domain so far, over all epochs."""

    def take(self, num_samples: int) -> RowKeys:
        """The next `num_samples` samples."""
        parts = []
        stop = self.num_samples + num_samples
        for _, last, weights in self._weight_log.segments(self.num_samples, stop):
            while self.num_samples < last:
                parts.append(self._take_part(last, weights))
        return RowKeys(
            domains=np.concatenate([part.domains for part in parts]),
            rows=np.concatenate([part.rows for part in parts]),
        )

    def _take_part(self, stop: int, weights: MixtureWeights) -> RowKeys:
        """The next samples, all under `weights`: up to `stop`, or as many as are computed."""
        ahead, start = self._ahead, self.num_samples
        if ahead is None or ahead.weights is not weights:
            ahead = self._compute(stop - start, weights)
        elif start == ahead.start + len(ahead.keys):
            num_samples = min(2 * len(ahead.keys), NUM_SAMPLES_AHEAD)
            ahead = self._compute(max(stop - start, num_samples), weights)
        self._ahead = ahead
        part = ahead.keys[start - ahead.start : stop - ahead.start]
        self.cursors += np.bincount(part.domains, minlength=len(self.cursors))
        self.num_samples += len(part)
        return part

    def _compute(self, num_samples: int, weights: MixtureWeights) -> _Ahead:
        start = self.num_samples
        units = quota_units(weights.sampled)
        domains = draw_domains(units, start=start, stop=start + num_samples, key=self._key)
        # Sorted by domain, each search in a table starts near where the last one ended.
        by_domain = np.argsort(domains, kind="stable")
        counts = np.bincount(domains, minlength=len(self.cursors))
        nth = np.arange(num_samples) - np.repeat(np.cumsum(counts) - counts, counts)
        drawn = domains[by_domain]
        rows = np.empty_like(domains)
        rows[by_domain] = self._finder.find(drawn, self.cursors[drawn] + nth)
        return _Ahead(start=start, weights=weights, keys=RowKeys(domains=domains, rows=rows))

    def state_dict(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "num_samples": self.num_samples,
            "cursors": self.cursors.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["version"] != STATE_VERSION:
            raise ValueError(f"order state of version {state['version']}, expected {STATE_VERSION}")
        if len(state["cursors"]) != len(self.cursors):
            raise ValueError(f"{len(state['cursors'])} cursors for {len(self.cursors)} domains")
        self._ahead = None
        self.num_samples = state["num_samples"]
        self.cursors = np.asarray(state["cursors"], dtype=np.int64)
