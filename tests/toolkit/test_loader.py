"""Laws 1 and 2: one order for every world size and worker count, across appointments."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.errors import InputError
from shards.mds import mds_writer
from shards.read import RowReader, SplitRows
from shards.write import shard_files
from toolkit.loader import StepLoader
from toolkit.order import DomainRows, Order
from toolkit.weights import MixtureWeights, WeightLog

GLOBAL_BATCH_SIZE, NUM_STEPS, WEIGHT_LAG = 16, 24, 4
ROWS_PER_SHARD = {"a": 7, "b": 11, "c": 5}
APPOINTMENTS = {5: (0.7, 0.3, 0.0), 11: (0.05, 0.05, 0.9)}
"""Decided after so many steps; the last domain is switched off and on again."""


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> list[SplitRows]:
    """Three domains whose every row says which domain, row and token it is."""
    root = tmp_path_factory.mktemp("numbered")
    splits = []
    for domain, (name, rows_per_shard) in enumerate(ROWS_PER_SHARD.items()):
        folder = root / name / "train"
        writer = mds_writer(
            folder=str(folder),
            column="tokens",
            encoding="ndarray:uint16:4",
            shard_bytes=20 + rows_per_shard * 12 + 200,
        )
        for row in range(3 * rows_per_shard):
            writer.write({"tokens": np.array([domain, row, row * 7, 1], dtype=np.uint16)})
        writer.finish()
        splits.append(_split_rows(folder))
    return splits


def _split_rows(folder: Path) -> SplitRows:
    shards = tuple(shard_files(folder))
    return SplitRows(folder=folder, shards=shards, row_length=4, dtype="uint16")


def make_order(splits: list[SplitRows], weight_log: WeightLog) -> Order:
    domains = [
        DomainRows(split.rows_per_shard, key=100 + i, shards_per_window=2)
        for i, split in enumerate(splits)
    ]
    return Order(domains, weight_log=weight_log, seed=9)


def make_log() -> WeightLog:
    even = (1 / 3, 1 / 3, 1 / 3)
    return WeightLog([MixtureWeights(effective_from=0, sampled=even, raw=even)])


def appoint(log: WeightLog, step: int) -> None:
    """The appointment made after `step` steps, if one is."""
    if step in APPOINTMENTS:
        first = (step + WEIGHT_LAG) * GLOBAL_BATCH_SIZE
        weights = APPOINTMENTS[step]
        log.append(MixtureWeights(effective_from=first, sampled=weights, raw=weights))


def expected_order(splits: list[SplitRows]) -> list[tuple[int, int]]:
    """The order itself, taken in one piece with the whole log known beforehand."""
    log = make_log()
    for step in APPOINTMENTS:
        appoint(log, step)
    keys = make_order(splits, log).take(NUM_STEPS * GLOBAL_BATCH_SIZE)
    return list(zip(keys.domains.tolist(), keys.rows.tolist(), strict=True))


def delivered(
    splits: list[SplitRows],
    *,
    num_ranks: int,
    num_workers: int,
    prefetch_factor: int = 2,
    resume_at: int | None = None,
) -> list[tuple[int, int]]:
    """What all ranks' loaders hand out, put back into the global order, by the rows' own marks."""
    size = GLOBAL_BATCH_SIZE // num_ranks // 2
    steps: list[list[torch.Tensor]] = [[] for _ in range(NUM_STEPS)]
    for rank in range(num_ranks):
        log = make_log()
        loader = make_loader(splits, log, rank, num_ranks, size, num_workers, prefetch_factor)
        for step in range(NUM_STEPS):
            if step == resume_at:
                state, tail = loader.state_dict(), log.tail(step * GLOBAL_BATCH_SIZE).state_dict()
                log = WeightLog.from_state_dict(tail)
                loader = make_loader(
                    splits, log, rank, num_ranks, size, num_workers, prefetch_factor
                )
                loader.load_state_dict(state)
            appoint(log, step)
            for position, tokens in enumerate(loader.next_step()):
                assert tokens.dtype == torch.int64
                assert torch.equal(tokens[:, 2], tokens[:, 1] * 7)
                # Ranks come one after the other: this one is the last of its micro-batch so far.
                steps[step].insert(position * (rank + 1) + rank, tokens[:, :2])
        with pytest.raises(StopIteration):
            loader.next_step()
    rows = torch.cat([torch.cat(parts) for parts in steps])
    return [(int(domain), int(row)) for domain, row in rows]


def make_loader(
    splits: list[SplitRows],
    log: WeightLog,
    rank: int,
    num_ranks: int,
    micro_batch_size: int,
    num_workers: int,
    prefetch_factor: int,
) -> StepLoader:
    return StepLoader(
        make_order(splits, log),
        reader=RowReader(splits),
        global_batch_size=GLOBAL_BATCH_SIZE,
        micro_batch_size=micro_batch_size,
        dp_rank=rank,
        dp_world_size=num_ranks,
        num_steps=NUM_STEPS,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
    )


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_one_order(numbered: list[SplitRows], num_ranks: int, num_workers: int) -> None:
    rows = delivered(numbered, num_ranks=num_ranks, num_workers=num_workers)
    assert rows == expected_order(numbered)


def test_the_appointments_are_kept_exactly(numbered: list[SplitRows]) -> None:
    domains = [domain for domain, _ in expected_order(numbered)]
    off, on = (5 + WEIGHT_LAG) * GLOBAL_BATCH_SIZE, (11 + WEIGHT_LAG) * GLOBAL_BATCH_SIZE
    assert 2 in domains[off - 4 : off]
    assert 2 not in domains[off:on]
    assert domains[on : on + 10].count(2) == 9


@pytest.mark.parametrize("resume_at", range(1, NUM_STEPS))
def test_the_state_is_that_of_the_last_step_handed_out(
    numbered: list[SplitRows], resume_at: int
) -> None:
    workers = resume_at % 3
    rows = delivered(numbered, num_ranks=2, num_workers=workers, resume_at=resume_at)
    assert rows == expected_order(numbered)


def test_workers_draw_no_further_than_promised(numbered: list[SplitRows]) -> None:
    for num_workers, prefetch_factor in [(0, 2), (1, 2), (2, 2), (2, 4)]:
        log = make_log()
        loader = make_loader(numbered, log, 0, 1, 8, num_workers, prefetch_factor)
        for step in range(1, 6):
            loader.next_step()
            ahead = loader.num_drawn_samples - step * GLOBAL_BATCH_SIZE
            micro_batches_ahead = num_workers * prefetch_factor
            assert ahead <= -(-micro_batches_ahead // 2) * GLOBAL_BATCH_SIZE


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_shard_is_one_sentence(
    numbered: list[SplitRows], tmp_path: Path, num_workers: int
) -> None:
    shutil.copytree(numbered[0].folder, tmp_path / "a")
    victim = tmp_path / "a" / numbered[0].shards[1].name
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    damaged = replace(numbered[0], folder=tmp_path / "a")
    loader = make_loader([damaged, *numbered[1:]], make_log(), 0, 1, 8, num_workers, 2)
    with pytest.raises(InputError) as caught:
        for _ in range(NUM_STEPS):
            loader.next_step()
    assert str(caught.value) == f"shard {victim} does not match its hash; fetch or write it again"


def test_training_generator_is_left_alone(numbered: list[SplitRows]) -> None:
    before = torch.get_rng_state()
    make_loader(numbered, make_log(), 0, 1, 8, 1, 2).next_step()
    assert torch.equal(torch.get_rng_state(), before)
