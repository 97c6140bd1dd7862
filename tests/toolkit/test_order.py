"""The order as pure functions: quotas, permutations, and independence of how it is taken."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.integers import GOLDEN64, derive_key, mix64, permute
from toolkit.order import (
    UNITS,
    DomainRows,
    Order,
    RowFinder,
    draw_domains,
    quota_units,
)
from toolkit.weights import MixtureWeights, WeightLog

SHARDS = [[5, 3, 9], [1], [4, 4, 4, 4, 2], [40]]

weights_of = st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda w: sum(w) > 1e-3)


def normalised(weights: list[float]) -> tuple[float, ...]:
    total = math.fsum(weights)
    return tuple(w / total for w in weights)


def make_order(log: WeightLog, *, seed: int = 1) -> Order:
    domains = [DomainRows(rows, key=i + 50, shards_per_window=2) for i, rows in enumerate(SHARDS)]
    return Order(domains, weight_log=log, seed=seed)


def log_of(*entries: tuple[int, list[float]]) -> WeightLog:
    appointments = [
        MixtureWeights(effective_from=start, sampled=normalised(w), raw=normalised(w))
        for start, w in entries
    ]
    return WeightLog(appointments)


CHANGING = ((0, [1, 1, 1, 1]), (37, [0, 1, 2, 5]), (64, [4, 0.5, 0, 1]), (65, [1, 0, 0, 0]))


def pairs(order: Order, num_samples: int) -> list[tuple[int, int]]:
    keys = order.take(num_samples)
    return list(zip(keys.domains.tolist(), keys.rows.tolist(), strict=True))


def test_the_sequence_of_today_is_the_sequence_of_tomorrow() -> None:
    """Pinned: a change here breaks the continuation of every run that exists."""
    order = make_order(log_of(*CHANGING), seed=7)
    assert pairs(order, 12) == GOLDEN_START
    order.take(50)
    assert pairs(order, 6) == GOLDEN_LATER


GOLDEN_START = [
    (0, 14),
    (2, 7),
    (1, 0),
    (3, 9),
    (2, 0),
    (0, 10),
    (3, 28),
    (1, 0),
    (0, 0),
    (2, 2),
    (1, 0),
    (3, 23),
]
GOLDEN_LATER = [(3, 18), (1, 0), (0, 16), (0, 11), (0, 4), (0, 2)]


@given(weights_of)
def test_units_are_whole_and_complete(weights: list[float]) -> None:
    units = quota_units(normalised(weights))
    assert int(units.sum()) == UNITS
    for unit, weight in zip(units.tolist(), normalised(weights), strict=True):
        assert abs(unit - weight * UNITS) <= 1 + len(weights)
        assert weight > 0 or unit == 0


@given(weights_of, st.integers(0, 1 << 45), st.integers(0, (1 << 64) - 1))
def test_counts_follow_the_weights_at_every_prefix(
    weights: list[float], start: int, key: int
) -> None:
    num_samples = 3000
    shares = np.array(normalised(weights))
    units = quota_units(tuple(shares))
    domains = draw_domains(units, start=start, stop=start + num_samples, key=key)
    drawn = np.cumsum(domains[:, None] == np.arange(len(weights)), axis=0)
    n = np.arange(1, num_samples + 1)
    bound = 3 + 1.45 * np.log2(n)
    assert (np.abs(drawn - n[:, None] * shares) <= bound[:, None]).all()


@given(weights_of, st.integers(0, 1 << 40))
def test_a_domain_of_weight_zero_is_never_drawn(weights: list[float], start: int) -> None:
    weights[0] = 0.0
    if sum(weights) > 0:
        units = quota_units(normalised(weights))
        assert 0 not in draw_domains(units, start=start, stop=start + 500, key=3)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=9),
    st.integers(0, (1 << 64) - 1),
    st.integers(1, 4),
)
def test_every_epoch_is_a_permutation(shards: list[int], key: int, window: int) -> None:
    rows = DomainRows(shards, key=key, shards_per_window=window)
    total = sum(shards)
    epochs = [rows.take(e * total, (e + 1) * total).tolist() for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(total))
    if total > 20:
        assert epochs[0] != epochs[1]


def row_of_draw(domain: DomainRows, draw: int) -> int:
    """The definition of a domain's order, in plain loops."""
    epoch, place = divmod(draw, sum(domain.rows_per_shard))
    epoch_key = derive_key(domain.key, epoch)
    shards = sorted(
        range(len(domain.rows_per_shard)), key=lambda shard: mix64(shard * GOLDEN64 + epoch_key)
    )
    for window in range(len(shards)):
        inside = shards[window * domain.shards_per_window :][: domain.shards_per_window]
        rows = [
            sum(domain.rows_per_shard[:shard]) + row
            for shard in inside
            for row in range(domain.rows_per_shard[shard])
        ]
        if place < len(rows):
            key = derive_key(epoch_key, window)
            index = permute(
                np.array([place]),
                sizes=np.array([len(rows)]),
                keys=np.array([key], dtype=np.uint64),
            )
            return rows[int(index[0])]
        place -= len(rows)
    raise AssertionError("the place lies past the epoch")


