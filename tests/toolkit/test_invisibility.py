"""Law 3: training with probes on and the weights held is, to the bit, training without probes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_on_ranks
from tiny import tiny_config

from toolkit.config import RunConfig
from toolkit.inputs import load_inputs
from toolkit.training_run import TrainingRun

NUM_STEPS = 20


def everything_after(config: RunConfig) -> dict[str, Any]:
    """Trains on this rank and returns all state that training could have noticed a probe in."""
    config.run.folder.mkdir(parents=True, exist_ok=True)
    losses, generators, shown = [], [], []
    with ExitStack() as stack:
        run = TrainingRun.build(config, load_inputs(config), stack=stack)
        next_step = run.loader.next_step

        def watched() -> list[torch.Tensor]:
            micro_batches = next_step()
            shown.append(torch.stack(micro_batches).clone())
            return micro_batches

        run.loader.next_step = watched  # type: ignore[method-assign]
        num_updates = 0
        while run.step < config.run.num_steps:
            if run.is_update_due:
                run.update_mixture()
                num_updates += 1
            generators.append(torch.get_rng_state())
            run.train_step()
            losses.append(run._loss.clone())
        engine = run.engine._engine
        return {
            "num_updates": num_updates,
            "losses": torch.stack(losses),
            "parameters": [p.detach().clone() for p in run.engine.parameters],
            "optimizer": engine.optimizer.state_dict(),
            "scheduler": engine.lr_scheduler.state_dict(),
            "loss_scale": getattr(engine.optimizer, "cur_scale", None),
            "counters": (engine.global_steps, engine.micro_steps, engine.global_samples),
            "generators": torch.stack(generators),
            "modes": [module.training for module in run.engine.module.modules()],
            "gradients": [p.grad is None for p in run.engine.parameters],
            "loader": run.loader.state_dict(),
            "rows": torch.stack(shown),
        }


def assert_same(a: Any, b: Any, path: str = "state") -> None:
    """Bitwise equality of nested containers of tensors and plain values."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    elif hasattr(a, "__dict__"):
        assert_same(vars(a), vars(b), path)
    else:
        assert a == b, path


@pytest.mark.parametrize(
    ("zero_stage", "precision"),
    [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (2, "bf16"), (3, "bf16")],
)
def test_probes_leave_no_trace(
    tiny_data: Path, tmp_path: Path, zero_stage: int, precision: str
) -> None:
    states = {}
    for mixer in ("fixed", "observe"):
        config = tiny_config(
            tiny_data,
            tmp_path / mixer,
            run={"num_steps": NUM_STEPS},
            model={"attention_dropout": 0.1},
            engine={"zero_stage": zero_stage, "precision": precision},
            mixture={"mixer": mixer, "every_steps": 3},
        )
        assert config.num_micro_batches(2) == 2, "the law is stated for accumulation"
        states[mixer] = run_on_ranks(2, everything_after, config)
    for without, with_probes in zip(states["fixed"], states["observe"], strict=True):
        assert (without.pop("num_updates"), with_probes.pop("num_updates")) == (0, 5)
        assert all(with_probes["modes"]), "a module was left in evaluation mode"
        assert_same(without, with_probes)


def test_dropout_is_on_in_training(tiny_data: Path, tmp_path: Path) -> None:
    """Otherwise the test above would not see a probe that moves the generator."""
    losses = {}
    for dropout in (0.0, 0.1):
        config = tiny_config(
            tiny_data,
            tmp_path / str(dropout),
            run={"num_steps": 3},
            model={"attention_dropout": dropout},
            mixture={"mixer": "fixed"},
        )
        losses[dropout] = run_on_ranks(2, everything_after, config)[0]["losses"]
    assert not torch.equal(losses[0.0], losses[0.1])
