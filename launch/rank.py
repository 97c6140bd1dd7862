"""One rank of a training job, from its first line to its exit code."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.distributed as dist

from launch.environment import RankEnvironment
from launch.exit_codes import OK, PAUSED
from shards.errors import InputError
from toolkit.config import RunConfig
from toolkit.distributed import process_group
from toolkit.inputs import load_inputs
from toolkit.run_folder import locked, prepare_run_folder
from toolkit.stopping import StopRequest
from toolkit.train import Outcome, train


def run_rank(config: RunConfig, place: RankEnvironment) -> int:
    """Trains as the rank that the environment names; returns the exit code.

    Raises:
        InputError: config, data or run folder cannot be used, or this job is not the config's.
    """
    check_place(config, place)
    stop = StopRequest()
    with ExitStack() as stack:
        stack.enter_context(stop.listening())
        stack.enter_context(_unblocked_signals())
        inputs = load_inputs(config)
        if place.rank == 0 and not place.job_folder:  # `dga train` does this before it starts ranks
            stack.enter_context(locked(config.run.folder))
            prepare_run_folder(config, inputs)
        stack.enter_context(
            process_group(
                rank=place.rank,
                world_size=place.world_size,
                local_rank=place.local_rank,
                init_method=place.init_method,
            )
        )
        try:
            dist.barrier()
            outcome = train(config, inputs, stop=stop)
        except BaseException:
            # Before the process group goes, which makes the other ranks fail too.
            place.report_failure()
            raise
    return OK if outcome is Outcome.COMPLETE else PAUSED


def check_place(config: RunConfig, place: RankEnvironment) -> None:
    """Raises InputError unless the job has the config's ranks, each with a device of its own."""
    if place.world_size != config.run.num_ranks:
        raise InputError(
            f"the launcher started {place.world_size} ranks, run.num_ranks is "
            f"{config.run.num_ranks}; make them equal"
        )
    num_local_ranks = place.world_size if place.job_folder else place.local_rank + 1
    if torch.cuda.is_available() and num_local_ranks > torch.cuda.device_count():
        raise InputError(
            f"run.num_ranks = {config.run.num_ranks}: at least {num_local_ranks} ranks run on this "
            f"machine, which shows {torch.cuda.device_count()} CUDA devices"
        )


@contextmanager
def _unblocked_signals() -> Iterator[None]:
    """Lets in the signals that `dga train` blocked when it started this rank."""
    previous = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
