"""Mixers as closed forms and as properties."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.mixers import alignment_scores, dga, with_floor

scores_of = st.lists(st.floats(-50, 50), min_size=3, max_size=3)
weights_of = (
    st.lists(st.floats(0, 1), min_size=3, max_size=3)
    .filter(lambda w: sum(w) > 1e-6)
    .map(lambda w: tuple(x / math.fsum(w) for x in w))
)
EVEN = (1 / 3, 1 / 3, 1 / 3)


def step(
    scores: Sequence[float],
    *,
    raw: Sequence[float] = EVEN,
    step_size: float = 0.5,
    forgetting: float = 0.0,
    ema_rate: float = 1.0,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    proposal = dga(
        scores,
        raw=raw,
        sampled=raw,
        prior=EVEN,
        step_size=step_size,
        forgetting=forgetting,
        ema_rate=ema_rate,
    )
    return proposal.raw, proposal.sampled


def test_the_papers_step_is_an_exponentiated_gradient() -> None:
    raw, sampled = step((1.0, 0.0, -1.0), raw=(0.5, 0.3, 0.2), step_size=0.1, ema_rate=0.25)
    unnormalised = (0.5 * math.exp(0.1), 0.3, 0.2 * math.exp(-0.1))
    expected = tuple(w / sum(unnormalised) for w in unnormalised)
    assert raw == pytest.approx(expected, rel=1e-14)
    mixed = [0.75 * old + 0.25 * new for old, new in zip((0.5, 0.3, 0.2), expected, strict=True)]
    assert sampled == pytest.approx(mixed, rel=1e-14)


def test_with_forgetting_it_converges_to_a_softmax_and_cannot_collapse() -> None:
    raw: tuple[float, ...] = EVEN
    for _ in range(500):
        raw, _ = step((1.0, 0.0, -1.0), raw=raw, step_size=0.3, forgetting=0.1)
    expected = [math.exp(3 * s) for s in (1.0, 0.0, -1.0)]
    assert raw == pytest.approx([w / sum(expected) for w in expected], rel=1e-9)


def test_without_forgetting_the_same_scores_collapse() -> None:
    raw: tuple[float, ...] = EVEN
    for _ in range(500):
        raw, _ = step((1.0, 0.0, -1.0), raw=raw, step_size=0.3)
    assert raw[0] > 1 - 1e-12


def test_it_finds_the_best_mixture_of_a_quadratic() -> None:
    """Domain i pulls a parameter toward c_i, the target toward t = sum w*_i c_i, in the plane.

    Training follows the mixture's gradient; at the optimum no domain is better aligned than
    another.
    """
    centres = [(1.0, 0.0), (0.0, 1.0), (-1.0, -1.0)]
    best = (0.5, 0.3, 0.2)
    target = [sum(w * c[axis] for w, c in zip(best, centres, strict=True)) for axis in (0, 1)]
    raw: tuple[float, ...] = EVEN
    x = [0.0, 0.0]
    for _ in range(4000):
        mean = [sum(w * c[axis] for w, c in zip(raw, centres, strict=True)) for axis in (0, 1)]
        x = [xi + 0.2 * (m - xi) for xi, m in zip(x, mean, strict=True)]
        scores = [
            sum((xi - ci) * (xi - ti) for xi, ci, ti in zip(x, c, target, strict=True))
            for c in centres
        ]
        raw, _ = step(scores, raw=raw, step_size=0.5)
    assert x == pytest.approx(target, abs=1e-3)
    assert raw == pytest.approx(best, abs=5e-3)


@given(scores_of, weights_of, st.floats(0.01, 5), st.floats(0, 0.9), st.floats(0.01, 1))
def test_it_always_returns_distributions(
    scores: list[float],
    raw: tuple[float, ...],
    step_size: float,
    forgetting: float,
    ema_rate: float,
) -> None:
    for weights in step(
        scores, raw=raw, step_size=step_size, forgetting=forgetting, ema_rate=ema_rate
    ):
        assert math.fsum(weights) == pytest.approx(1, abs=1e-12)
        assert all(0 <= w <= 1 for w in weights)


@given(scores_of, weights_of)
def test_a_domain_that_is_off_stays_off(scores: list[float], raw: tuple[float, ...]) -> None:
    raw = (0.0, raw[1] + raw[0], raw[2])
    assert step(scores, raw=raw, forgetting=0.1)[0][0] == 0


def test_a_domain_always_comes_back() -> None:
    """However long the scores spoke against it: a weight that underflowed to 0 would stay there."""
    raw: tuple[float, ...] = EVEN
    for _ in range(2000):
        raw, _ = step((1.0, 1.0, -2.0), raw=raw)
    assert raw[2] > 0
    for _ in range(2000):
        raw, _ = step((-1.0, -1.0, 2.0), raw=raw)
    assert raw[2] > 0.99


def test_equal_scores_move_nothing() -> None:
    weights = (0.2, 0.3, 0.5)
    assert step((0.7, 0.7, 0.7), raw=weights)[1] == pytest.approx(weights, rel=1e-14)


def scores(inner_products: Sequence[float], normalise: str) -> tuple[float, ...]:
    return alignment_scores(
        inner_products,
        norms=(1.0, 3.0),
        target_norm=0.5,
        normalise=normalise,  # type: ignore[arg-type]
    )


def test_scores_share_one_scale() -> None:
    assert scores((0.2, 0.4), "none") == (0.2, 0.4)
    assert scores((0.2, 0.4), "norms") == pytest.approx((0.2, 0.4))  # 0.5 × mean(1, 3) = 1
    assert scores((0.2, 0.4), "standardise") == pytest.approx((-1.0, 1.0))
    assert scores((2e9, 4e9), "standardise") == pytest.approx((-1.0, 1.0))
    assert scores((0.3, 0.3), "standardise") == (0.0, 0.0)


def test_the_floor_scales_the_others_down_together() -> None:
    floored, raised = with_floor((0.001, 0.333, 0.666), min_weight=0.1)
    assert raised == (0,)
    assert floored == pytest.approx((0.1, 0.3, 0.6))
    assert with_floor((0.0, 0.5, 0.5), min_weight=0.1) == ((0.0, 0.5, 0.5), ())
    # Scaling down pushes the second below the floor as well.
    floored, raised = with_floor((0.001, 0.11, 0.889), min_weight=0.1099)
    assert raised == (0, 1) and floored == pytest.approx((0.1099, 0.1099, 0.7802))


@given(weights_of, st.floats(0, 1 / 3))
def test_the_floor_holds_exactly(weights: tuple[float, ...], min_weight: float) -> None:
    floored, _ = with_floor(weights, min_weight=min_weight)
    assert math.fsum(floored) == pytest.approx(1, abs=1e-12)
    for before, after in zip(weights, floored, strict=True):
        assert after >= min_weight * (1 - 1e-9) if before > 0 else after == 0
