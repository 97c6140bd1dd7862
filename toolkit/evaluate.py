"""Validation losses: the same rows every time, each read once, in order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from shards.read import RowReader
from toolkit.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Mean validation losses in nats per token."""

    domain_losses: tuple[float, ...]
    target_loss: float


def evaluate(
    engine: Engine, *, reader: RowReader, num_rows: int, micro_batch_size: int
) -> Evaluation:
    """Losses on the first `num_rows` rows of each split of `reader`; the last is the target's.

    Training does not notice. Collective; the rows are dealt to the ranks by turns. Under ZeRO-3
    each forward is collective too, so a rank that has run out of rows repeats one with weight 0.
    """
    rank, world_size = engine.dp_rank, engine.dp_world_size
    rows_per_pass = micro_batch_size * world_size
    sums = torch.zeros(len(reader.splits), dtype=torch.float64, device=engine.device)
    counts = [min(num_rows, split.num_rows) for split in reader.splits]
    with engine.outside_training() as model, torch.no_grad():
        for split, count in enumerate(counts):
            for first in range(0, count, rows_per_pass):
                mine = range(first + rank, min(first + rows_per_pass, count), world_size)
                rows = list(mine) or [0]
                tokens_BT = torch.from_numpy(reader.read([split] * len(rows), rows))
                sums[split] += model(tokens_BT.to(engine.device)).double() * len(mine)
    dist.all_reduce(sums)
    *domain_losses, target_loss = (sums.cpu() / torch.tensor(counts, dtype=torch.float64)).tolist()
    return Evaluation(domain_losses=tuple(domain_losses), target_loss=target_loss)
