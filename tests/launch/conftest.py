"""Fixtures of the tests that start processes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import LAUNCHER_VARIABLES, Commands


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that started the tests themselves must not be that of what they start."""
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    # Not in tmp_path: the name of a socket, as loader processes open them, must be short.
    with tempfile.TemporaryDirectory() as scratch:
        started = Commands(folder=tmp_path, scratch=Path(scratch))
        yield started
        started.end()


@pytest.fixture
def shared_memory() -> Callable[[], set[str]]:
    """What appeared in /dev/shm since the test began and is still there after a few seconds."""
    before = set(os.listdir("/dev/shm"))

    def new() -> set[str]:
        # Other tests on this machine may hold some for a moment.
        deadline = time.monotonic() + 10
        while (found := set(os.listdir("/dev/shm")) - before) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    return new
