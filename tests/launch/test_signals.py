"""A running job that is told to stop, or killed: what is left, and that it goes on from there."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
from processes import (
    Commands,
    Finished,
    checkpoint_step,
    job_config,
    steps,
    wait_for_step,
    wait_until,
)

NUM_STEPS = 60
SECONDS_TO_DIE = 10.0
"""What the kernel needs for SIGKILL on a busy machine, and torch's loader processes to see it."""


def test_a_run_that_is_stopped_and_killed_again_and_again(
    commands: Commands,
    shared_memory: Callable[[], set[str]],
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    config = job_config(tiny_data, run, run={"num_steps": NUM_STEPS}, mixture={"every_steps": 20})

    paused = stop_after(2, signal.SIGINT, commands, config, run)
    assert paused.code == 75
    assert paused.out == ""
    assert paused.err.endswith(f"paused; the same command continues {run}\n")
    assert paused.err.count("stopping after this step, with a checkpoint") == 1
    first_stop = checkpoint_step(run)
    assert first_stop is not None
    assert steps(run) == list(range(1, first_stop + 1))

    paused = stop_after(first_stop + 2, signal.SIGTERM, commands, config, run, "data.num_workers=1")
    assert paused.code == 75
    second_stop = checkpoint_step(run)
    assert second_stop is not None
    assert second_stop >= first_stop + 2
    assert steps(run) == list(range(1, second_stop + 1))

    killed = kill_rank_1(second_stop + 2, commands, config, run, "data.num_workers=1")
    assert killed.code == 137
    assert "\nrank 1 was killed by SIGKILL, often for lack of memory" in killed.err
    assert killed.err.endswith(f"the same command continues {run} from its last checkpoint\n")
    assert checkpoint_step(run) == second_stop

    finished = commands.run("train", config)
    assert finished.code == 0
    assert checkpoint_step(run) == NUM_STEPS
    assert steps(run) == list(range(1, NUM_STEPS + 1))
    assert f"picture: {run}/mixture.png\n" in finished.out

    again = commands.run("train", config)
    assert again.code == 0
    assert again.out == f"{run} is complete at step {NUM_STEPS}\n{finished.out}"
    assert again.err == ""
    assert shared_memory() == set()


def stop_after(
    step: int, number: signal.Signals, commands: Commands, config: Path, run: Path, *overrides: str
) -> Finished:
    """Sends a signal to `dga train` once it has recorded `step`; no process outlives it."""
    job = commands.start("train", config, *overrides)
    wait_for_step(job, run, step)
    job.send(number)
    ended = job.finish()
    assert commands.left_after(0) == []
    assert "Traceback" not in ended.err
    return ended


def kill_rank_1(
    step: int, commands: Commands, config: Path, run: Path, *overrides: str
) -> Finished:
    job = commands.start("train", config, *overrides)
    wait_for_step(job, run, step)
    commands.ranks(job)[1].kill()
    ended = job.finish(within_seconds=30)
    assert commands.left_after(0) == []
    return ended


def test_killing_dga_train_kills_its_ranks_and_their_loaders(
    commands: Commands, tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = job_config(
        tiny_data, run, run={"num_steps": 100_000}, mixture={"mixer": "fixed"},
        data={"num_workers": 1},
    )  # fmt: skip
    job = commands.start("train", config)
    wait_for_step(job, run, 2)
    assert len(commands.processes()) == 5
    job.send(signal.SIGKILL)
    assert job.finish().code == -signal.SIGKILL
    assert commands.left_after(SECONDS_TO_DIE) == []


def test_a_second_interrupt_kills_at_once(
    commands: Commands, tiny_data: Path, tmp_path: Path
) -> None:
    """The ranks are still importing, when they cannot answer the first one."""
    run = tmp_path / "run"
    job = commands.start("train", job_config(tiny_data, run))
    wait_until(lambda: len(psutil.Process(job.process.pid).children()) == 2)
    job.send(signal.SIGINT)
    wait_until(lambda: "stopping after this step" in job.err.read_text())
    job.send(signal.SIGINT)
    ended = job.finish(within_seconds=5)
    assert ended.code == 130
    assert commands.left_after(0) == []
    assert ended.err == (
        "\nstopping after this step, with a checkpoint; interrupt again to kill\n"
        f"\nkilled\nthe same command continues {run} from its last checkpoint\n"
    )
