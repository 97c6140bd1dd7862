"""The training loop, on one rank.

Build; resume; then per step: update the mixture if it is due, train on the next global batch, and
record, evaluate, checkpoint if they are due.
"""

from __future__ import annotations

from contextlib import ExitStack
from enum import Enum

from toolkit.config import RunConfig
from toolkit.inputs import RunInputs
from toolkit.stopping import StopRequest, StopVote
from toolkit.training_run import TrainingRun, is_due


class Outcome(Enum):
    """How `train` ended."""

    COMPLETE = "complete"
    PAUSED = "paused"
    """A signal asked for it; a checkpoint of the last step was written."""


def train(config: RunConfig, inputs: RunInputs, *, stop: StopRequest) -> Outcome:
    """Trains until `run.num_steps`, continuing from the run folder's newest whole checkpoint.

    Collective over the default process group; every rank calls it with the same config.
    """
    with ExitStack() as stack:
        run = TrainingRun.build(config, inputs, stack=stack)
        vote = StopVote(stop)
        while run.step < config.run.num_steps:
            if run.is_update_due:
                run.update_mixture()
            vote.open()
            run.train_step()
            must_stop = vote.close()

            is_last = run.step == config.run.num_steps
            if is_last or is_due(run.step, config.tracking.every_steps):
                run.record_step()
            if is_last or is_due(run.step, config.evaluation.every_steps):
                run.evaluate()
            if is_last or must_stop or is_due(run.step, config.checkpoint.every_steps):
                run.save()
            if must_stop and not is_last:
                return Outcome.PAUSED
        return Outcome.COMPLETE
