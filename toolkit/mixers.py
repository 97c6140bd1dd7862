"""From alignments to mixture weights: pure functions of floats.

A mixer maps (current weights, alignments) to a proposal; guard rails then bound what is sampled.
Rank 0 runs them, everyone else receives the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LEAST_LOGIT = -700.0
"""exp() of it is still a normal number."""

Normalise = Literal["none", "norms", "standardise"]


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a mixer wants: its new own state, and the weights to draw with before guard rails."""

    raw: tuple[float, ...]
    sampled: tuple[float, ...]


def alignment_scores(
    inner_products: Sequence[float],
    *,
    norms: Sequence[float],
    target_norm: float,
    normalise: Normalise,
) -> tuple[float, ...]:
    """Alignments brought to one common scale for all domains.

    - `none`: the inner products <g_i, g_target> as they are (the paper's form). Their scale falls
      with the gradients through training, so a fixed step size dies out.
    - `norms`: divided by |g_target| times the mean of |g_i| over the domains. Differences between
      the domains' own gradient norms, the sign of memorisation, are kept.
    - `standardise`: mean 0 and standard deviation 1 across the domains; all 0 when they are equal.
    """
    match normalise:
        case "none":
            return tuple(inner_products)
        case "norms":
            scale = target_norm * math.fsum(norms) / len(norms)
            return tuple(a / scale if scale > 0 else 0.0 for a in inner_products)
        case "standardise":
            mean = math.fsum(inner_products) / len(inner_products)
            centred = [a - mean for a in inner_products]
            deviation = math.sqrt(math.fsum(c * c for c in centred) / len(centred))
            return tuple(c / deviation if deviation > 0 else 0.0 for c in centred)


def dga(
    scores: Sequence[float],
    *,
    raw: Sequence[float],
    sampled: Sequence[float],
    prior: Sequence[float],
    step_size: float,
    forgetting: float,
    ema_rate: float,
) -> Proposal:
    """One update of Dynamic Gradient Alignment (Fan, Grangier, Ablin 2024, arXiv 2410.02498).

        raw'     ~ raw^(1 - forgetting) * prior^forgetting * exp(step_size * scores)
        sampled' = (1 - ema_rate) * sampled + ema_rate * raw'

    With `forgetting = 0` this is the paper's mirror-descent step, whose weights only ever
    accumulate. With `forgetting > 0` raw converges to softmax(log prior + step_size / forgetting *
    average score), the average being exponential with rate `forgetting`: weight ratios stay within
    exp(step_size / forgetting * range of the scores) of the prior's, so it cannot collapse.

    Args:
        scores: one per domain, larger for domains whose gradient helps the target.
        prior: where `forgetting` pulls to. A domain of prior or raw weight 0 stays at 0.
        step_size: larger reacts faster and follows more noise.
        ema_rate: in (0, 1]; smaller smooths what is sampled, 1 samples `raw` itself.
    """
    logits = [
        (1 - forgetting) * math.log(r) + forgetting * math.log(p) + step_size * s
        if r > 0 and p > 0
        else -math.inf
        for r, p, s in zip(raw, prior, scores, strict=True)
    ]
    new_raw = _softmax(logits)
    mixed = [
        (1 - ema_rate) * old + ema_rate * new for old, new in zip(sampled, new_raw, strict=True)
    ]
    return Proposal(raw=new_raw, sampled=_normalised(mixed))


def with_floor(
    weights: Sequence[float], *, min_weight: float
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """The nearest weights with no domain below `min_weight`, and the domains that were raised.

    The others are scaled down together, so their ratios stay. A weight of exactly 0 is left at 0:
    such a domain was switched off by its user.
    """
    held: set[int] = set()
    while True:
        live = [w for i, w in enumerate(weights) if i not in held]
        scale = (1 - min_weight * len(held)) / math.fsum(live)
        below = {i for i, w in enumerate(weights) if i not in held and 0 < w * scale < min_weight}
        if not below:
            break
        held |= below
    floored = [min_weight if i in held else w * scale for i, w in enumerate(weights)]
    return _normalised(floored), tuple(sorted(held))


def _softmax(logits: Sequence[float]) -> tuple[float, ...]:
    largest = max(logits)
    # A weight that underflowed to 0 would never come back.
    return _normalised(
        [math.exp(max(x - largest, LEAST_LOGIT)) if x > -math.inf else 0.0 for x in logits]
    )


def _normalised(weights: Sequence[float]) -> tuple[float, ...]:
    total = math.fsum(weights)
    return tuple(w / total for w in weights)
