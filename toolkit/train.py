"""The training loop, on one rank.

Build; resume; then per step: update the mixture if it is due, train on the next global batch, and
record, evaluate, checkpoint if they are due.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
import torch.distributed as dist

from shards.progress import progress_bar
from shards.read import RowReader
from toolkit.checkpoint import load_checkpoint, save_checkpoint
from toolkit.checkpoint_files import RunState
from toolkit.config import RunConfig
from toolkit.deepspeed_config import deepspeed_config
from toolkit.engine import Engine
from toolkit.evaluate import evaluate
from toolkit.inputs import TARGET, RunInputs
from toolkit.integers import derive_key
from toolkit.loader import StepLoader
from toolkit.model import build_model
from toolkit.order import Order, build_domain_rows
from toolkit.probe import ProbeSource
from toolkit.run_folder import CHECKPOINTS_NAME, check_same_shards
from toolkit.steering import steer
from toolkit.stopping import StopRequest, StopVote
from toolkit.track import Tracker
from toolkit.weights import MixtureWeights, WeightLog


class Outcome(Enum):
    """How `train` ended."""

    COMPLETE = "complete"
    PAUSED = "paused"
    """A signal asked for it; a checkpoint of the last step was written."""


def is_due(step: int, every: int) -> bool:
    """Whether something done every `every` steps is due after `step` steps."""
    return step % every == 0


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
        """Everything at its place, the newest checkpoint loaded, the first evaluation done."""
        engine = build_engine(config, inputs)
        stack.callback(engine.close)
        weights = config.start_weights
        weight_log = WeightLog([MixtureWeights(effective_from=0, sampled=weights, raw=weights)])
        probes = build_probes(config, inputs, engine=engine)
        state = load_checkpoint(engine, folder=config.run.folder / CHECKPOINTS_NAME)
        if state:
            check_same_shards(state, inputs.fingerprints(config))
            weight_log = WeightLog.from_state_dict(state.weight_log)
            probes.load_state_dict(state.probe)
        loader = build_loader(config, inputs, engine=engine, weight_log=weight_log)
        if state:
            loader.load_state_dict(state.loader)
        is_first_rank = engine.dp_rank == 0
        tracker = stack.enter_context(
            Tracker(
                config, is_writer=is_first_rank, events_bytes=state.events_bytes if state else 0
            )
        )
        step = state.step if state else 0
        bar = progress_bar(
            label="train", total=config.run.num_steps, unit="steps", initial=step,
            is_shown=is_first_rank,
        )  # fmt: skip
        run = cls(
            config=config,
            inputs=inputs,
            engine=engine,
            weight_log=weight_log,
            loader=loader,
            probes=probes,
            validation=RowReader(
                [*inputs.domain_splits("validation"), inputs.target_split("validation")]
            ),
            tracker=tracker,
            bar=stack.enter_context(bar),
            step=step,
        )
        run.begin(is_resumed=state is not None)
        return run

    @property
    def num_tokens(self) -> int:
        """Tokens trained on by all ranks."""
        return self.step * self.config.batch.global_batch_size * self.inputs.row_length

    @property
    def is_update_due(self) -> bool:
        """Whether the mixture is updated before the next step; not if it could not take effect."""
        return (
            self.config.mixture.mixer != "fixed"
            and self.step > 0
            and is_due(self.step, self.config.mixture.every_steps)
            and self.step + self.config.data.weight_lag < self.config.run.num_steps
        )

    def begin(self, *, is_resumed: bool) -> None:
        """Records the start of the run, or that it goes on."""
        self._last_record = (self.step, time.perf_counter(), 0.0)
        if is_resumed:
            self.log("resume")
            return
        self.log(
            "start",
            domains=list(self.config.domains),
            weights=dict(zip(self.config.domains, self.config.start_weights, strict=True)),
            target=self.inputs.target.domain,
            global_batch_size=self.config.batch.global_batch_size,
            row_length=self.inputs.row_length,
            num_steps=self.config.run.num_steps,
            mixer=self.config.mixture.mixer,
            num_parameters=sum(p.numel() for p in self.engine.parameters),
            num_ranks=self.engine.dp_world_size,
        )
        self.evaluate()

    def update_mixture(self) -> None:
        """Measures the alignments now and appoints new weights, `weight_lag` steps from here."""
        first_step = self.step + self.config.data.weight_lag
        effective_from = first_step * self.config.batch.global_batch_size
        assert effective_from >= self.loader.num_drawn_samples, "rows were drawn too far ahead"
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
        num_tokens = (self.step - last_step) * self.num_tokens // self.step
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
            num_tokens=self.num_tokens,
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


def build_engine(config: RunConfig, inputs: RunInputs) -> Engine:
    model = build_model(
        config.model,
        vocab_size=inputs.vocab_size,
        row_length=inputs.row_length,
        seed=config.run.seed,
    )
    return Engine(model, deepspeed_config=deepspeed_config(config, num_ranks=dist.get_world_size()))


def build_loader(
    config: RunConfig, inputs: RunInputs, *, engine: Engine, weight_log: WeightLog
) -> StepLoader:
    splits = inputs.domain_splits("train")
    rows = [
        build_domain_rows(
            split.rows_per_shard,
            name=name,
            seed=config.run.seed,
            use="train",
            shards_per_window=config.data.shards_per_window,
        )
        for name, split in zip(config.domains, splits, strict=True)
    ]
    return StepLoader(
        Order(rows, weight_log=weight_log, seed=config.run.seed),
        reader=RowReader(splits),
        global_batch_size=config.batch.global_batch_size,
        micro_batch_size=config.batch.micro_batch_size,
        dp_rank=engine.dp_rank,
        dp_world_size=engine.dp_world_size,
        num_steps=config.run.num_steps,
        num_workers=config.data.num_workers,
        prefetch_factor=config.data.prefetch_factor,
    )


def build_probes(config: RunConfig, inputs: RunInputs, *, engine: Engine) -> ProbeSource:
    splits = [*inputs.domain_splits(config.probe.rows), inputs.target_split("train")]
    rows = [
        build_domain_rows(
            split.rows_per_shard,
            name=name,
            seed=config.run.seed,
            use="probe",
            shards_per_window=config.data.shards_per_window,
        )
        for name, split in zip([*config.domains, TARGET], splits, strict=True)
    ]
    return ProbeSource(
        rows,
        reader=RowReader(splits),
        num_rows=[config.probe.rows_per_domain] * len(config.domains) + [config.probe.target_rows],
        num_groups=config.probe.num_groups,
        dp_rank=engine.dp_rank,
        dp_world_size=engine.dp_world_size,
        device=engine.device,
    )
