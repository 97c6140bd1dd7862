"""What the order of a run costs, and how closely it keeps to the weights.

1. `Order.take` beside `NumpyOrder`, which a user would write: microseconds per row, in batches.
2. The quota error of both: how far any domain's count is from n times its weight after n draws,
   at most, over all n and over several random mixtures.

`NumpyOrder` holds every domain's permutation in memory, cannot resume at a sample, and its sequence
changes with the version of numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Figure, Options, Wanted, parse_options, report, time_in_rounds
from toolkit.order import DomainRows, Order, draw_domains, quota_units
from toolkit.weights import MixtureWeights, WeightLog

WANTED: Wanted = {
    "order_us_per_row_k4096_batch1024": ("<=", 1.0),
    "quota_error_max": ("<=", 5),
}
NUMS_DOMAINS = (8, 512, 4096)
BATCH_SIZES = (64, 1024)
ROWS_PER_SHARD = (1000,) * 20
NUM_ROUNDS, NUM_ROWS_PER_ROUND = 21, 8192

NUM_MIXTURES, NUM_MIXED_DOMAINS, NUM_DRAWS = 20, 8, 51_200


class NumpyOrder:
    """Domains by dice, and each domain's rows by one permutation per epoch."""

    def __init__(self, weights: Sequence[float], *, num_rows: int) -> None:
        self._generator = np.random.default_rng(0)
        self._weights = weights
        self._rows = [self._endless_rows(num_rows) for _ in weights]
        for rows in self._rows:
            next(rows)  # shuffles now: milliseconds per domain that come once per epoch

    def _endless_rows(self, num_rows: int) -> Iterator[np.int32]:
        while True:
            yield from self._generator.permutation(np.arange(num_rows, dtype=np.int32))

    def take(self, num_samples: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The domain and the row of each sample."""
        domains = self._generator.choice(len(self._weights), size=num_samples, p=self._weights)
        rows = [next(self._rows[domain]) for domain in domains.tolist()]
        return domains, np.array(rows, dtype=np.int32)


class TakesSamples(Protocol):
    """An order, ours or the peer's."""

    def take(self, num_samples: int) -> object: ...


def build_order(weights: Sequence[float]) -> Order:
    """An order of one mixture over that many domains, all of one size."""
    mixture = MixtureWeights(effective_from=0, sampled=tuple(weights), raw=tuple(weights))
    domains = [DomainRows(ROWS_PER_SHARD, key=i, shards_per_window=2) for i in range(len(weights))]
    return Order(domains, weight_log=WeightLog([mixture]), seed=0)


def random_weights(num_domains: int, *, seed: int) -> list[float]:
    """A mixture from the uniform distribution over all mixtures."""
    weights = np.random.default_rng(seed).dirichlet(np.ones(num_domains))
    normalised: list[float] = (weights / weights.sum()).tolist()
    return normalised


def speeds(num_domains: int, batch_size: int, *, is_quick: bool) -> list[Figure]:
    """Microseconds per row of both orders."""
    weights = random_weights(num_domains, seed=num_domains)
    orders: dict[str, TakesSamples] = {
        "order": build_order(weights),
        "numpy": NumpyOrder(weights, num_rows=sum(ROWS_PER_SHARD)),
    }
    num_batches = max(1, (batch_size if is_quick else NUM_ROWS_PER_ROUND) // batch_size)

    def take_batches(order: TakesSamples) -> None:
        for _ in range(num_batches):
            order.take(batch_size)

    seconds = time_in_rounds(
        {name: partial(take_batches, order) for name, order in orders.items()},
        num_rounds=2 if is_quick else NUM_ROUNDS,
        num_warmups=1 if is_quick else 4,
    )
    num_rows = num_batches * batch_size
    return [
        Figure.median(
            f"{name}_us_per_row_k{num_domains}_batch{batch_size}",
            [second / num_rows * 1e6 for second in seconds[name]],
        )
        for name in orders
    ]


def quota_error(domains: NDArray[np.int64], weights: Sequence[float]) -> float:
    """The largest |count - n * weight| of any domain over all prefixes, n draws long."""
    counts = np.cumsum(domains[:, None] == np.arange(len(weights)), axis=0)
    expected = np.arange(1, len(domains) + 1)[:, None] * np.array(weights)
    return float(np.abs(counts - expected).max())


def quota_errors(*, is_quick: bool) -> list[Figure]:
    """The largest quota error of both ways to draw, over all mixtures."""
    num_draws = 1000 if is_quick else NUM_DRAWS
    quota, dice = [], []
    for seed in range(NUM_MIXTURES):
        weights = random_weights(NUM_MIXED_DOMAINS, seed=seed)
        domains = draw_domains(quota_units(weights), start=0, stop=num_draws, key=seed)
        quota.append(quota_error(domains, weights))
        thrown = np.random.default_rng(seed).choice(len(weights), size=num_draws, p=weights)
        dice.append(quota_error(thrown, weights))
    return [
        Figure(label="quota_error_max", value=max(quota)),
        Figure(label="numpy_quota_error_max", value=max(dice)),
    ]


def run(options: Options) -> None:
    figures = [
        figure
        for num_domains in NUMS_DOMAINS
        for batch_size in BATCH_SIZES
        for figure in speeds(num_domains, batch_size, is_quick=options.is_quick)
    ]
    figures += quota_errors(is_quick=options.is_quick)
    report("order", figures, wanted=WANTED, options=options)


if __name__ == "__main__":
    run(parse_options(__doc__))
