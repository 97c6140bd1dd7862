"""Leaving in good order: a signal asks, the ranks agree, the run pauses at a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist

from toolkit.processes import STOP_SIGNALS


class StopRequest:
    """Remembers that SIGINT or SIGTERM arrived."""

    def __init__(self) -> None:
        self.is_requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While inside, the two signals set the request instead of ending the process."""
        previous = {s: signal.signal(s, self._receive) for s in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.is_requested = True


class StopVote:
    """Lets all ranks stop after the same step though signals reach them at different moments.

    The vote is taken on the CPU beside the step, so it costs the step no waiting.
    """

    def __init__(self, request: StopRequest) -> None:
        self._request = request
        self._group = dist.new_group(backend="gloo")
        self._ballot = torch.zeros(1, dtype=torch.int32)
        self._work: dist.Work | None = None

    def open(self) -> None:
        """Casts this rank's vote; collective."""
        self._ballot.fill_(int(self._request.is_requested))
        self._work = dist.all_reduce(
            self._ballot, op=dist.ReduceOp.MAX, group=self._group, async_op=True
        )

    def close(self) -> bool:
        """Whether any rank had been asked to stop when the vote was opened."""
        assert self._work is not None, "close() without open()"
        self._work.wait()
        return bool(self._ballot.item())
