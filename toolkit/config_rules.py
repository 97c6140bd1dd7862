"""What must hold between the sections of a config, and between a run and its continuation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from toolkit.config import RunConfig
from toolkit.deepspeed_config import generated_deepspeed_config

MAX_WEIGHT_SUM_ERROR = 1e-6
OVERRIDABLE = {"zero_optimization.overlap_comm"}
"""Generated DeepSpeed settings that are a choice of ours and not of the config."""


def check_together(config: RunConfig) -> list[str]:
    """Problems that involve several sections, one sentence each."""
    problems = []
    weights = [domain.weight for domain in config.domains.values()]
    if None in weights and any(w is not None for w in weights):
        missing = [name for name, domain in config.domains.items() if domain.weight is None]
        problems.append(f"domains: {', '.join(missing)} lack a weight; give all weights or none")
    elif None not in weights:
        total = math.fsum(w for w in weights if w is not None)
        if abs(total - 1) > MAX_WEIGHT_SUM_ERROR:
            problems.append(f"domains: the weights sum to {total:.6g}, must sum to 1")
    batch, num_ranks = config.batch, config.run.num_ranks
    if batch.global_batch_size % (batch.micro_batch_size * num_ranks):
        problems.append(
            f"batch.global_batch_size = {batch.global_batch_size}: must be a multiple of "
            f"micro_batch_size × num_ranks = {batch.micro_batch_size} × {num_ranks}"
        )
    elif config.horizon_batches > config.data.weight_lag * config.num_micro_batches(num_ranks):
        problems.append(
            f"data.weight_lag = {config.data.weight_lag}: must cover what loaders draw ahead, "
            f"num_workers × prefetch_factor = {config.horizon_batches} micro-batches of "
            f"{config.num_micro_batches(num_ranks)} per step"
        )
    if config.mixture.mixer != "fixed":
        problems += _probe_problems(config)
    num_live = sum(w != 0 for w in weights)
    if config.mixture.min_weight * num_live >= 1:
        problems.append(
            f"mixture.min_weight = {config.mixture.min_weight}: "
            f"must be less than 1/{num_live}, an equal share of the {num_live} domains"
        )
    if config.optimizer.warmup_steps >= config.run.num_steps:
        problems.append(
            f"optimizer.warmup_steps = {config.optimizer.warmup_steps}: must be less than "
            f"run.num_steps = {config.run.num_steps}"
        )
    problems += _passthrough_problems(config)
    return problems


def _passthrough_problems(config: RunConfig) -> list[str]:
    """Keys of engine.deepspeed that would contradict what the rest of the config says."""
    generated = set(_leaves(generated_deepspeed_config(config, num_ranks=config.run.num_ranks)))
    return [
        f"engine.deepspeed.{key}: generated from this config; change the setting it comes from"
        for key in _leaves(config.engine.deepspeed)
        if key not in OVERRIDABLE
        and any(f"{key}.".startswith(f"{g}.") or f"{g}.".startswith(f"{key}.") for g in generated)
    ]


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _probe_problems(config: RunConfig) -> list[str]:
    mixture, num_steps = config.mixture, config.run.num_steps
    problems = []
    if mixture.every_steps + config.data.weight_lag >= num_steps:
        problems.append(
            f"mixture.every_steps = {mixture.every_steps}: with data.weight_lag = "
            f"{config.data.weight_lag} no update takes effect within run.num_steps = {num_steps}"
        )
    rows_per_pass = config.batch.micro_batch_size * config.run.num_ranks
    for name in ("rows_per_domain", "target_rows"):
        num_rows = getattr(config.probe, name)
        if num_rows > rows_per_pass * config.probe.num_groups:
            problems.append(
                f"probe.num_groups = {config.probe.num_groups}: a group must fit in one pass of "
                f"micro_batch_size × num_ranks = {rows_per_pass} rows, so {name} = {num_rows} "
                f"needs at least {-(-num_rows // rows_per_pass)} groups"
            )
    return problems


def meaning_changes(old: RunConfig, new: RunConfig) -> list[str]:
    """The fields that are not free and differ, as `section.key: old -> new`."""
    before, after = _bound_fields(old), _bound_fields(new)
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _bound_fields(model: BaseModel, prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("free"):
            continue
        if isinstance(value, BaseModel):
            fields |= _bound_fields(value, f"{prefix}{name}.")
        elif isinstance(value, dict) and all(isinstance(v, BaseModel) for v in value.values()):
            fields[f"{prefix}{name}"] = ", ".join(value)
            for key, section in value.items():
                fields |= _bound_fields(section, f"{prefix}{name}.{key}.")
        else:
            fields[f"{prefix}{name}"] = value
    return fields
