"""From the config tree to the parts of a run, each of which takes plain parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch.distributed as dist

from shards.read import RowReader, SplitRows
from toolkit.checkpoint_files import RunState
from toolkit.config import RunConfig
from toolkit.deepspeed_config import deepspeed_config
from toolkit.engine import Engine
from toolkit.inputs import TARGET, RunInputs
from toolkit.integers import derive_key
from toolkit.loader import StepLoader
from toolkit.model import build_model
from toolkit.order import DomainRows, Order
from toolkit.probe import ProbeSource
from toolkit.schedule import LearningRateSchedule
from toolkit.weights import MixtureWeights, WeightLog


def build_engine(config: RunConfig, inputs: RunInputs) -> Engine:
    model = build_model(
        config.model,
        vocab_size=inputs.vocab_size,
        row_length=inputs.row_length,
        seed=config.run.seed,
    )
    return Engine(
        model,
        deepspeed_config=deepspeed_config(config, num_ranks=dist.get_world_size()),
        schedule=LearningRateSchedule(
            shape=config.optimizer.schedule,
            warmup_steps=config.optimizer.warmup_steps,
            num_steps=config.run.num_steps,
        ),
    )


def build_weight_log(config: RunConfig, state: RunState | None) -> WeightLog:
    """The log as a checkpoint has it, or with the starting weights alone."""
    if state:
        return WeightLog.from_state_dict(state.weight_log)
    weights = config.start_weights
    return WeightLog([MixtureWeights(effective_from=0, sampled=weights, raw=weights)])


def build_loader(
    config: RunConfig, inputs: RunInputs, *, engine: Engine, weight_log: WeightLog
) -> StepLoader:
    splits = inputs.domain_splits("train")
    rows = _domain_rows(config, names=config.domains, splits=splits, use="train")
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
    return ProbeSource(
        _domain_rows(config, names=[*config.domains, TARGET], splits=splits, use="probe"),
        reader=RowReader(splits),
        num_rows=[config.probe.rows_per_domain] * len(config.domains) + [config.probe.target_rows],
        num_groups=config.probe.num_groups,
        dp_rank=engine.dp_rank,
        dp_world_size=engine.dp_world_size,
        device=engine.device,
    )


def _domain_rows(
    config: RunConfig,
    *,
    names: Iterable[str],
    splits: Iterable[SplitRows],
    use: Literal["train", "probe"],
) -> list[DomainRows]:
    """The order of every domain for one use; the uses are independent."""
    return [
        DomainRows(
            split.rows_per_shard,
            key=derive_key(config.run.seed, use, name),
            shards_per_window=config.data.shards_per_window,
        )
        for name, split in zip(names, splits, strict=True)
    ]
