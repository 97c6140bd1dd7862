"""Runs a function on several real ranks: forked processes that meet over gloo.

A fork costs a tenth of a second where a fresh interpreter costs seconds, because torch and
DeepSpeed are imported once, by the parent.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from toolkit.distributed import process_group

TIMEOUT_SECONDS = 240
SLOW_IMPORTS = (
    "deepspeed.runtime.bf16_optimizer",
    "deepspeed.runtime.zero.stage3",
    "deepspeed.runtime.zero.stage_1_and_2",
    "transformers.models.llama.modeling_llama",
)


def run_on_ranks(num_ranks: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """`function(*args)` on every rank of a fresh process group; the results by rank."""
    for module in SLOW_IMPORTS:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("fork")
        ranks = [
            context.Process(target=_rank, args=(rank, num_ranks, Path(folder), function, args))
            for rank in range(num_ranks)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(TIMEOUT_SECONDS)
        for rank in ranks:
            rank.kill()
            rank.join()
        outcomes = [
            pickle.loads(path.read_bytes()) if path.exists() else ("error", "no result")
            for path in (Path(folder, f"result-{i}") for i in range(num_ranks))
        ]
    errors = [f"rank {i}: {value}" for i, (kind, value) in enumerate(outcomes) if kind == "error"]
    assert not errors, "\n".join(errors)
    return [value for _, value in outcomes]


def _rank(
    rank: int, num_ranks: int, folder: Path, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num_ranks))
    try:
        with process_group(
            rank=rank,
            world_size=num_ranks,
            local_rank=rank,
            init_method=f"file://{folder / 'rendezvous'}",
        ):
            result = ("value", function(*args))
            dist.barrier()
    except BaseException:
        result = ("error", traceback.format_exc())
    partial = folder / f"partial-{rank}"
    partial.write_bytes(pickle.dumps(result))
    partial.rename(folder / f"result-{rank}")
    os._exit(0)
