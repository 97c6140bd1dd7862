"""One rank of a training job, from its first line to its exit code."""

from __future__ import annotations

from contextlib import ExitStack

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
    """Trains as the rank that the environment names; returns the exit code."""
    if place.world_size != config.run.num_ranks:
        raise InputError(
            f"the launcher started {place.world_size} ranks, run.num_ranks is "
            f"{config.run.num_ranks}; make them equal"
        )
    stop = StopRequest()
    with ExitStack() as stack:
        stack.enter_context(stop.listening())
        inputs = load_inputs(config)
        if place.rank == 0:
            prepare_run_folder(config, inputs)
            stack.enter_context(locked(config.run.folder))
        stack.enter_context(process_group(**vars(place)))
        dist.barrier()
        outcome = train(config, inputs, stop=stop)
    return OK if outcome is Outcome.COMPLETE else PAUSED
