"""Mixture weights, and the log that says which of them holds at which sample.

A weight change is an appointment: an entry takes effect at a global sample index that lies beyond
everything any reader has drawn, so every reader switches at exactly that sample.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

STATE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class MixtureWeights:
    """A point of the mixture's path, and from which sample on it holds."""

    effective_from: int
    """Global sample index (samples since the start of the run)."""
    sampled: tuple[float, ...]
    """The weights that rows are drawn with: one per domain, non-negative, summing to 1."""
    raw: tuple[float, ...]
    """The mixer's own state before smoothing, from which its next proposal starts."""

    def __post_init__(self) -> None:
        if self.effective_from < 0:
            raise ValueError(f"effective_from is {self.effective_from}, must not be negative")
        if len(self.sampled) != len(self.raw):
            raise ValueError(f"{len(self.sampled)} sampled but {len(self.raw)} raw weights")
        for name, weights in (("sampled", self.sampled), ("raw", self.raw)):
            check_distribution(weights, name=name)


def check_distribution(weights: Sequence[float], *, name: str) -> None:
    """Raises ValueError unless the weights are finite, not negative, and sum to 1 within 1e-6."""
    if not all(math.isfinite(w) and w >= 0 for w in weights):
        raise ValueError(f"{name} weights must be finite and not negative: {tuple(weights)}")
    total = math.fsum(weights)
    if abs(total - 1) > 1e-6:
        raise ValueError(f"{name} weights sum to {total:.6g}, must sum to 1")


class WeightLog:
    """The appointments of one run, oldest first.

    The whole history is in the run's events; here entries may be forgotten once a later one is in
    effect.
    """

    def __init__(self, entries: Sequence[MixtureWeights]) -> None:
        if not entries:
            raise ValueError("a weight log starts with the weights of the first sample")
        self._entries = list(entries)

    @property
    def latest(self) -> MixtureWeights:
        """The last appointment made, in effect already or not."""
        return self._entries[-1]

    def append(self, weights: MixtureWeights) -> None:
        """Adds an appointment later than all others."""
        if weights.effective_from <= self.latest.effective_from:
            raise ValueError(
                f"effective_from {weights.effective_from} is not after the latest appointment, "
                f"{self.latest.effective_from}"
            )
        if len(weights.sampled) != len(self.latest.sampled):
            raise ValueError(
                f"{len(weights.sampled)} weights for {len(self.latest.sampled)} domains"
            )
        self._entries.append(weights)

    def segments(self, start: int, stop: int) -> Iterator[tuple[int, int, MixtureWeights]]:
        """Cuts the samples [start, stop) where the weights change: (start, stop, weights)."""
        while start < stop:
            position = self._position(start)
            if position < 0:
                raise ValueError(f"sample {start} lies before the log's first entry")
            last = position + 1 == len(self._entries)
            end = stop if last else min(stop, self._entries[position + 1].effective_from)
            yield start, end, self._entries[position]
            start = end

    def tail(self, sample: int) -> WeightLog:
        """The log without what is over at `sample`."""
        return WeightLog(self._entries[max(0, self._position(sample)) :])

    def forget(self, sample: int) -> None:
        """Drops what is over at `sample`; nothing before it may be asked for again."""
        del self._entries[: max(0, self._position(sample))]

    def state_dict(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "entries": [
                {"effective_from": e.effective_from, "sampled": list(e.sampled), "raw": list(e.raw)}
                for e in self._entries
            ],
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> WeightLog:
        if state["version"] != STATE_VERSION:
            raise ValueError(f"weight log of version {state['version']}, expected {STATE_VERSION}")
        return cls(
            [
                MixtureWeights(
                    effective_from=entry["effective_from"],
                    sampled=tuple(entry["sampled"]),
                    raw=tuple(entry["raw"]),
                )
                for entry in state["entries"]
            ]
        )

    def _position(self, sample: int) -> int:
        return bisect_right(self._entries, sample, key=lambda entry: entry.effective_from) - 1
