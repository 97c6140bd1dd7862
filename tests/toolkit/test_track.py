"""Events on disk, and the same numbers in wandb."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb
from tiny import DOMAINS, tiny_config

from toolkit.track import Tracker


def history_of(run: Path) -> dict[str, Any]:
    """The series that wandb itself reads back from an offline run, with their last values."""
    done = subprocess.run(
        [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", run],
        capture_output=True,
        check=True,
    )
    records = [json.loads(line) for line in done.stdout.splitlines()]
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    return {name: value for row in rows for name, value in row.items()}


def test_offline_wandb_holds_every_series(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tiny_config(tiny_data, tmp_path / "run", tracking={"wandb": "auto"})
    config.run.folder.mkdir()
    with Tracker(config, is_writer=True) as tracker:
        tracker.log("step", step=1, num_tokens=128, loss=3.5, tokens_per_second=10.0)
        tracker.log(
            "update", step=1, num_tokens=128, weights=dict.fromkeys(DOMAINS, 1 / 3), guard_rails=[]
        )
        tracker.log("evaluation", step=1, num_tokens=128, target_loss=3.25)
    wandb.teardown()  # or its service stays, and tests that count processes find it
    (run,) = (config.run.folder / "wandb").glob("offline-run-*")
    series = {k: v for k, v in history_of(run).items() if not k.startswith("_")}
    assert series == {
        "step": 1,
        "num_tokens": 128,
        "step/loss": 3.5,
        "step/tokens_per_second": 10.0,
        "evaluation/target_loss": 3.25,
        **{f"update/weights/{domain}": 1 / 3 for domain in DOMAINS},
    }


def test_events_are_cut_back_to_where_the_checkpoint_was(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_data, tmp_path)
    with Tracker(config, is_writer=True) as tracker:
        tracker.log("step", step=1, num_tokens=1, loss=1.0)
        position = tracker.position()
        tracker.log("step", step=2, num_tokens=2, loss=float("nan"))
    path = tmp_path / "events.jsonl"
    assert json.loads(path.read_text().splitlines()[1])["loss"] is None
    with path.open("a") as file:
        file.write('{"kind": "st')  # the run was killed in the middle of a line
    with Tracker(config, is_writer=True, events_bytes=position) as tracker:
        tracker.log("resume", step=1, num_tokens=1)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["kind"], row["step"]) for row in rows] == [("step", 1), ("resume", 1)]


def test_other_ranks_write_nothing(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_data, tmp_path / "run")
    with Tracker(config, is_writer=False) as tracker:
        tracker.log("step", step=1, num_tokens=1)
        assert tracker.position() == 0
    assert not config.run.folder.exists()


def test_a_failing_wandb_does_not_stop_the_run(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def log(self, series: object) -> None:
            raise ConnectionError("no route")

    config = tiny_config(tiny_data, tmp_path)
    with Tracker(config, is_writer=True) as tracker:
        tracker._wandb = Broken()
        for step in (1, 2):
            tracker.log("step", step=step, num_tokens=step, loss=1.0)
    assert capsys.readouterr().err == (
        "wandb failed and is off for the rest of this run: no route\n"
    )
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2
