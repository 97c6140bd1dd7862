"""Saving and loading a run on all ranks together."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch.distributed as dist

from toolkit.checkpoint_files import (
    PARTIAL_SUFFIX,
    RunState,
    checkpoint_folders,
    newest_whole,
    publish,
    read_state,
)
from toolkit.engine import Engine

ENGINE_TAG = "engine"


def save_checkpoint(engine: Engine, *, folder: Path, state: RunState, keep_last: int) -> Path:
    """Writes the checkpoint of `state.step` under `folder` and drops old ones; collective."""
    final = folder / f"step-{state.step:08d}"
    partial = final.with_name(final.name + PARTIAL_SUFFIX)
    if engine.dp_rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"*{PARTIAL_SUFFIX}"):
            shutil.rmtree(path)
        partial.mkdir()
    dist.barrier()
    engine.save(partial, tag=ENGINE_TAG)
    dist.barrier()
    if engine.dp_rank == 0:
        publish(partial, final, state)
        folders = checkpoint_folders(folder)
        # Newer ones were damaged, or this run would have continued from them: that future is over.
        newest = folders.index(final)
        for unwanted in folders[:newest] + folders[newest + keep_last :]:
            shutil.rmtree(unwanted)
    dist.barrier()
    return final


def load_checkpoint(engine: Engine, *, folder: Path) -> RunState | None:
    """Continues from the newest whole checkpoint under `folder`; None where there is none.

    Collective: rank 0 checks sizes and hashes and tells the others which one to load.
    """
    chosen: list[str | None] = [None]
    if engine.dp_rank == 0:
        newest = newest_whole(folder, report=lambda damage: print(damage, file=sys.stderr))
        chosen = [str(newest) if newest else None]
    dist.broadcast_object_list(chosen, src=0)
    if chosen[0] is None:
        return None
    path = Path(chosen[0])
    engine.load(path, tag=ENGINE_TAG)
    return read_state(path)
