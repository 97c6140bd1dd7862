"""The real commands as real processes, and a way to see that none of them stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import tomli_w
from tiny import tiny_tree

from toolkit.checkpoint_files import newest_whole, read_state

ROOT = Path(__file__).resolve().parents[1]
MARKER = "DGA_TEST_MARKER"
DGA = (sys.executable, "-m", "launch.cli")
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
PATIENCE_SECONDS = 120.0
"""Far more than anything here takes on a busy machine; only a hang uses it up."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(kw_only=True)
class Running:
    """A command that was started."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def finish(self, *, within_seconds: float = PATIENCE_SECONDS) -> Finished:
        code = self.process.wait(within_seconds)
        return Finished(code=code, out=self.out.read_text(), err=self.err.read_text())


@dataclass(kw_only=True)
class Commands:
    """Starts commands whose processes all carry one mark, however deep in the tree they are."""

    folder: Path
    scratch: Path
    """What the commands take for /tmp: some are killed before they can tidy up."""
    marker: str = field(default_factory=lambda: uuid.uuid4().hex)
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: object, command: tuple[str, ...] = DGA) -> Running:
        out, err = (self.folder / f"{len(self._started)}.{name}" for name in ("out", "err"))
        environment = os.environ | {
            MARKER: self.marker,
            "TMPDIR": str(self.scratch),
            "PYTHONUNBUFFERED": "1",
        }
        with out.open("wb") as out_file, err.open("wb") as err_file:
            process = subprocess.Popen(
                [*command, *map(str, arguments)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
            )
        self._started.append(process)
        return Running(process=process, out=out, err=err)

    def run(self, *arguments: object, command: tuple[str, ...] = DGA) -> Finished:
        return self.start(*arguments, command=command).finish()

    def end(self) -> None:
        """Kills whatever still runs."""
        for left in self.processes():
            left.kill()
        for process in self._started:
            process.wait()

    def processes(self) -> list[psutil.Process]:
        """The marked processes that run now."""
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get(MARKER) == self.marker
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                pass
        return found

    def ranks(self, running: Running) -> list[psutil.Process]:
        """The rank processes of a running `dga train`, by rank."""
        children = psutil.Process(running.process.pid).children()
        return sorted(children, key=lambda child: int(child.environ()["RANK"]))

    def left_after(self, seconds: float) -> list[str]:
        """The marked processes that still run, once none does or `seconds` have passed."""
        try:
            wait_until(lambda: not self.processes(), seconds=seconds)
        except TimeoutError:
            pass
        return [" ".join(process.cmdline()) for process in self.processes()]


def wait_until(condition: Callable[[], bool], *, seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {seconds} s")
        time.sleep(0.02)


def write_config(path: Path, tree: dict[str, Any]) -> Path:
    path.write_text(tomli_w.dumps(tree), encoding="utf-8")
    return path


def job_config(data: Path, folder: Path, /, **sections: dict[str, Any]) -> Path:
    """A config file beside the run folder `folder`: the smallest run on two ranks."""
    tree = tiny_tree(data, folder, **sections)
    tree["model"]["num_layers"] = 1
    return write_config(folder.with_suffix(".toml"), tree)


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind in a run folder, in order; none before there is a file."""
    path = folder / "events.jsonl"
    if not path.exists():
        return []
    *whole_lines, _ = path.read_bytes().split(b"\n")
    return [event for event in map(json.loads, whole_lines) if event["kind"] == kind]


def steps(folder: Path) -> list[int]:
    """The steps that a run recorded, in the order of its events."""
    return [event["step"] for event in events(folder, "step")]


def wait_for_step(running: Running, folder: Path, step: int) -> None:
    """Returns once the run has recorded `step`; fails if the command ends before."""

    def has_step() -> bool:
        assert running.process.poll() is None, running.err.read_text()
        return max(steps(folder), default=0) >= step

    wait_until(has_step)


def checkpoint_step(folder: Path) -> int | None:
    """The step of the newest whole checkpoint in a run folder."""
    newest = newest_whole(folder / "checkpoints")
    return read_state(newest).step if newest else None
