"""How a process learns that it is one rank of a job.

deepspeed, torchrun and their like describe the job in RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT. `dga train` on one machine names a file in DGA_RENDEZVOUS instead of an address, so it needs
no port.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

RENDEZVOUS = "DGA_RENDEZVOUS"


@dataclass(frozen=True, kw_only=True)
class RankEnvironment:
    """This process's place in its job."""

    rank: int
    world_size: int
    local_rank: int
    init_method: str
    """Where the ranks meet, as torch.distributed takes it."""


def rank_environment() -> RankEnvironment | None:
    """What a launcher says about this process; None if no launcher started it."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    file = os.environ.get(RENDEZVOUS)
    return RankEnvironment(
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        init_method=f"file://{file}" if file else "env://",
    )


def variables(*, rank: int, num_ranks: int, rendezvous: Path) -> dict[str, str]:
    """The variables that describe a job on this machine to its rank `rank`."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        RENDEZVOUS: str(rendezvous),
    }
