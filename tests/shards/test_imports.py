"""What the package loads: reading rows needs neither torch nor streaming, nor does any module."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import shards

REPOSITORY = Path(__file__).parents[2]
MODULES = sorted(f"shards.{path.stem}" for path in Path(shards.__file__).parent.glob("[a-z]*.py"))
HEAVY = ["torch", "streaming", "deepspeed", "transformers", "wandb", "matplotlib"]


def heavy_after(statement: str) -> list[str]:
    """The heavy packages that a fresh interpreter has loaded after `statement`."""
    report = f"import json, sys; print(json.dumps([n for n in {HEAVY} if n in sys.modules]))"
    command = [sys.executable, "-c", f"{statement}\n{report}"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded: list[str] = json.loads(run.stdout)
    return loaded


@pytest.mark.parametrize(
    "statement", ["import shards.read, shards.manifest", f"import {', '.join(MODULES)}"]
)
def test_importing_shards_loads_nothing_heavy(statement: str) -> None:
    assert heavy_after(statement) == []


def test_the_check_would_notice() -> None:
    assert heavy_after("import types, sys; sys.modules['torch'] = types") == ["torch"]
