"""`dga demo` as a newcomer runs it, with fewer steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from toolkit.history import load_history


def run_demo(folder: Path) -> subprocess.CompletedProcess[str]:
    overrides = ["run.num_steps=44", "optimizer.warmup_steps=4", "evaluation.num_rows=32"]
    return subprocess.run(
        [sys.executable, "-m", "launch.cli", "demo", "--folder", str(folder), *overrides],
        capture_output=True,
        text=True,
        check=False,
    )


def test_demo_trains_compares_and_can_be_run_again(tmp_path: Path) -> None:
    first = run_demo(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "target loss after" in first.stdout
    assert f"picture: {tmp_path / 'mixture.png'}" in first.stdout
    assert (tmp_path / "mixture.png").stat().st_size > 20_000
    history = load_history(tmp_path / "dga")
    assert len(history.start["domains"]) >= 4 and len(history.updates) == 2
    assert history.evaluations[-1]["target_loss"] < history.evaluations[0]["target_loss"] - 0.5
    assert not load_history(tmp_path / "fixed").updates

    again = run_demo(tmp_path)
    assert again.returncode == 0, again.stderr
    assert first.stdout in again.stdout, "nothing was trained again, and the same is said"
