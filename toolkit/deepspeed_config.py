"""DeepSpeed's JSON, generated from the run's config: a pure function."""

from __future__ import annotations

from typing import Any

from toolkit.config import EngineSection, OptimizerSection, RunConfig

NEVER = 1 << 62


def deepspeed_config(config: RunConfig, *, num_ranks: int) -> dict[str, Any]:
    """What `deepspeed.initialize` is given for this run on `num_ranks` ranks."""
    generated = generated_deepspeed_config(config, num_ranks=num_ranks)
    return _merged(generated, config.engine.deepspeed)


def generated_deepspeed_config(config: RunConfig, *, num_ranks: int) -> dict[str, Any]:
    """The same without the user's own additions."""
    return {
        "train_batch_size": config.batch.global_batch_size,
        "train_micro_batch_size_per_gpu": config.batch.micro_batch_size,
        "gradient_accumulation_steps": config.num_micro_batches(num_ranks),
        "gradient_clipping": config.optimizer.max_gradient_norm,
        "optimizer": _optimizer(config.optimizer),
        "bf16": {"enabled": config.engine.precision == "bf16"},
        "data_types": {"grad_accum_dtype": _accumulation_dtype(config.engine)},
        "zero_optimization": {
            "stage": config.engine.zero_stage,
            # Overlapping communication has open race reports on CUDA.
            "overlap_comm": False,
        },
        "steps_per_print": NEVER,
        "wall_clock_breakdown": False,
    }


def _accumulation_dtype(section: EngineSection) -> str:
    """fp32 wherever DeepSpeed can: without ZeRO it accumulates in the parameters' own type only."""
    return section.precision if section.zero_stage == 0 else "fp32"


def _optimizer(section: OptimizerSection) -> dict[str, Any]:
    return {
        "type": "AdamW",
        "params": {
            "lr": section.learning_rate,
            "betas": list(section.betas),
            "eps": section.epsilon,
            "weight_decay": section.weight_decay,
            # torch's AdamW: DeepSpeed's own needs a compiler on the machine that trains.
            "torch_adam": True,
        },
    }


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
