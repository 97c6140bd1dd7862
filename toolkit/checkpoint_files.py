"""Checkpoint folders on disk: whole or absent.

A checkpoint is prepared under a temporary name. Publishing it adds the run state and a manifest of
every file's size and hash, makes everything durable, and renames the folder, last. A folder
`step-N` whose files match its manifest is a checkpoint; anything else is what a killed run left
behind.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

MANIFEST_NAME = "checkpoint.json"
PARTIAL_SUFFIX = ".partial"
STATE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What a run needs to go on, beside the engine's own state; independent of the world size."""

    step: int
    """Optimizer steps taken."""
    num_tokens: int
    """Tokens trained on."""
    loader: dict[str, Any]
    weight_log: dict[str, Any]
    probe: dict[str, Any]
    events_bytes: int
    """Length of the events file; what follows was written by steps that are taken again."""
    shards: dict[str, str]
    """Manifest fingerprint per domain, and of the target as "data.target"."""


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint under `folder` whose files are all as they were written."""
    return next((path for path in checkpoint_folders(folder) if not _damage(path)), None)


def read_state(checkpoint: Path) -> RunState:
    """The run state stored in a checkpoint folder."""
    record = json.loads((checkpoint / MANIFEST_NAME).read_text(encoding="utf-8"))
    if record["version"] != STATE_VERSION:
        raise ValueError(
            f"{checkpoint} is of version {record['version']}, expected {STATE_VERSION}"
        )
    return RunState(**record["state"])


def publish(partial: Path, final: Path, state: RunState) -> None:
    files = {}
    for path in sorted(p for p in partial.rglob("*") if p.is_file()):
        files[str(path.relative_to(partial))] = [path.stat().st_size, _hash_file(path)]
        _sync(path)
    record = {"version": STATE_VERSION, "state": vars(state), "files": files}
    manifest = partial / MANIFEST_NAME
    manifest.write_text(json.dumps(record) + "\n", encoding="utf-8")
    _sync(manifest)
    _sync(partial)
    if final.exists():
        shutil.rmtree(final)
    os.replace(partial, final)
    _sync(final.parent)


def checkpoint_folders(folder: Path) -> list[Path]:
    """Finished checkpoint folders, newest first."""
    if not folder.is_dir():
        return []
    names = [p for p in folder.glob("step-*") if not p.name.endswith(PARTIAL_SUFFIX)]
    return sorted(names, reverse=True)


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint folder, None if nothing is."""
    try:
        record = json.loads((checkpoint / MANIFEST_NAME).read_text(encoding="utf-8"))
        for name, (num_bytes, digest) in record["files"].items():
            path = checkpoint / name
            if path.stat().st_size != num_bytes or _hash_file(path) != digest:
                return f"{path} differs from what was written"
    except (OSError, ValueError, KeyError) as error:
        return f"{checkpoint}: {error}"
    return None


def _hash_file(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
