"""One rank of a training job, from its first line to its exit code."""

from __future__ import annotations

import signal
from contextlib import ExitStack

import torch
import torch.distributed as dist

from launch.environment import RankEnvironment
from launch.exit_codes import OK, PAUSED
from shards.errors import InputError
from toolkit.config import RunConfig
from toolkit.distributed import process_group
from toolkit.inputs import load_inputs
from toolkit.processes import STOP_SIGNALS
from toolkit.run_folder import locked, prepare_run_folder
from toolkit.stopping import StopRequest
from toolkit.train import Outcome, train


def run_rank(config: RunConfig, place: RankEnvironment) -> int:
    """Trains as the rank that the environment names; returns the exit code.

    Raises:
        InputError: the devices, the data or the run folder cannot be used.
    """
    check_devices(config, place)
    stop = StopRequest()
    with ExitStack() as stack:
        if place.job_folder:
            # What stays when the listening ends: a signal that comes as late must not kill.
            for number in STOP_SIGNALS:
                signal.signal(number, lambda number, frame: None)
        stack.enter_context(stop.listening())
        # `dga train` starts its ranks with the signals blocked; what has come since comes in now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
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


def check_devices(config: RunConfig, place: RankEnvironment) -> None:
    """Raises InputError if this machine has CUDA devices, and fewer than ranks."""
    num_local_ranks = place.world_size if place.job_folder else place.local_rank + 1
    if torch.cuda.is_available() and num_local_ranks > torch.cuda.device_count():
        raise InputError(
            f"run.num_ranks = {config.run.num_ranks}: at least {num_local_ranks} ranks run on this "
            f"machine, which shows {torch.cuda.device_count()} CUDA devices"
        )
