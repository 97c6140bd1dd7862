"""The configuration of a run, section by section.

Every section is a frozen pydantic model that forbids unknown keys; every field says unit and
meaning. Fields marked `free` may change when a run is continued; a change of any other would change
what the run means and is refused. `toolkit.config_file` reads the TOML.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator
from typing_extensions import Self

from toolkit.mixers import Normalise


def free(default: Any = ..., **constraints: Any) -> Any:
    """A field that may differ between the start of a run and its continuation."""
    return Field(default, json_schema_extra={"free": True}, **constraints)


# TOML has strings for paths and lists for tuples; everything else must be of its own type.
TomlPath = Annotated[Path, Strict(False)]
Unit = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True
    )


class RunSection(Section):
    folder: TomlPath = free()
    """Folder of the run: resolved config, events, checkpoints, logs. Created if missing."""
    num_steps: int = Field(gt=0)
    """Optimizer steps of the whole run."""
    seed: int = Field(0, ge=0, lt=1 << 63)
    """Seed of the initial parameters, of dropout, and of the order of rows."""
    num_ranks: int = Field(1, gt=0)
    """Ranks that share the training. `dga train` starts them on this machine, one per CUDA device
    or as CPU processes, unless a launcher has started them."""


class DataSection(Section):
    tokenizer: TomlPath = free()
    """SentencePiece model that the shards were made with."""
    target: TomlPath = free()
    """Shard folder of the target task. Its rows guide the mixture and are never trained on, unless
    the same folder is also a domain."""
    weight_lag: int = Field(2, ge=0)
    """Steps between measuring and the first sample drawn with the new weights."""
    num_workers: int = free(0, ge=0)
    """Loader processes per rank; 0 reads in the training process, fastest for local shards."""
    prefetch_factor: int = free(2, gt=0)
    """Micro-batches that each loader process draws ahead."""
    shards_per_window: int = Field(8, gt=0)
    """Shards among which rows are shuffled together."""


class DomainSection(Section):
    path: TomlPath = free()
    """Shard folder of this domain."""
    weight: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    """Mixture weight at the start. Given for all domains, summing to 1, or for none: all equal."""


class ModelSection(Section):
    """A Llama-style decoder, built by transformers. The vocabulary is the tokenizer's."""

    hidden_size: int = Field(gt=0)
    """Width of the residual stream."""
    num_layers: int = Field(gt=0)
    """Decoder layers."""
    num_heads: int = Field(gt=0)
    """Attention heads; hidden_size must be a multiple of twice as many."""
    num_key_value_heads: int | None = Field(None, gt=0)
    """Heads of keys and values; must divide num_heads. As many as num_heads when left out."""
    intermediate_size: int | None = Field(None, gt=0)
    """Width of the feed-forward layers; when left out, 8/3 hidden_size rounded up to 16s."""
    tie_embeddings: bool = True
    """Whether input and output embeddings are one matrix."""
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping an attention weight in training."""

    @property
    def feed_forward_size(self) -> int:
        return self.intermediate_size or math.ceil(8 * self.hidden_size / 3 / 16) * 16

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of 2 × num_heads = "
                f"{2 * self.num_heads}: rotary embeddings turn pairs"
            )
        if self.num_heads % (self.num_key_value_heads or self.num_heads):
            raise ValueError(
                f"num_heads {self.num_heads} must be a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        return self


class BatchSection(Section):
    global_batch_size: int = Field(gt=0)
    """Rows per optimizer step over all ranks."""
    micro_batch_size: int = Field(gt=0)
    """Rows per forward pass on one rank."""


class OptimizerSection(Section):
    """AdamW with linear warm-up."""

    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    """Peak learning rate."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After warm-up: a cosine that takes 1/10 of the peak at the last step, or constant."""
    warmup_steps: int = Field(10, ge=1)
    """Steps over which the learning rate rises linearly; the last of them takes the peak."""
    weight_decay: float = Field(0.1, ge=0, allow_inf_nan=False)
    """Decoupled weight decay."""
    betas: Annotated[tuple[Unit, Unit], Strict(False)] = (0.9, 0.95)
    """Decay rates of the averages of the gradient and of its square."""
    epsilon: float = Field(1e-8, gt=0, allow_inf_nan=False)
    """Added to the root of the averaged square."""
    max_gradient_norm: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Gradients are clipped to this global norm; 0 switches clipping off."""


class EngineSection(Section):
    """How DeepSpeed holds the model. Its JSON is generated from the whole config."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """What is sharded over the ranks: nothing, optimizer states, gradients too, parameters too."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Type of the parameters in forward and backward. The optimizer's own are fp32; gradients are
    accumulated in fp32 from ZeRO 1 on."""
    deepspeed: dict[str, Any] = {}
    """Added to the generated DeepSpeed JSON: settings that this config does not have."""


class MixtureSection(Section):
    mixer: Literal["fixed", "observe", "dga"] = "dga"
    """`fixed` keeps the starting weights; `observe` also measures and records the alignments; `dga`
    moves the weights by them."""
    every_steps: int = Field(20, gt=0)
    """Steps between two updates of the weights."""
    normalise: Normalise = "standardise"
    """Common scale of the alignments: none (the paper's form), norms, or standardise."""
    step_size: float = Field(0.5, gt=0, allow_inf_nan=False)
    """How far one update moves the logarithms of the weights per unit of score."""
    forgetting: float = Field(0.1, ge=0, lt=1)
    """Pull toward the starting weights per update; 0 is the paper's update, which can collapse."""
    ema_rate: float = Field(0.5, gt=0, le=1)
    """Share of the newest proposal in the weights that are sampled with."""
    min_weight: float = Field(0.005, ge=0, lt=1)
    """No domain that started above 0 falls below this weight."""


class ProbeSection(Section):
    rows_per_domain: int = Field(16, gt=0)
    """Rows of each domain whose gradient is measured per update."""
    target_rows: int = Field(32, gt=0)
    """Rows of the target whose gradient is measured per update."""
    num_groups: int = Field(2, ge=2)
    """Groups that the rows are measured in; standard errors come from their differences."""
    rows: Literal["train", "validation"] = "train"
    """Split that the domains' probe rows are drawn from."""

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        for name in ("rows_per_domain", "target_rows"):
            if getattr(self, name) % self.num_groups:
                raise ValueError(
                    f"{name} {getattr(self, name)} must be a multiple of num_groups "
                    f"{self.num_groups}"
                )
        return self


class EvaluationSection(Section):
    every_steps: int = free(100, gt=0)
    """Steps between two evaluations; there is always one before the first and one after the last
    step."""
    num_rows: int = Field(128, gt=0)
    """Validation rows per domain and of the target, from the front; all if there are fewer."""


class CheckpointSection(Section):
    every_steps: int = free(200, gt=0)
    """Steps between two checkpoints; there is always one after the last step."""
    keep_last: int = free(2, gt=0)
    """Newest checkpoints that are kept."""


class TrackingSection(Section):
    every_steps: int = free(10, gt=0)
    """Steps between two logged training losses."""
    wandb: Literal["auto", "online", "offline", "off"] = free("auto")
    """`auto`: online where wandb finds a key, else offline in the run's folder."""
    project: str = free("dga")
    """wandb project."""
    name: str | None = free(None)
    """wandb run name; the run folder's name when left out."""


class RunConfig(Section):
    """One training run."""

    run: RunSection
    data: DataSection
    domains: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], DomainSection] = (
        Field(min_length=1)
    )
    """The bodies of text in the mixture, by name."""
    model: ModelSection
    batch: BatchSection
    optimizer: OptimizerSection
    engine: EngineSection = EngineSection()
    mixture: MixtureSection = MixtureSection()
    probe: ProbeSection = ProbeSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    tracking: TrackingSection = TrackingSection()

    @property
    def start_weights(self) -> tuple[float, ...]:
        """The mixture at the first sample, one weight per domain in the config's order."""
        given = [domain.weight for domain in self.domains.values()]
        weights = [w for w in given if w is not None] or [1.0] * len(given)
        total = math.fsum(weights)
        return tuple(w / total for w in weights)

    @property
    def horizon_batches(self) -> int:
        """Micro-batches that loader processes may have drawn beyond the one in use."""
        return self.data.num_workers * self.data.prefetch_factor

    def num_micro_batches(self, num_ranks: int) -> int:
        """Micro-batches per rank and optimizer step (gradient accumulation)."""
        return self.batch.global_batch_size // (self.batch.micro_batch_size * num_ranks)
