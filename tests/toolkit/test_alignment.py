"""Law 4: inner products from the ranks' slices equal those of one unsharded model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from ranks import run_on_ranks
from torch import Tensor, nn

from toolkit import alignment
from toolkit.alignment import Alignment, GradientSlicer, ProbeRows, measure_alignment
from toolkit.config import ModelSection
from toolkit.engine import Engine
from toolkit.model import build_model

NUM_GROUPS, GROUP_SIZE, ROW_LENGTH, VOCAB_SIZE = 2, 6, 16, 97
NUM_DOMAINS = 3


class WithUnusedParameter(nn.Module):
    """A loss that one of the model's parameters has no part in."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.unused = nn.Parameter(torch.ones(7))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        loss: Tensor = self.model(tokens_BT)
        return loss


def make_model(*, tied: bool) -> nn.Module:
    section = ModelSection(hidden_size=24, num_layers=2, num_heads=2, tie_embeddings=tied)
    model = build_model(section, vocab_size=VOCAB_SIZE, row_length=ROW_LENGTH, seed=5)
    return WithUnusedParameter(model)


def probe_rows() -> list[Tensor]:
    """One tensor per domain and, last, the target's; (groups, rows, tokens)."""
    generator = torch.Generator().manual_seed(11)
    shape = (NUM_GROUPS, GROUP_SIZE, ROW_LENGTH)
    return [
        torch.randint(0, VOCAB_SIZE // (i + 1), shape, generator=generator)
        for i in range(NUM_DOMAINS + 1)
    ]


def share(rows: Tensor, *, rank: int, world_size: int) -> ProbeRows:
    """Uneven on purpose: six rows over four ranks."""
    return ProbeRows(
        groups_BT=tuple(group.tensor_split(world_size)[rank] for group in rows),
        group_size=GROUP_SIZE,
    )


def measure_on_rank(
    zero_stage: int, precision: str, num_micro_batches: int, tied: bool, bucket_numel: int
) -> Alignment:
    world_size = torch.distributed.get_world_size()
    engine = Engine(
        make_model(tied=tied),
        deepspeed_config={
            "train_batch_size": num_micro_batches * world_size,
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": num_micro_batches,
            "optimizer": {"type": "AdamW", "params": {"lr": 0.0, "torch_adam": True}},
            "bf16": {"enabled": precision == "bf16"},
            "zero_optimization": {"stage": zero_stage, "overlap_comm": False},
        },
        schedule=lambda step: 1.0,
    )
    *domains, target = [
        share(rows, rank=engine.dp_rank, world_size=world_size) for rows in probe_rows()
    ]
    result = measure_alignment(engine, target=target, domains=domains, bucket_numel=bucket_numel)
    engine.close()
    return result


def reference_on_rank(
    tied: bool, precision: str
) -> tuple[list[float], list[list[float]], list[float], float]:
    """Means, group values and norms by plain autograd on the whole model and whole groups, in fp32.

    At the parameters that are measured: those of a bf16 engine are rounded.
    """
    model = make_model(tied=tied).eval()
    if precision == "bf16":
        model = model.bfloat16().float()
    gradients = [
        torch.stack([flat_gradient(model, group) for group in rows]) for rows in probe_rows()
    ]
    *domains, target = gradients
    target_mean = target.mean(0)
    dots = [(groups @ target_mean).tolist() for groups in domains]
    norms = [groups.square().sum(1).mean().sqrt().item() for groups in domains]
    return [sum(d) / len(d) for d in dots], dots, norms, target_mean.norm().item()


def flat_gradient(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    model.zero_grad()
    model(tokens_BT).backward()
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([part.flatten() for part in parts]).double()


def relative_errors(result: Alignment, reference: Any) -> Sequence[float]:
    inner_products, _, norms, target_norm = reference
    return [
        abs(a - b) / (norm * target_norm)
        for a, b, norm in zip(result.inner_products, inner_products, norms, strict=True)
    ]


CASES = [
    *((stage, "fp32", micro, world, True) for stage in range(4) for micro, world in [(1, 2)]),
    (0, "fp32", 3, 4, False),
    (1, "fp32", 3, 4, True),
    (2, "fp32", 3, 4, False),
    (3, "fp32", 3, 4, True),
    (2, "fp32", 1, 1, True),
    (0, "bf16", 1, 2, True),
    (2, "bf16", 1, 2, False),
    (3, "bf16", 1, 2, True),
]


@pytest.mark.parametrize(("zero_stage", "precision", "num_micro_batches", "world", "tied"), CASES)
def test_slices_tell_the_truth(
    zero_stage: int, precision: str, num_micro_batches: int, world: int, tied: bool
) -> None:
    reference = run_on_ranks(1, reference_on_rank, tied, precision)[0]
    results = run_on_ranks(
        world, measure_on_rank, zero_stage, precision, num_micro_batches, tied, 1000
    )
    assert all(result == results[0] for result in results), "ranks disagree"
    bound = 1e-7 if precision == "fp32" else 5e-4
    assert max(relative_errors(results[0], reference)) <= bound
    if precision == "fp32":
        _, dots, norms, target_norm = reference
        assert results[0].norms == pytest.approx(norms, rel=1e-6)
        assert results[0].target_norm == pytest.approx(target_norm, rel=1e-6)
        # Of two values, the standard error of the mean is half their distance.
        expected = [abs(a - b) / 2 for a, b in dots]
        scale = max(norms) * target_norm
        assert results[0].standard_errors == pytest.approx(expected, abs=1e-7 * scale)


def test_bucket_size_changes_no_slice() -> None:
    one, many = (
        run_on_ranks(2, measure_on_rank, 2, "fp32", 1, True, numel)[0] for numel in (1, 1 << 20)
    )
    assert one.inner_products == pytest.approx(many.inner_products, rel=1e-12)
    assert one.norms == pytest.approx(many.norms, rel=1e-12)


def largest_kept_on_rank() -> tuple[int, int]:
    """Elements of the largest single tensor that the slicer hands over, and of a whole gradient."""
    model = make_model(tied=True)
    parameters = list(model.parameters())
    slicer = GradientSlicer(parameters, bucket_numel=1000)
    sizes: list[int] = []
    loss = model(probe_rows()[0][0])
    slicer.backward(loss, lambda offset, part: sizes.append(part.numel()))
    assert sum(sizes) == slicer.slice_numel
    assert all(p.grad is None for p in parameters)
    return max(sizes), sum(p.numel() for p in parameters)


def test_a_rank_holds_its_slice_only() -> None:
    largest, whole = run_on_ranks(2, largest_kept_on_rank)[0]
    embedding = VOCAB_SIZE * 24
    assert largest == math.ceil(embedding / 2) < whole / 2


def test_infinities_that_meet_make_a_number_that_is_not_finite() -> None:
    triples = [[math.inf, math.inf, 1.0], [-math.inf, math.inf, 1.0]]
    sums = [torch.tensor(1.0), torch.tensor([1.0, 1.0]), *(torch.tensor(t) for t in triples)]
    result = run_on_ranks(1, finish_on_rank, sums)[0]
    assert math.isnan(result.inner_products[0]) and not result.is_finite


def finish_on_rank(sums: list[Tensor]) -> Alignment:
    return alignment._finish([s.double() for s in sums], num_groups=2)


def test_one_overflow_makes_the_measurement_unusable() -> None:
    finite = Alignment(
        inner_products=(1.0, 2.0),
        standard_errors=(0.1, 0.1),
        norms=(1.0, 1.0),
        target_norm=1.0,
        losses=(3.0, 3.0),
        target_loss=3.0,
    )
    assert finite.is_finite
    for field, value in [("inner_products", (1.0, math.nan)), ("target_loss", math.inf)]:
        assert not Alignment(**(vars(finite) | {field: value})).is_finite
