"""The weight log: appointments in order, found again at every sample."""

from __future__ import annotations

import json
import math

import pytest

from toolkit.weights import MixtureWeights, WeightLog


def entry(effective_from: int, *weights: float) -> MixtureWeights:
    return MixtureWeights(effective_from=effective_from, sampled=weights, raw=weights)


def weights_at(log: WeightLog, sample: int) -> MixtureWeights:
    ((_, _, weights),) = log.segments(sample, sample + 1)
    return weights


def test_segments_cut_where_weights_change() -> None:
    first, second, third = entry(0, 1, 0), entry(10, 0.5, 0.5), entry(12, 0, 1)
    log = WeightLog([first, second])
    log.append(third)
    assert list(log.segments(3, 20)) == [(3, 10, first), (10, 12, second), (12, 20, third)]
    assert list(log.segments(10, 12)) == [(10, 12, second)]
    assert list(log.segments(5, 5)) == []
    assert [weights_at(log, sample) for sample in (0, 9, 10, 11, 12, 99)] == [
        first, first, second, second, third, third
    ]  # fmt: skip


def test_appointments_are_made_in_order() -> None:
    log = WeightLog([entry(0, 1, 0), entry(10, 0, 1)])
    with pytest.raises(
        ValueError, match="effective_from 10 is not after the latest appointment, 10"
    ):
        log.append(entry(10, 1, 0))
    with pytest.raises(ValueError, match="3 weights for 2 domains"):
        log.append(entry(11, 0.2, 0.2, 0.6))
    assert log.latest == entry(10, 0, 1)


def test_the_tail_keeps_what_can_still_matter() -> None:
    log = WeightLog([entry(0, 1, 0), entry(10, 0, 1), entry(20, 1, 0)])
    for sample, starts in [(0, [0, 10, 20]), (9, [0, 10, 20]), (10, [10, 20]), (25, [20])]:
        state = json.loads(json.dumps(log.tail(sample).state_dict()))
        assert [e["effective_from"] for e in state["entries"]] == starts
        restored = WeightLog.from_state_dict(state)
        assert weights_at(restored, max(sample, 20)) == weights_at(log, max(sample, 20))


def test_what_is_forgotten_is_only_what_is_over() -> None:
    log = WeightLog([entry(0, 1, 0), entry(10, 0, 1), entry(20, 1, 0)])
    log.forget(19)
    assert list(log.segments(19, 30)) == [(19, 20, entry(10, 0, 1)), (20, 30, entry(20, 1, 0))]


def test_weights_survive_json_to_the_bit() -> None:
    weights = tuple(w / math.fsum((0.1, 0.7, 1 / 3)) for w in (0.1, 0.7, 1 / 3))
    state = json.loads(json.dumps(WeightLog([entry(0, *weights)]).state_dict()))
    assert WeightLog.from_state_dict(state).latest.sampled == weights


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ((0.5, 0.4), "sum to 0.9, must sum to 1"),
        ((1.5, -0.5), "must be finite and not negative"),
        ((math.nan, 1.0), "must be finite and not negative"),
    ],
)
def test_only_distributions_enter(weights: tuple[float, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        entry(0, *weights)


def test_samples_before_the_log_are_refused() -> None:
    with pytest.raises(ValueError, match="sample 3 lies before"):
        list(WeightLog([entry(5, 1.0)]).segments(3, 9))
