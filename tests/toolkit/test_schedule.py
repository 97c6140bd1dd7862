"""The schedule in closed form, and as the engine applies it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from ranks import run_on_ranks
from tiny import tiny_config

from toolkit.config import RunConfig
from toolkit.inputs import load_inputs
from toolkit.schedule import LearningRateSchedule
from toolkit.training_run import TrainingRun


def test_warm_up_reaches_the_peak_and_the_cosine_a_tenth() -> None:
    share = LearningRateSchedule(shape="cosine", warmup_steps=2, num_steps=6)
    assert [share(step) for step in range(6)] == pytest.approx(
        [0.5, 1.0, 0.1 + 0.9 * 0.853553, 0.55, 0.1 + 0.9 * 0.146447, 0.1], abs=1e-6
    )


def test_constant_stays_at_the_peak() -> None:
    share = LearningRateSchedule(shape="constant", warmup_steps=3, num_steps=6)
    assert [share(step) for step in range(6)] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])


def rates_taken(config: RunConfig) -> list[float]:
    config.run.folder.mkdir(parents=True, exist_ok=True)
    rates = []
    with ExitStack() as stack:
        run = TrainingRun.build(config, load_inputs(config), stack=stack)
        while run.step < config.run.num_steps:
            rates.append(run.engine.learning_rate)
            run.train_step()
    return rates


@pytest.mark.parametrize(("zero_stage", "precision"), [(0, "fp32"), (2, "fp32"), (1, "bf16")])
def test_every_step_takes_its_own_rate(
    tiny_data: Path, tmp_path: Path, zero_stage: int, precision: str
) -> None:
    config = tiny_config(
        tiny_data,
        tmp_path / "run",
        run={"num_steps": 6, "num_ranks": 1},
        engine={"zero_stage": zero_stage, "precision": precision},
        mixture={"mixer": "fixed"},
    )
    share = LearningRateSchedule(shape="cosine", warmup_steps=2, num_steps=6)
    expected = [0.01 * share(step) for step in range(6)]
    assert run_on_ranks(1, rates_taken, config)[0] == pytest.approx(expected)
