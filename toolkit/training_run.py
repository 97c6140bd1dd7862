"""A run in progress on one rank: what it holds, and the things that happen to it.

`toolkit.train` decides when; here is what each of them does.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from shards.progress import progress_bar
from shards.read import RowReader
from toolkit.build import build_engine, build_loader, build_probes, build_weight_log
from toolkit.checkpoint import load_checkpoint, save_checkpoint
from toolkit.checkpoint_files import RunState
from toolkit.config import RunConfig
from toolkit.engine import Engine
from toolkit.evaluate import evaluate
from toolkit.inputs import RunInputs
from toolkit.integers import derive_key
from toolkit.loader import StepLoader
from toolkit.probe import ProbeSource
from toolkit.run_folder import CHECKPOINTS_NAME, check_same_shards
from toolkit.steering import steer
from toolkit.track import Tracker
from toolkit.weights import WeightLog


def is_due(step: int, every: int) -> bool:
    """Whether something done every `every` steps is due after `step` steps."""
    return step % every == 0


@dataclass(kw_only=True)
class TrainingRun:
    """All that one rank holds while it trains, and the things that happen to it."""

    config: RunConfig
    inputs: RunInputs
    engine: Engine
    weight_log: WeightLog
    loader: StepLoader
    probes: ProbeSource
    validation: RowReader
    tracker: Tracker
    bar: Any
    step: int = 0
    """Optimizer steps taken."""
    _loss: torch.Tensor | None = None
    _last_record: tuple[int, float, float] = (0, 0.0, 0.0)
    _data_seconds: float = 0.0

    @classmethod
    def build(cls, config: RunConfig, inputs: RunInputs, *, stack: ExitStack) -> TrainingRun:
        """Everything in its place, as the newest whole checkpoint has it if there is one."""
        engine = build_engine(config, inputs)
        stack.callback(engine.close)
        state = load_checkpoint(engine, folder=config.run.folder / CHECKPOINTS_NAME)
        weight_log = build_weight_log(config, state)
        is_writer = engine.dp_rank == 0
        events_bytes = state.events_bytes if state else 0
        run = cls(
            config=config,
            inputs=inputs,
            engine=engine,
            weight_log=weight_log,
            loader=build_loader(config, inputs, engine=engine, weight_log=weight_log),
            probes=build_probes(config, inputs, engine=engine),
            validation=RowReader(
                [*inputs.domain_splits("validation"), inputs.target_split("validation")]
            ),
            tracker=stack.enter_context(
                Tracker(config, is_writer=is_writer, events_bytes=events_bytes)
            ),
            bar=stack.enter_context(
                progress_bar(
                    label="train",
                    total=config.run.num_steps,
                    unit="steps",
                    initial=state.step if state else 0,
                    is_shown=is_writer,
                )
            ),
        )
        if state:
            run.resume(state)
        else:
            run.begin()
        return run

    @property
    def num_tokens(self) -> int:
        """Tokens trained on by all ranks."""
        return self.step * self.num_tokens_per_step

    @property
    def num_tokens_per_step(self) -> int:
        """Tokens of one global batch."""
        return self.config.batch.global_batch_size * self.inputs.row_length

    @property
    def is_update_due(self) -> bool:
        """Whether the mixture is updated before the next step; not if it could not take effect."""
        return (
            self.config.mixture.mixer != "fixed"
            and self.step > 0
            and is_due(self.step, self.config.mixture.every_steps)
            and self.step + self.config.data.weight_lag < self.config.run.num_steps
        )

    def begin(self) -> None:
        """Records what is about to be run, and the losses of the untrained model."""
        self._last_record = (0, time.perf_counter(), 0.0)
        self.log(
            "start",
            domains=list(self.config.domains),
            weights=dict(zip(self.config.domains, self.config.start_weights, strict=True)),
            target=self.inputs.target.domain,
            global_batch_size=self.config.batch.global_batch_size,
            row_length=self.inputs.row_length,
            num_steps=self.config.run.num_steps,
            mixer=self.config.mixture.mixer,
            num_parameters=self.engine.num_parameters,
            num_ranks=self.engine.dp_world_size,
        )
        self.evaluate()

    def resume(self, state: RunState) -> None:
        """Goes on from `state`; the engine and the weight log are there already.

        Raises:
            InputError: the shards are not those that the run has trained on.
        """
        check_same_shards(state, self.inputs.fingerprints(self.config))
        self.step = state.step
        self.loader.load_state_dict(state.loader)
        self.probes.load_state_dict(state.probe)
        self._last_record = (self.step, time.perf_counter(), 0.0)
        self.log("resume")

    def update_mixture(self) -> None:
        """Measures the alignments now and appoints new weights, `weight_lag` steps from here."""
        first_step = self.step + self.config.data.weight_lag
        effective_from = first_step * self.config.batch.global_batch_size
        assert effective_from >= self.loader.num_drawn_samples, "rows were drawn too far ahead"
        self.weight_log.forget(self.step * self.config.batch.global_batch_size)
        event = steer(
            engine=self.engine,
            probes=self.probes,
            weight_log=self.weight_log,
            effective_from=effective_from,
            domains=list(self.config.domains),
            prior=self.config.start_weights,
            mixture=self.config.mixture,
        )
        self.log("update", **event)

    def train_step(self) -> None:
        """One optimizer step on the next global batch."""
        started = time.perf_counter()
        micro_batches = self.loader.next_step()
        self._data_seconds += time.perf_counter() - started
        # Dropout is a function of (seed, step, rank), so a generator's state need not be kept.
        seed = derive_key(self.config.run.seed, "step", self.step, self.engine.dp_rank)
        torch.manual_seed(seed >> 1)
        self._loss = self.engine.step(micro_batches)
        self.step += 1
        self.bar.update()

    def record_step(self) -> None:
        """Logs the loss of the last step over all ranks, and rates since the last record."""
        assert self._loss is not None, "no step was taken"
        loss = self._loss / self.engine.dp_world_size
        dist.all_reduce(loss)
        last_step, last_time, last_data_seconds = self._last_record
        now = time.perf_counter()
        num_tokens = (self.step - last_step) * self.num_tokens_per_step
        self.log(
            "step",
            loss=loss.item(),
            learning_rate=self.engine.learning_rate,
            tokens_per_second=round(num_tokens / (now - last_time), 1),
            data_wait_ratio=round((self._data_seconds - last_data_seconds) / (now - last_time), 6),
            rows=dict(zip(self.config.domains, self.loader.num_rows_taken, strict=True)),
        )
        self._last_record = (self.step, now, self._data_seconds)
        weights = self.weight_log.latest.sampled
        top = sorted(zip(weights, self.config.domains, strict=True), reverse=True)[:2]
        shown = " ".join(f"{name} {weight:.2f}" for weight, name in top)
        self.bar.set_postfix_str(f"loss {loss.item():.3f}, {shown}", refresh=False)

    def evaluate(self) -> None:
        """Logs the validation losses of all domains and of the target."""
        result = evaluate(
            self.engine,
            reader=self.validation,
            num_rows=self.config.evaluation.num_rows,
            micro_batch_size=self.config.batch.micro_batch_size,
        )
        self.log(
            "evaluation",
            target_loss=result.target_loss,
            domain_losses=dict(zip(self.config.domains, result.domain_losses, strict=True)),
        )

    def save(self) -> None:
        """Writes a checkpoint of this moment."""
        num_samples = self.step * self.config.batch.global_batch_size
        state = RunState(
            step=self.step,
            loader=self.loader.state_dict(),
            weight_log=self.weight_log.tail(num_samples).state_dict(),
            probe=self.probes.state_dict(),
            events_bytes=self.tracker.position(),
            shards=self.inputs.fingerprints(self.config),
        )
        save_checkpoint(
            self.engine,
            folder=self.config.run.folder / CHECKPOINTS_NAME,
            state=state,
            keep_last=self.config.checkpoint.keep_last,
        )

    def log(self, kind: str, **fields: Any) -> None:
        self.tracker.log(kind, step=self.step, num_tokens=self.num_tokens, **fields)
