"""The order of the run, turned into tensors on this rank.

The order is computed in the main process of every rank, identically. Loader processes, if any, are
told which rows to read and know nothing of mixing, so a new weight never has to reach them. They
draw exactly `num_workers x prefetch_factor` micro-batches ahead of the one in use; an appointment
must lie beyond. The state of the loader is its state at the last step that was handed out, not at
the last one drawn.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# A forked loader process seeds it at once; importing it there fails at times, because the fork may
# have copied the lock of an import under way in another thread.
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shards.errors import InputError
from shards.read import RowReader
from toolkit.order import Order, RowKeys
from toolkit.processes import end_with


class StepLoader:
    """Hands this rank its micro-batches, one optimizer step at a time.

    Within a step, micro-batch a of rank r holds the samples [(a W + r) b, (a W + r + 1) b) of the
    global batch, for W ranks and b rows per micro-batch.
    """

    def __init__(
        self,
        order: Order,
        *,
        reader: RowReader,
        global_batch_size: int,
        micro_batch_size: int,
        dp_rank: int,
        dp_world_size: int,
        num_steps: int,
        num_workers: int = 0,
        prefetch_factor: int = 2,
    ) -> None:
        self._order = order
        self._global_batch_size = global_batch_size
        self._micro_batch_size = micro_batch_size
        self._dp_rank = dp_rank
        self._dp_world_size = dp_world_size
        self._num_steps = num_steps
        self._num_micro_batches = global_batch_size // (micro_batch_size * dp_world_size)
        # The order's state after each step that was drawn and not yet handed out.
        self._drawn: deque[dict[str, Any]] = deque()
        self._state = order.state_dict()
        self._data_loader: DataLoader[Tensor | InputError] = DataLoader(
            _Rows(reader),
            batch_size=None,
            sampler=_Draws(self),
            num_workers=num_workers,
            prefetch_factor=prefetch_factor if num_workers else None,
            # Its own generator: the default would draw a seed from the one that training uses.
            generator=torch.Generator(),
            worker_init_fn=_LoaderProcess(os.getpid()),
        )
        self._batches: Iterator[Tensor | InputError] | None = None

    def next_step(self) -> list[Tensor]:
        """This rank's micro-batches of the next step, each int64 (micro_batch_size, row_length).

        Raises:
            StopIteration: after the last step of the run.
            InputError: a shard is not what its manifest says.
        """
        if self._batches is None:
            self._batches = iter(self._data_loader)
        micro_batches = [self._next_batch(self._batches) for _ in range(self._num_micro_batches)]
        self._state = self._drawn.popleft()
        return micro_batches

    @staticmethod
    def _next_batch(batches: Iterator[Tensor | InputError]) -> Tensor:
        batch = next(batches)
        if isinstance(batch, InputError):
            raise batch
        return batch

    @property
    def num_drawn_samples(self) -> int:
        """Samples that have been drawn: an appointment before this index comes too late."""
        return self._order.num_samples

    @property
    def num_rows_taken(self) -> tuple[int, ...]:
        """Rows handed out so far per domain, over all ranks."""
        return tuple(self._state["cursors"])

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues after the step of which `state` is; before the first `next_step`."""
        assert self._batches is None, "the loader has started drawing already"
        self._order.load_state_dict(state)
        self._state = state

    def draw(self) -> Iterator[RowKeys]:
        """The keys of this rank's micro-batches, in order, to the end of the run."""
        size = self._micro_batch_size
        while self._order.num_samples < self._num_steps * self._global_batch_size:
            keys = self._order.take(self._global_batch_size)
            self._drawn.append(self._order.state_dict())
            for micro_batch in range(self._num_micro_batches):
                first = (micro_batch * self._dp_world_size + self._dp_rank) * size
                yield keys[first : first + size]


class _Draws:
    """What DataLoader iterates in the main process."""

    def __init__(self, loader: StepLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[RowKeys]:
        return self._loader.draw()


@dataclass(frozen=True)
class _LoaderProcess:
    """What a loader process does first: it must not outlive its rank, whose locks it inherits."""

    parent: int

    def __call__(self, worker_id: int) -> None:
        end_with(self.parent)


class _Rows(Dataset["Tensor | InputError"]):
    """What DataLoader indexes, here or in a loader process: stateless but for open files."""

    def __init__(self, reader: RowReader) -> None:
        self._reader = reader

    def __getitem__(self, keys: RowKeys) -> Tensor | InputError:
        try:
            return torch.from_numpy(self._reader.read(keys.domains.tolist(), keys.rows.tolist()))
        except InputError as error:
            return error  # raised here, DataLoader would wrap its one sentence in a traceback
