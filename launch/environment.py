"""How a process learns that it is one rank of a job, and how it says that it failed.

deepspeed, torchrun and their like describe the job in RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT. `dga train` on one machine names a folder in DGA_JOB_FOLDER instead of an address: the
ranks meet over a file in it, so they need no port, and the first one to fail leaves its number
there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shards.errors import InputError

JOB_FOLDER = "DGA_JOB_FOLDER"
FAILURE_NAME = "failed"


@dataclass(frozen=True, kw_only=True)
class RankEnvironment:
    """This process's place in its job."""

    rank: int
    world_size: int
    local_rank: int
    job_folder: Path | None
    """Folder shared by the ranks that `dga train` started; None under another launcher."""

    @property
    def init_method(self) -> str:
        """Where the ranks meet, as torch.distributed takes it."""
        return f"file://{self.job_folder / 'rendezvous'}" if self.job_folder else "env://"

    def report_failure(self) -> None:
        """Tells `dga train` that this rank failed; only the first report of a job counts."""
        if self.job_folder:
            # There already: another rank failed first. Gone: nobody is left to tell.
            with suppress(FileExistsError, FileNotFoundError):
                with (self.job_folder / FAILURE_NAME).open("x") as file:
                    file.write(str(self.rank))


def rank_environment() -> RankEnvironment | None:
    """What a launcher says about this process; None if no launcher started it.

    Raises:
        InputError: the description is incomplete or makes no sense.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    job_folder = os.environ.get(JOB_FOLDER)
    needed = ["LOCAL_RANK"] if job_folder else ["LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"]
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise InputError(
            f"RANK and WORLD_SIZE are set, {' and '.join(missing)} not; a launcher sets them all, "
            "and without RANK `dga train` starts the ranks itself"
        )
    rank, world_size, local_rank = (
        _number(os.environ, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    )
    if rank >= world_size:
        raise InputError(f"RANK = {rank}: must be less than WORLD_SIZE = {world_size}")
    return RankEnvironment(
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        job_folder=Path(job_folder) if job_folder else None,
    )


def rank_label(environment: Mapping[str, str]) -> str:
    """`rank 3: ` in a process that a launcher started among several, to begin a message with."""
    is_one_of_many = environment.get("WORLD_SIZE", "1") != "1" and "RANK" in environment
    return f"rank {environment['RANK']}: " if is_one_of_many else ""


def variables(*, rank: int, num_ranks: int, job_folder: Path) -> dict[str, str]:
    """The variables that describe a job on this machine to its rank `rank`."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        JOB_FOLDER: str(job_folder),
    }


def first_failure(job_folder: Path) -> int | None:
    """The rank whose `report_failure` came first; None if no rank reported one."""
    try:
        return int((job_folder / FAILURE_NAME).read_text())
    except (FileNotFoundError, ValueError):  # a rank that dies between open and write leaves ""
        return None


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not text.isdecimal():
        raise InputError(f"{name} = {text!r} in the environment: must be a whole number")
    return int(text)
