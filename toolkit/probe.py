"""Which rows are probed, and this rank's share of them.

Each domain and the target have a cursor of their own over an order of their own, independent of
training's. A probe is cut into groups of equal size that do not depend on the number of ranks;
every rank takes its part of each group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from shards.read import RowReader
from toolkit.alignment import ProbeRows
from toolkit.order import DomainRows

STATE_VERSION = 1


class ProbeSource:
    """Draws the probes of one split per domain; the target is the last of them.

    Args:
        orders: one per domain, then the target's; order i reads split i of `reader`.
        num_rows: rows per probe, in the same order, each a multiple of `num_groups`.
    """

    def __init__(
        self,
        orders: Sequence[DomainRows],
        *,
        reader: RowReader,
        num_rows: Sequence[int],
        num_groups: int,
        dp_rank: int,
        dp_world_size: int,
        device: torch.device,
    ) -> None:
        self._orders = tuple(orders)
        self._reader = reader
        self._num_rows = tuple(num_rows)
        self._num_groups = num_groups
        self._dp_rank = dp_rank
        self._dp_world_size = dp_world_size
        self._device = device
        self._cursors = [0] * len(self._orders)

    def draw(self) -> list[ProbeRows]:
        """The next probe of every domain and, last, of the target; moves the cursors."""
        return [self._draw(i) for i in range(len(self._orders))]

    def _draw(self, source: int) -> ProbeRows:
        start, num_rows = self._cursors[source], self._num_rows[source]
        self._cursors[source] += num_rows
        row_ids = self._orders[source].take(start, start + num_rows)
        groups = []
        for group in row_ids.reshape(self._num_groups, -1):
            mine = np.array_split(group, self._dp_world_size)[self._dp_rank].tolist()
            tokens_BT = torch.from_numpy(self._reader.read([source] * len(mine), mine))
            groups.append(tokens_BT.to(self._device))
        return ProbeRows(groups_BT=tuple(groups), group_size=num_rows // self._num_groups)

    def state_dict(self) -> dict[str, Any]:
        return {"version": STATE_VERSION, "cursors": list(self._cursors)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["version"] != STATE_VERSION:
            raise ValueError(f"probe state of version {state['version']}, expected {STATE_VERSION}")
        self._cursors = list(state["cursors"])
