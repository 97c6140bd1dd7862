"""A run that was stopped and continued is the run that was not stopped, bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from ranks import run_on_ranks
from tiny import tiny_config

from shards.errors import InputError
from toolkit.checkpoint_files import newest_whole, read_state
from toolkit.config import RunConfig
from toolkit.inputs import load_inputs
from toolkit.run_folder import prepare_run_folder
from toolkit.stopping import StopRequest
from toolkit.train import Outcome, train

NUM_STEPS = 12
FIXED = {"mixer": "fixed"}
TIMINGS = ("cost_ms", "tokens_per_second", "data_wait_ratio")


def events_of(folder: Path) -> list[dict[str, Any]]:
    """The run's events without wall-clock figures and without resumes."""
    rows = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if key not in TIMINGS}
        for row in rows
        if row["kind"] != "resume"
    ]


def train_whole_and_resumed(config: RunConfig, folder: Path) -> None:
    """One run with a checkpoint after every step, then one continuation from each of them."""
    inputs = load_inputs(config)
    assert train(config, inputs, stop=StopRequest()) is Outcome.COMPLETE
    for step in range(1, NUM_STEPS):
        resumed = config.model_copy(
            update={"run": config.run.model_copy(update={"folder": folder / str(step)})}
        )
        if dist.get_rank() == 0:
            shutil.copytree(config.run.folder, resumed.run.folder)
            for later in range(step + 1, NUM_STEPS + 1):
                shutil.rmtree(resumed.run.folder / "checkpoints" / f"step-{later:08d}")
        dist.barrier()
        assert train(resumed, inputs, stop=StopRequest()) is Outcome.COMPLETE


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_resume_at_every_step(tiny_data: Path, tmp_path: Path, zero_stage: int) -> None:
    config = tiny_config(
        tiny_data,
        tmp_path / "whole",
        model={"attention_dropout": 0.1},
        engine={"zero_stage": zero_stage},
        evaluation={"every_steps": 4},
        checkpoint={"every_steps": 1, "keep_last": 100},
    )
    config.run.folder.mkdir()
    run_on_ranks(2, train_whole_and_resumed, config, tmp_path)
    expected = events_of(config.run.folder)
    assert [row["step"] for row in expected if row["kind"] == "step"] == list(range(1, 13))
    assert sum(row["kind"] == "update" for row in expected) == 3
    for step in range(1, NUM_STEPS):
        assert events_of(tmp_path / str(step)) == expected, f"resumed at step {step}"


def pause_after_first_step(config: RunConfig) -> str:
    """Rank 1 alone is asked to stop; all ranks must leave after the same step."""
    stop = StopRequest()
    stop.is_requested = dist.get_rank() == 1
    return train(config, load_inputs(config), stop=stop).value


def test_one_asked_rank_pauses_all(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_data, tmp_path / "run")
    config.run.folder.mkdir()
    assert run_on_ranks(2, pause_after_first_step, config) == ["paused", "paused"]
    checkpoint = newest_whole(config.run.folder / "checkpoints")
    assert checkpoint is not None and read_state(checkpoint).step == 1


def test_damaged_checkpoint_is_passed_over(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(
        tiny_data,
        tmp_path / "run",
        run={"num_steps": 3},
        mixture=FIXED,
        checkpoint={"every_steps": 1, "keep_last": 2},
    )
    config.run.folder.mkdir()
    run_on_ranks(2, pause_or_finish, config)
    folder = config.run.folder / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000003"]
    expected = events_of(config.run.folder)
    newest = folder / "step-00000003"
    for victim in sorted(p for p in newest.rglob("*") if p.is_file()):
        whole = victim.read_bytes()
        for damaged in (whole[:-1], whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:]):
            victim.write_bytes(damaged)
            assert newest_whole(folder) == folder / "step-00000002", victim.name
        victim.write_bytes(whole)
    victim.write_bytes(whole[:-1])
    run_on_ranks(2, pause_or_finish, config)
    assert events_of(config.run.folder) == expected


def test_damaged_checkpoints_do_not_crowd_out_whole_ones(tiny_data: Path, tmp_path: Path) -> None:
    """A run that fell back takes the place of the future it replaces."""
    config = tiny_config(
        tiny_data,
        tmp_path / "run",
        run={"num_steps": 6},
        checkpoint={"every_steps": 2, "keep_last": 2},
    )
    config.run.folder.mkdir()
    run_on_ranks(2, pause_or_finish, config)
    folder = config.run.folder / "checkpoints"
    victim = folder / "step-00000006" / "checkpoint.json"
    victim.write_text(victim.read_text()[:-9])
    run_on_ranks(2, pause_after_first_step, config)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000004", "step-00000005"]
    newest = newest_whole(folder)
    assert newest is not None and newest.name == "step-00000005"


def test_a_run_without_any_whole_checkpoint_does_not_start_over(
    tiny_data: Path, tmp_path: Path
) -> None:
    config = tiny_config(tiny_data, tmp_path / "run", run={"num_steps": 3}, mixture=FIXED)
    config.run.folder.mkdir()
    run_on_ranks(2, pause_or_finish, config)
    inputs = load_inputs(config)
    prepare_run_folder(config, inputs)
    (config.run.folder / "events.jsonl").write_text("")
    with pytest.raises(InputError, match=r"events.jsonl is shorter than at step 3; restore it"):
        prepare_run_folder(config, inputs)
    (config.run.folder / "checkpoints/step-00000003/checkpoint.json").unlink()
    with pytest.raises(InputError, match="is whole; remove the folder to start over"):
        prepare_run_folder(config, inputs)


def pause_or_finish(config: RunConfig) -> None:
    assert train(config, load_inputs(config), stop=StopRequest()) is Outcome.COMPLETE
