"""One update of the mixture: measure, propose, broadcast, append.

All ranks measure together; rank 0 alone decides, by a pure function; everyone appends the same
entry to the weight log, to take effect at a sample that nobody has drawn yet.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch.distributed as dist

from toolkit.alignment import Alignment, measure_alignment
from toolkit.config import MixtureSection
from toolkit.engine import Engine
from toolkit.mixers import Proposal, alignment_scores, dga, with_floor
from toolkit.probe import ProbeSource
from toolkit.weights import MixtureWeights, WeightLog


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What rank 0 made of an alignment; one entry per domain."""

    effective_from: int
    scores: tuple[float, ...]
    proposed: tuple[float, ...]
    """The mixer's own new weights, before smoothing and guard rails."""
    sampled: tuple[float, ...]
    """The weights to draw with."""
    guard_rails: tuple[str, ...]
    """The guard rails that changed the weights, in words."""
    dropped: str | None
    """Why the measurement was not used; the weights then stay as they were."""


def steer(
    *,
    engine: Engine,
    probes: ProbeSource,
    weight_log: WeightLog,
    effective_from: int,
    domains: Sequence[str],
    prior: Sequence[float],
    mixture: MixtureSection,
) -> dict[str, Any]:
    """Measures, decides, and appends the decision to `weight_log`; collective.

    Returns the update's event: everything that went into the decision and came out of it.
    """
    started = time.perf_counter()
    *domain_rows, target_rows = probes.draw()
    alignment = measure_alignment(engine, target=target_rows, domains=domain_rows)
    decisions: list[Decision | None] = [None]
    if engine.dp_rank == 0:
        decisions = [
            propose(
                alignment,
                current=weight_log.latest,
                effective_from=effective_from,
                domains=domains,
                prior=prior,
                mixture=mixture,
            )
        ]
    dist.broadcast_object_list(decisions, src=0)
    decision = decisions[0]
    assert decision is not None, "rank 0 sent no decision"
    if not decision.dropped:
        weight_log.append(
            MixtureWeights(
                effective_from=decision.effective_from,
                sampled=decision.sampled,
                raw=decision.proposed,
            )
        )
    cost_ms = (time.perf_counter() - started) * 1000
    return update_event(alignment, decision, domains=domains) | {"cost_ms": round(cost_ms, 3)}


def propose(
    alignment: Alignment,
    *,
    current: MixtureWeights,
    effective_from: int,
    domains: Sequence[str],
    prior: Sequence[float],
    mixture: MixtureSection,
) -> Decision:
    """The next mixture: a pure function of the current one and what was measured."""
    if not alignment.is_finite:
        return Decision(
            effective_from=effective_from,
            scores=(),
            proposed=current.raw,
            sampled=current.sampled,
            guard_rails=(),
            dropped="a measured number is not finite",
        )
    scores = _scores(alignment, prior=prior, mixture=mixture)
    proposal, raised = _propose(scores, current=current, prior=prior, mixture=mixture)
    return Decision(
        effective_from=effective_from,
        scores=scores,
        proposed=proposal.raw,
        sampled=proposal.sampled,
        guard_rails=tuple(f"floor: {domains[i]} held at {mixture.min_weight}" for i in raised),
        dropped=None,
    )


def _scores(
    alignment: Alignment, *, prior: Sequence[float], mixture: MixtureSection
) -> tuple[float, ...]:
    """The alignments on one scale; domains that are switched off have no part in it and score 0."""
    live = [i for i, weight in enumerate(prior) if weight > 0]
    scores = alignment_scores(
        [alignment.inner_products[i] for i in live],
        norms=[alignment.norms[i] for i in live],
        target_norm=alignment.target_norm,
        normalise=mixture.normalise,
    )
    by_domain = dict(zip(live, scores, strict=True))
    return tuple(by_domain.get(i, 0.0) for i in range(len(prior)))


def _propose(
    scores: Sequence[float],
    *,
    current: MixtureWeights,
    prior: Sequence[float],
    mixture: MixtureSection,
) -> tuple[Proposal, tuple[int, ...]]:
    """The configured mixer's proposal, guard rails applied, and the domains that they raised."""
    if mixture.mixer != "dga":
        return Proposal(raw=current.raw, sampled=current.sampled), ()
    proposal = dga(
        scores,
        raw=current.raw,
        sampled=current.sampled,
        prior=prior,
        step_size=mixture.step_size,
        forgetting=mixture.forgetting,
        ema_rate=mixture.ema_rate,
    )
    sampled, raised = with_floor(proposal.sampled, min_weight=mixture.min_weight)
    return Proposal(raw=proposal.raw, sampled=sampled), raised


def update_event(
    alignment: Alignment, decision: Decision, *, domains: Sequence[str]
) -> dict[str, Any]:
    """The explanation of one update, by domain name, as it goes into the run's events."""

    def named(values: Sequence[float]) -> dict[str, float]:
        return dict(zip(domains, values, strict=True)) if values else {}

    measured = asdict(alignment)
    return {
        "alignments": named(measured["inner_products"]),
        "standard_errors": named(measured["standard_errors"]),
        "norms": named(measured["norms"]),
        "target_norm": alignment.target_norm,
        "probe_losses": named(measured["losses"]),
        "target_probe_loss": alignment.target_loss,
        "scores": named(decision.scores),
        "proposed": named(decision.proposed),
        "weights": named(decision.sampled),
        "guard_rails": list(decision.guard_rails),
        "effective_from": decision.effective_from,
        "dropped": decision.dropped,
    }
