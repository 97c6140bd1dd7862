"""Documents to rows: tokens end to end, a boundary token after each, cut every row length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def smallest_dtype(vocab_size: int) -> str:
    """The name of the smallest unsigned integer type that holds every token id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class RowPacker:
    """Cuts a stream of documents into rows of exactly `row_length` tokens, losing none.

    What does not fill a row waits for the next document; `finish` pads the last row with boundary
    tokens.
    """

    def __init__(self, *, row_length: int, boundary_id: int, dtype: str) -> None:
        self.row_length = row_length
        self.num_documents = 0
        self.num_tokens = 0
        self._boundary_id = boundary_id
        self._dtype = np.dtype(dtype)
        self._rest: list[int] = []

    def add(self, document: list[int]) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
        """The rows that this document completes."""
        self._rest += document
        self._rest.append(self._boundary_id)
        self.num_documents += 1
        self.num_tokens += len(document) + 1
        num_whole = len(self._rest) // self.row_length * self.row_length
        rows = np.asarray(self._rest[:num_whole], dtype=self._dtype)
        del self._rest[:num_whole]
        yield from rows.reshape(-1, self.row_length)

    def finish(self) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
        """The last, padded row, if any token waits for one."""
        if self._rest:
            row = np.full(self.row_length, self._boundary_id, dtype=self._dtype)
            row[: len(self._rest)] = self._rest
            self._rest.clear()
            yield row
