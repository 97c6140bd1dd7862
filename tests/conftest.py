"""Shared fixtures. One thread per process: forked ranks share two cores, sums keep one order."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import pytest
from hypothesis import settings
from tiny import write_tiny_shards

# The same examples every time, however busy the machine is.
settings.register_profile("seeded", deadline=None, derandomize=True)
settings.load_profile("seeded")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of three small domains and a target, made once."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_shards(folder)
    return folder