domains_of_any_shape = st.lists(
    st.builds(
        DomainRows,
        st.lists(st.integers(0, 40), min_size=1, max_size=7).filter(any),
        key=st.integers(0, (1 << 64) - 1),
        shards_per_window=st.integers(1, 4),
    ),
    min_size=1,
    max_size=4,
)


@given(domains_of_any_shape, st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400))))
def test_rows_are_found_one_by_one_as_in_plain_loops(
    domains: list[DomainRows], wanted: list[tuple[int, int]]
) -> None:
    wanted = [(i % len(domains), draw) for i, draw in wanted]
    ids, draws = np.array(wanted, dtype=np.int64).reshape(-1, 2).T
    found = RowFinder(domains).find(ids, draws).tolist()
    assert found == [row_of_draw(domains[i], draw) for i, draw in wanted]


def test_a_window_holds_whole_shards() -> None:
    rows = DomainRows([10] * 6, key=4, shards_per_window=2)
    taken = rows.take(0, 60)
    for first in range(0, 60, 20):
        assert len(set((taken[first : first + 20] // 10).tolist())) == 2


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_the_pieces_it_is_taken_in_do_not_matter(pieces: list[int]) -> None:
    log = log_of(*CHANGING)
    whole = pairs(make_order(log), sum(pieces))
    order = make_order(log)
    assert [pair for piece in pieces for pair in pairs(order, piece)] == whole


def test_neither_does_how_far_ahead_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_of(*CHANGING)
    whole = pairs(make_order(log), 300)
    for num_samples_ahead in (1, 5, 32):
        monkeypatch.setattr("toolkit.order.NUM_SAMPLES_AHEAD", num_samples_ahead)
        order = make_order(log)
        assert [pair for _ in range(100) for pair in pairs(order, 3)] == whole


@pytest.mark.parametrize("position", range(3, 90, 3))
def test_an_appointment_holds_also_for_what_was_computed_ahead(position: int) -> None:
    weights = [0, 1, 2, 5]
    whole = pairs(make_order(log_of((0, [1, 1, 1, 1]), (position, weights))), 120)
    log = log_of((0, [1, 1, 1, 1]))
    order = make_order(log)
    before = [pair for _ in range(position // 3) for pair in pairs(order, 3)]
    log.append(log_of((position, weights)).latest)
    assert before + pairs(order, 120 - position) == whole


def test_an_order_may_be_set_back() -> None:
    order = make_order(log_of(*CHANGING))
    order.take(70)
    state = order.state_dict()
    rest = pairs(order, 40)
    order.load_state_dict(state)
    assert pairs(order, 40) == rest


@pytest.mark.parametrize("position", range(0, 140, 7))
def test_restore_at_a_position_gives_the_rest(position: int) -> None:
    log = log_of(*CHANGING)
    whole = pairs(make_order(log), 150)
    before = make_order(log)
    before.take(position) if position else None
    after = make_order(WeightLog.from_state_dict(log.tail(position).state_dict()))
    after.load_state_dict(before.state_dict())
    assert pairs(after, 150 - position) == whole[position:]


def test_a_weight_change_skips_and_repeats_no_row() -> None:
    taken = pairs(make_order(log_of(*CHANGING)), 200)
    for domain, shards in enumerate(SHARDS):
        rows = [row for d, row in taken if d == domain]
        reference = DomainRows(shards, key=domain + 50, shards_per_window=2)
        assert rows == reference.take(0, max(1, len(rows))).tolist()[: len(rows)]


def test_domains_and_uses_have_orders_of_their_own() -> None:
    orders = [
        DomainRows([200], key=derive_key(seed, use, name), shards_per_window=1)
        for name, seed, use in [("a", 0, "train"), ("b", 0, "train"), ("a", 1, "train"),
                                ("a", 0, "probe")]
    ]  # fmt: skip
    assert len({tuple(order.take(0, 200).tolist()) for order in orders}) == 4


def test_state_of_another_kind_is_refused() -> None:
    order = make_order(log_of(*CHANGING))
    with pytest.raises(ValueError, match="version 2, expected 1"):
        order.load_state_dict({"version": 2, "num_samples": 0, "cursors": [0] * 4})
    with pytest.raises(ValueError, match="3 cursors for 4 domains"):
        order.load_state_dict({"version": 1, "num_samples": 0, "cursors": [0] * 3})
