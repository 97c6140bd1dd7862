"""Law 6: an update explains itself; and it is a pure function of what was measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from ranks import run_on_ranks
from tiny import DOMAINS, tiny_config

from toolkit.alignment import Alignment
from toolkit.config import MixtureSection, RunConfig
from toolkit.inputs import load_inputs
from toolkit.steering import propose
from toolkit.stopping import StopRequest
from toolkit.train import train
from toolkit.weights import MixtureWeights

EVEN = MixtureWeights(effective_from=0, sampled=(0.25,) * 4, raw=(0.25,) * 4)
NAMES = ("a", "b", "c", "d")
GOLDEN = Path(__file__).parents[1] / "golden"
UPDATE_FIELDS = {
    "kind", "step", "num_tokens", "alignments", "standard_errors", "norms", "target_norm",
    "probe_losses", "target_probe_loss", "scores", "proposed", "weights", "guard_rails",
    "effective_from", "dropped", "cost_ms",
}  # fmt: skip


def measured(*inner_products: float) -> Alignment:
    return Alignment(
        inner_products=inner_products,
        standard_errors=(0.1,) * 4,
        norms=(1.0,) * 4,
        target_norm=1.0,
        losses=(2.0,) * 4,
        target_loss=2.0,
    )


def test_a_golden_trajectory() -> None:
    mixture = MixtureSection(step_size=0.5, forgetting=0.1, ema_rate=0.5, min_weight=0.05)
    current, path = EVEN, []
    for step in range(1, 6):
        decision = propose(
            measured(3.0, 1.0, -1.0 * step, 0.0),
            current=current,
            effective_from=step * 10,
            domains=NAMES,
            prior=EVEN.sampled,
            mixture=mixture,
        )
        current = MixtureWeights(
            effective_from=step * 10, sampled=decision.sampled, raw=decision.proposed
        )
        path.append([round(w, 6) for w in decision.sampled])
    assert path == GOLDEN_PATH
    assert decision.guard_rails == ("floor: c held at 0.05",)


GOLDEN_PATH = [
    [0.359748, 0.244389, 0.18572, 0.210143],
    [0.50015, 0.222275, 0.116558, 0.161016],
    [0.62066, 0.193104, 0.067179, 0.119057],
    [0.699244, 0.163556, 0.05, 0.0872],
    [0.74521, 0.139371, 0.05, 0.065419],
]


def test_a_domain_that_is_off_does_not_set_the_scale() -> None:
    prior = (0.5, 0.5, 0.0, 0.0)
    decision = propose(
        measured(1.0, 3.0, 500.0, -500.0),
        current=MixtureWeights(effective_from=0, sampled=prior, raw=prior),
        effective_from=10,
        domains=NAMES,
        prior=prior,
        mixture=MixtureSection(),
    )
    assert decision.scores == (-1.0, 1.0, 0.0, 0.0)
    assert decision.sampled[2:] == (0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_moves_nothing(bad: float) -> None:
    decision = propose(
        measured(1.0, bad, 0.0, 0.0),
        current=EVEN,
        effective_from=10,
        domains=NAMES,
        prior=EVEN.sampled,
        mixture=MixtureSection(),
    )
    assert decision.dropped == "a measured number is not finite"
    assert decision.sampled == EVEN.sampled and decision.proposed == EVEN.raw


def events_and_log(config: RunConfig) -> list[dict[str, Any]]:
    train(config, load_inputs(config), stop=StopRequest())
    if dist.get_rank() != 0:
        return []
    lines = (config.run.folder / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_every_update_of_a_run_is_explained(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_data, tmp_path / "run", mixture={"every_steps": 2})
    config.run.folder.mkdir()
    events = run_on_ranks(2, events_and_log, config)[0]
    updates = [event for event in events if event["kind"] == "update"]
    assert [update["step"] for update in updates] == [2, 4, 6, 8]
    before = dict.fromkeys(DOMAINS, 1 / 3)
    raw = before
    for update in updates:
        assert set(update) == UPDATE_FIELDS
        assert update["effective_from"] == (update["step"] + 2) * 8
        assert update["cost_ms"] > 0 and update["dropped"] is None
        # What is written down is enough to recompute what was done.
        a = list(update["alignments"].values())
        mean = sum(a) / 3
        deviation = math.sqrt(sum((x - mean) ** 2 for x in a) / 3)
        assert list(update["scores"].values()) == pytest.approx([(x - mean) / deviation for x in a])
        powers = {
            d: raw[d] ** 0.9 * (1 / 3) ** 0.1 * math.exp(0.5 * update["scores"][d]) for d in DOMAINS
        }
        raw = {d: p / sum(powers.values()) for d, p in powers.items()}
        assert update["proposed"] == pytest.approx(raw)
        before = {d: 0.5 * before[d] + 0.5 * raw[d] for d in DOMAINS}
        if not update["guard_rails"]:
            assert update["weights"] == pytest.approx(before)
        before = update["weights"]
    steps = [event for event in events if event["kind"] == "step"]
    rows = steps[-1]["rows"]
    assert sum(rows.values()) == 12 * 8
    assert max(rows.values()) > min(rows.values()), "the weights moved, the rows did not"
    golden = json.loads((GOLDEN / "tiny_run.json").read_text(encoding="utf-8"))
    assert [step["loss"] for step in steps] == pytest.approx(golden["losses"], rel=1e-4)
    weights = [list(update["weights"].values()) for update in updates]
    for row, expected in zip(weights, golden["weights"], strict=True):
        assert row == pytest.approx(expected, rel=1e-3)
