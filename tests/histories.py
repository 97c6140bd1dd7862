"""Events of runs as the toolkit writes them, and the histories that they tell."""

from __future__ import annotations

from typing import Any

from toolkit.history import RunHistory

BATCH = 32
ROW = 128  # tokens per sample
EVEN = {"code": 0.25, "books": 0.25, "web": 0.5}


def start(weights: dict[str, float] = EVEN, mixer: str = "dga") -> dict[str, Any]:
    return {
        "kind": "start",
        "step": 0,
        "domains": list(weights),
        "weights": weights,
        "target": "target",
        "global_batch_size": BATCH,
        "num_steps": 400,
        "mixer": mixer,
    }


def step(number: int, loss: float = 5.0) -> dict[str, Any]:
    return {"kind": "step", "step": number, "num_tokens": number * BATCH * ROW, "loss": loss}


def evaluation(number: int, target_loss: float) -> dict[str, Any]:
    row = {"kind": "evaluation", "target_loss": target_loss, "domain_losses": {}}
    return {**row, "step": number, "num_tokens": number * BATCH * ROW}


def update(
    number: int, scores: dict[str, float], weights: dict[str, float], **changes: Any
) -> dict[str, Any]:
    row = {
        "kind": "update",
        "step": number,
        "num_tokens": number * BATCH * ROW,
        "alignments": {domain: score / 100 + 0.5 for domain, score in scores.items()},
        "standard_errors": {domain: 0.002 for domain in scores},
        "norms": {domain: 1.0 for domain in scores},
        "target_norm": 1.3,
        "scores": scores,
        "proposed": weights,
        "weights": weights,
        "guard_rails": [],
        "effective_from": (number + 2) * BATCH,
        "cost_ms": 210.0,
        "dropped": None,
    }
    return {**row, **changes}


def moved_run() -> list[dict[str, Any]]:
    first = {"code": 0.35, "books": 0.25, "web": 0.4}
    second = {"code": 0.5, "books": 0.26, "web": 0.24}
    scores = {"code": 1.0, "books": 0.5, "web": -1.5}
    rails = ["floor: web held at 0.01", "largest change: code held at 0.15"]
    return [
        start(),
        evaluation(0, 9.0),
        update(50, {"code": 1.2, "books": 0.3, "web": -1.5}, first, cost_ms=200.0),
        update(100, scores, first, dropped="loss scale overflow", guard_rails=rails[:1]),
        update(150, scores, second, guard_rails=rails),
        step(200),
        evaluation(200, 4.5),
        update(200, scores, {"code": 0.9, "books": 0.05, "web": 0.05}),
    ]


def history(*rows: dict[str, Any]) -> RunHistory:
    return RunHistory.from_events(rows)
