"""Ranks that another launcher starts train exactly as those that `dga train` starts."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

from processes import Commands, events, job_config

NUM_STEPS = 8
BIN = Path(sys.executable).parent


def test_every_launcher_gives_the_same_run(
    commands: Commands, tiny_data: Path, tmp_path: Path
) -> None:
    port = free_port()
    launchers = {
        "dga": (sys.executable, "-m", "launch.cli"),
        "torchrun": (
            *(str(BIN / "torchrun"), "--nproc-per-node", "2", "--master-port", port),
            *("-m", "launch.cli"),
        ),
        "deepspeed": (
            *(str(BIN / "deepspeed"), "--num_accelerators", "2", "--no_local_rank"),
            *("--master_port", port, "--module", "launch.cli"),
        ),
    }
    recorded: dict[str, list[dict[str, Any]]] = {}
    for name, command in launchers.items():
        run = tmp_path / name
        config = job_config(tiny_data, run, run={"num_steps": NUM_STEPS})
        ended = commands.run("train", config, command=command)
        assert ended.code == 0, ended.err
        assert commands.left_after(0) == []
        recorded[name] = [
            facts(event) for kind in ("step", "update", "evaluation") for event in events(run, kind)
        ]
    assert len([row for row in recorded["dga"] if row["kind"] == "step"]) == NUM_STEPS
    assert len([row for row in recorded["dga"] if row["kind"] == "update"]) == 1
    assert recorded["torchrun"] == recorded["dga"]
    assert recorded["deepspeed"] == recorded["dga"]


def facts(event: dict[str, Any]) -> dict[str, Any]:
    """An event without what the clock wrote into it."""
    timings = ("tokens_per_second", "data_wait_ratio", "cost_ms")
    return {key: value for key, value in event.items() if key not in timings}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
