"""Documents to rows: nothing lost, nothing added but boundaries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.pack import RowPacker, smallest_dtype


def pack(documents: list[list[int]], packer: RowPacker) -> list[list[int]]:
    rows = [row.tolist() for document in documents for row in packer.add(document)]
    return rows + [row.tolist() for row in packer.finish()]


@pytest.mark.parametrize(
    "vocab_size, dtype",
    [(1, "uint16"), (65535, "uint16"), (65536, "uint16"), (65537, "uint32"), (1 << 32, "uint32")],
)
def test_the_smallest_type_holds_the_largest_id(vocab_size: int, dtype: str) -> None:
    assert smallest_dtype(vocab_size) == dtype
    assert np.dtype(dtype).type(vocab_size - 1) == vocab_size - 1


def test_each_document_hands_out_the_rows_it_completes() -> None:
    packer = RowPacker(row_length=4, boundary_id=0, dtype="uint16")
    handed_out = [
        [row.tolist() for row in packer.add(document)]
        for document in ([1, 2], [3], [4, 5, 6, 7, 8, 9], [])
    ]
    assert handed_out == [[], [[1, 2, 0, 3]], [[0, 4, 5, 6], [7, 8, 9, 0]], []]
    assert [row.tolist() for row in packer.finish()] == [[0, 0, 0, 0]]
    assert (packer.num_documents, packer.num_tokens) == (4, 13)


def test_a_full_last_row_is_not_followed_by_padding() -> None:
    packer = RowPacker(row_length=4, boundary_id=9, dtype="uint32")
    assert pack([[1, 2, 3], [4, 5, 6]], packer) == [[1, 2, 3, 9], [4, 5, 6, 9]]
    assert list(packer.finish()) == []


def test_no_document_makes_no_row() -> None:
    packer = RowPacker(row_length=4, boundary_id=9, dtype="uint16")
    assert list(packer.finish()) == []
    assert (packer.num_documents, packer.num_tokens) == (0, 0)


def test_finishing_twice_pads_once() -> None:
    packer = RowPacker(row_length=4, boundary_id=9, dtype="uint16")
    assert pack([[1]], packer) == [[1, 9, 9, 9]]
    assert list(packer.finish()) == []


def test_a_token_that_the_type_cannot_hold_is_an_error() -> None:
    packer = RowPacker(row_length=2, boundary_id=0, dtype="uint16")
    with pytest.raises(OverflowError):
        list(packer.add([1 << 16]))


@given(
    st.lists(st.lists(st.integers(0, 65535), max_size=40)),
    st.integers(1, 17),
    st.sampled_from(["uint16", "uint32"]),
)
def test_rows_are_the_documents_with_boundaries_and_padding(
    documents: list[list[int]], row_length: int, dtype: str
) -> None:
    boundary_id = 7
    packer = RowPacker(row_length=row_length, boundary_id=boundary_id, dtype=dtype)
    rows = [row for document in documents for row in packer.add(document)]
    rows += packer.finish()
    stream = [token for document in documents for token in [*document, boundary_id]]
    padding = [boundary_id] * (-len(stream) % row_length)
    assert [token for row in rows for token in row.tolist()] == stream + padding
    assert {(row.shape, row.dtype.name) for row in rows} <= {((row_length,), dtype)}
    assert (packer.num_documents, packer.num_tokens) == (len(documents), len(stream))
