"""Joining the other ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


@contextmanager
def process_group(
    *, rank: int, world_size: int, local_rank: int, init_method: str
) -> Iterator[None]:
    """The default process group while the block lasts: NCCL with gloo beside it, or gloo alone."""
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group(
        backend="cpu:gloo,cuda:nccl" if has_cuda else "gloo",
        init_method=init_method,
        rank=rank,
        world_size=world_size,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
