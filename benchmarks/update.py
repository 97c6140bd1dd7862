"""What one update of the mixture costs, beside the least that it could cost.

An update differentiates the model once per group of probe rows. The minimum is just that: plain
torch forward and backward passes over the same rows, in the same groups, on a model of its own.
What the update adds is the reduction of gradients, the dot products, and not disturbing training.

One process, its world of 1; random tokens. The additions grow with the parameters, the minimum with
parameters times tokens, so the ratio falls as rows get longer; real ones are longer than these.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import Figure, Options, Wanted, parse_options, report, time_in_rounds
from toolkit.alignment import ProbeRows, measure_alignment
from toolkit.config import ModelSection
from toolkit.distributed import process_group
from toolkit.engine import Engine
from toolkit.model import build_model

WANTED: Wanted = {"update_over_minimum_ratio": ("<=", 1.1)}
MODEL = ModelSection(hidden_size=128, num_layers=2, num_heads=4)
VOCAB_SIZE, ROW_LENGTH, QUICK_ROW_LENGTH = 512, 256, 16
NUM_DOMAINS, ROWS_PER_DOMAIN, TARGET_ROWS, NUM_GROUPS = 8, 8, 16, 2
NUM_ROUNDS = 11

DEEPSPEED_CONFIG: dict[str, Any] = {
    "train_batch_size": 1,
    "train_micro_batch_size_per_gpu": 1,
    "optimizer": {"type": "AdamW", "params": {"lr": 0.0, "torch_adam": True}},
    "zero_optimization": {"stage": 2, "overlap_comm": False},
}


@contextmanager
def started_engine() -> Iterator[Engine]:
    """An engine around the model, in a process group of this process alone."""
    with tempfile.TemporaryDirectory() as folder:
        # DeepSpeed asks the environment, as launchers set it.
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        rendezvous = f"file://{Path(folder, 'rendezvous')}"
        with process_group(rank=0, world_size=1, local_rank=0, init_method=rendezvous):
            engine = Engine(
                new_model(), deepspeed_config=DEEPSPEED_CONFIG, schedule=lambda step: 1.0
            )
            try:
                yield engine
            finally:
                engine.close()


def new_model() -> nn.Module:
    return build_model(MODEL, vocab_size=VOCAB_SIZE, row_length=ROW_LENGTH, seed=0)


def random_probe(num_rows: int, *, row_length: int, device: torch.device) -> ProbeRows:
    """Rows of random tokens, in groups."""
    tokens_BT = torch.randint(0, VOCAB_SIZE, (num_rows, row_length), device=device)
    return ProbeRows(groups_BT=tokens_BT.chunk(NUM_GROUPS), group_size=num_rows // NUM_GROUPS)


def differentiate(model: nn.Module, groups_BT: list[Tensor]) -> None:
    """The minimum: one forward and one backward pass per group."""
    for tokens_BT in groups_BT:
        model(tokens_BT).backward()
        model.zero_grad(set_to_none=True)
    if groups_BT[0].is_cuda:
        torch.cuda.synchronize()


def run(options: Options) -> None:
    with started_engine() as engine:
        row_length = QUICK_ROW_LENGTH if options.is_quick else ROW_LENGTH
        *domains, target = [
            random_probe(num_rows, row_length=row_length, device=engine.device)
            for num_rows in (*[ROWS_PER_DOMAIN] * NUM_DOMAINS, TARGET_ROWS)
        ]
        groups_BT = [group for probe in (target, *domains) for group in probe.groups_BT]
        plain = new_model().to(engine.device).eval()
        seconds = time_in_rounds(
            {
                "update": lambda: measure_alignment(engine, target=target, domains=domains),
                "minimum": lambda: differentiate(plain, groups_BT),
            },
            num_rounds=2 if options.is_quick else NUM_ROUNDS,
            num_warmups=1,
        )
    ratios = [a / b for a, b in zip(seconds["update"], seconds["minimum"], strict=True)]
    figures = [
        Figure.median("update_over_minimum_ratio", ratios),
        *(Figure.median(f"{name}_ms", [t * 1000 for t in seconds[name]]) for name in seconds),
    ]
    report("update", figures, wanted=WANTED, options=options)


if __name__ == "__main__":
    run(parse_options(__doc__))
