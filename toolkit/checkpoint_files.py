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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from shards.errors import InputError

MANIFEST_NAME = "checkpoint.json"
PARTIAL_SUFFIX = ".partial"
STATE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What a run needs to go on, beside the engine's own state; independent of the world size."""

    step: int
    """Optimizer steps taken."""
    loader: dict[str, Any]
    weight_log: dict[str, Any]
    probe: dict[str, Any]
    events_bytes: int
    """Length of the events file; what follows was written by steps that are taken again."""
    shards: dict[str, str]
    """Manifest fingerprint per domain, and of the target as "data.target"."""


def newest_whole(
    folder: Path, *, report: Callable[[str], None] = lambda damage: None
) -> Path | None:
    """The newest checkpoint under `folder` whose files are all as they were written.

    Newer ones that are damaged are passed over; `report` is told what is wrong with each.

    Raises:
        InputError: there are checkpoints, and all are damaged: starting over must be asked for.
    """
    checkpoints = checkpoint_folders(folder)
    for checkpoint in checkpoints:
        damage = _damage(checkpoint)
        if damage is None:
            return checkpoint
        report(f"checkpoint {checkpoint} is passed over: {damage}")
    if checkpoints:
        raise InputError(f"no checkpoint in {folder} is whole; remove the folder to start over")
    return None


def read_state(checkpoint: Path) -> RunState:
    """The run state stored in a checkpoint folder.

    Raises:
        ValueError: the manifest is damaged or of another version.
    """
    return RunState(**_read_manifest(checkpoint)["state"])


def publish(partial: Path, final: Path, state: RunState) -> None:
    """Makes the files in `partial` the checkpoint `final`, durably, in one rename."""
    files = {}
    for path in sorted(p for p in partial.rglob("*") if p.is_file()):
        files[str(path.relative_to(partial))] = [path.stat().st_size, _hash_file(path)]
        _sync(path)
    content = json.dumps({"version": STATE_VERSION, "state": vars(state), "files": files})
    manifest = partial / MANIFEST_NAME
    # The second line lets the manifest vouch for itself too.
    manifest.write_text(f"{content}\n{_hash(content)}\n", encoding="utf-8")
    _sync(manifest)
    for path in (partial, *(p for p in partial.rglob("*") if p.is_dir())):
        _sync(path)
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


def _read_manifest(checkpoint: Path) -> dict[str, Any]:
    text = (checkpoint / MANIFEST_NAME).read_text(encoding="utf-8")
    content, _, digest = text.partition("\n")
    if digest != f"{_hash(content)}\n":
        raise ValueError(f"{MANIFEST_NAME} is damaged")
    manifest: dict[str, Any] = json.loads(content)
    if manifest["version"] != STATE_VERSION:
        raise ValueError(f"version {manifest['version']}, expected {STATE_VERSION}")
    return manifest


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint folder, None if nothing is."""
    try:
        for name, (num_bytes, digest) in _read_manifest(checkpoint)["files"].items():
            path = checkpoint / name
            if path.stat().st_size != num_bytes or _hash_file(path) != digest:
                return f"{name} is not as it was written"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _hash(text: str) -> str:
    return xxhash.xxh3_64_hexdigest(text.encode())


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
