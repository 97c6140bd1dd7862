"""Rows by number: the right ones, and none at all from a shard that is not what it should be."""

from __future__ import annotations

import pickle
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shards import read as read_module
from shards.errors import InputError
from shards.manifest import DomainManifest, ShardFile, Split
from shards.read import RowReader, SplitRows, matrix_offset

ROW_LENGTH = 4
CONFIG = b'{"column_names": ["tokens"]}'


def mds_bytes(rows: np.ndarray, *, config: bytes = CONFIG) -> bytes:
    """An MDS file as its format says: row count, offsets, column description, rows."""
    first = 4 * (len(rows) + 2) + len(config)
    offsets = [first + i * rows.shape[1] * rows.itemsize for i in range(len(rows) + 1)]
    return struct.pack(f"<{len(rows) + 2}I", len(rows), *offsets) + config + rows.tobytes()


def shard_file(path: Path, data: bytes, *, num_rows: int) -> ShardFile:
    """Writes `data` and describes it, as a manifest does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    digest = xxhash.xxh3_64_hexdigest(data)
    return ShardFile(name=path.name, num_rows=num_rows, num_bytes=len(data), xxh3_64=digest)


def tokens_of(num_rows: int, *, dtype: str = "uint16", first: int = 0) -> np.ndarray:
    """Rows that are all different and, as uint32, beyond what uint16 holds."""
    tokens = first + np.arange(num_rows * ROW_LENGTH).reshape(num_rows, ROW_LENGTH)
    return (tokens + (1 << 30 if dtype == "uint32" else 0)).astype(dtype)


def write_split(folder: Path, rows: np.ndarray, *, rows_per_shard: list[int]) -> SplitRows:
    ends = np.cumsum(rows_per_shard)
    shards = [
        shard_file(
            folder / f"shard.{i:05}.mds", mds_bytes(rows[end - num_rows : end]), num_rows=num_rows
        )
        for i, (num_rows, end) in enumerate(zip(rows_per_shard, ends, strict=True))
    ]
    return SplitRows(
        folder=folder, shards=tuple(shards), row_length=rows.shape[1], dtype=rows.dtype.name
    )


def refusal_of(split: SplitRows, *, row_id: int = 0) -> str:
    with pytest.raises(InputError) as refusal:
        RowReader([split]).read([0], [row_id])
    return str(refusal.value)


def test_a_split_knows_its_rows(tmp_path: Path) -> None:
    shards = [ShardFile(name=n, num_rows=r, num_bytes=1, xxh3_64="0" * 16) for n, r in
              [("a", 3), ("b", 1), ("c", 2)]]  # fmt: skip
    manifest = DomainManifest(
        domain="wiki",
        row_length=ROW_LENGTH,
        dtype="uint32",
        vocab_size=70_000,
        tokenizer_fingerprint="",
        validation_fraction=0.5,
        sources=[],
        splits={
            "train": Split(num_documents=1, num_tokens=9, shards=shards[:2]),
            "validation": Split(num_documents=1, num_tokens=8, shards=shards[2:]),
        },
    )
    train = SplitRows.of(tmp_path, manifest, "train")
    validation = SplitRows.of(tmp_path, manifest, "validation")
    assert train == SplitRows(
        folder=tmp_path / "train", shards=tuple(shards[:2]), row_length=ROW_LENGTH, dtype="uint32"
    )
    assert (train.num_rows, train.rows_per_shard) == (4, (3, 1))
    assert (validation.num_rows, validation.rows_per_shard) == (2, (2,))
    assert validation.folder == tmp_path / "validation"


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("max_open_shards", [1, 2, 512])
def test_rows_of_several_splits_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, max_open_shards: int
) -> None:
    monkeypatch.setattr(read_module, "MAX_OPEN_SHARDS", max_open_shards)
    rows = [tokens_of(12, dtype=dtype), tokens_of(5, dtype=dtype, first=1000)]
    reader = RowReader(
        [
            write_split(tmp_path / "a", rows[0], rows_per_shard=[3, 1, 5, 1, 2]),
            write_split(tmp_path / "b", rows[1], rows_per_shard=[2, 3]),
        ]
    )
    order = [(split_id, row_id) for split_id in (0, 1) for row_id in range(len(rows[split_id]))] * 3
    random.Random(0).shuffle(order)
    tokens_BT = reader.read([s for s, _ in order], [r for _, r in order])
    assert tokens_BT.dtype == np.int64
    assert tokens_BT.tolist() == [rows[s][r].tolist() for s, r in order]
    assert len(reader._matrices) == min(max_open_shards, 7)


def test_no_rows_have_the_shape_of_none(tmp_path: Path) -> None:
    reader = RowReader([write_split(tmp_path, tokens_of(3), rows_per_shard=[3])])
    assert reader.read([], []).shape == (0, ROW_LENGTH)


def test_the_shard_used_least_recently_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_module, "MAX_OPEN_SHARDS", 2)
    reader = RowReader([write_split(tmp_path, tokens_of(3), rows_per_shard=[1, 1, 1])])
    for row_id, open_shards in [(0, [0]), (1, [0, 1]), (0, [1, 0]), (2, [0, 2]), (1, [2, 1])]:
        reader.read([0], [row_id])
        assert [shard_id for _, shard_id in reader._matrices] == open_shards


def test_a_shard_is_hashed_once_however_often_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_module, "MAX_OPEN_SHARDS", 1)
    num_bytes_hashed: list[int] = []
    hexdigest = xxhash.xxh3_64_hexdigest

    def counted(data: bytes) -> str:
        num_bytes_hashed.append(len(data))
        return hexdigest(data)

    monkeypatch.setattr(read_module.xxhash, "xxh3_64_hexdigest", counted)
    split = write_split(tmp_path, tokens_of(5), rows_per_shard=[2, 3])
    num_bytes_hashed.clear()
    RowReader([split]).read([0] * 6, [0, 4, 1, 3, 0, 2])
    assert num_bytes_hashed == [shard.num_bytes for shard in split.shards]


@pytest.mark.parametrize("row_id", [5, 6, -1, -5, -6])
def test_a_row_that_is_not_there_is_an_error(tmp_path: Path, row_id: int) -> None:
    reader = RowReader([write_split(tmp_path, tokens_of(5), rows_per_shard=[2, 3])])
    with pytest.raises(IndexError):
        reader.read([0], [row_id])


def test_ids_of_unequal_number_are_an_error(tmp_path: Path) -> None:
    reader = RowReader([write_split(tmp_path, tokens_of(5), rows_per_shard=[5])])
    with pytest.raises(ValueError, match=r"zip\(\)"):
        reader.read([0], [1, 2])


def test_rows_cannot_be_written_to(tmp_path: Path) -> None:
    reader = RowReader([write_split(tmp_path, tokens_of(5), rows_per_shard=[5])])
    tokens_BT = reader.read([0], [0])
    tokens_BT[:] = 7  # a copy
    assert reader.read([0], [0]).tolist() == [[0, 1, 2, 3]]
    assert not reader._matrix(0, 0).flags.writeable


def test_a_pickled_reader_reads_the_same(tmp_path: Path) -> None:
    rows = [tokens_of(9), tokens_of(9, first=1000)]
    reader = RowReader(
        [
            write_split(tmp_path / "a", rows[0], rows_per_shard=[4, 5]),
            write_split(tmp_path / "b", rows[1], rows_per_shard=[9]),
        ]
    )
    reader.read([0, 1], [0, 8])
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.splits == reader.splits
    assert len(copy._matrices) == 0
    for split_id in (0, 1):
        assert copy.read([split_id] * 9, range(9)).tolist() == rows[split_id].tolist()


def test_a_pickled_reader_verifies_for_itself(tmp_path: Path) -> None:
    split = write_split(tmp_path, tokens_of(3), rows_per_shard=[3])
    reader = RowReader([split])
    reader.read([0], [0])
    path = tmp_path / split.shards[0].name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()  # the old reader keeps its map of the old file
    path.write_bytes(data)
    with pytest.raises(InputError, match="does not match its hash"):
        pickle.loads(pickle.dumps(reader)).read([0], [0])


def test_a_change_of_any_byte_is_noticed(tmp_path: Path) -> None:
    split = write_split(tmp_path, tokens_of(3), rows_per_shard=[3])
    path = tmp_path / split.shards[0].name
    data = path.read_bytes()
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ 0x10]) + data[i + 1 :])
        message = f"shard {path} does not match its hash; fetch or write it again"
        assert refusal_of(split) == message


def test_a_shard_of_another_length_is_noticed(tmp_path: Path) -> None:
    split = write_split(tmp_path, tokens_of(3), rows_per_shard=[3])
    path = tmp_path / split.shards[0].name
    data = path.read_bytes()
    message = f"shard {path} changed its size since its manifest was written"
    for num_bytes in range(len(data)):
        path.write_bytes(data[:num_bytes])
        assert refusal_of(split) == message
    path.write_bytes(data + b"\0")
    assert refusal_of(split) == message


def test_a_missing_shard_is_noticed_and_the_others_read(tmp_path: Path) -> None:
    rows = tokens_of(5)
    split = write_split(tmp_path, rows, rows_per_shard=[2, 3])
    path = tmp_path / split.shards[1].name
    path.unlink()
    assert refusal_of(split, row_id=2) == f"shard {path} is missing; its manifest lists it"
    assert RowReader([split]).read([0], [1]).tolist() == [rows[1].tolist()]


def test_a_folder_in_place_of_a_shard_is_noticed(tmp_path: Path) -> None:
    split = write_split(tmp_path, tokens_of(5), rows_per_shard=[5])
    path = tmp_path / split.shards[0].name
    path.unlink()
    path.mkdir()
    assert refusal_of(split) == f"shard {path} changed its size since its manifest was written"


def word(data: bytes, index: int, change: int) -> bytes:
    """`data` with `change` added to its 32-bit word `index`."""
    words = bytearray(data)
    (value,) = struct.unpack_from("<I", words, 4 * index)
    struct.pack_into("<I", words, 4 * index, (value + change) % (1 << 32))
    return bytes(words)


@pytest.mark.parametrize(
    "lie",
    [
        lambda data: word(data, 0, 1),
        lambda data: word(data, 0, -1),
        lambda data: word(data, 1, 2),
        lambda data: word(data, 1, -len(CONFIG) - 4),
        lambda data: word(data, 2, 8),
        lambda data: word(data, 3, -8),
        lambda data: word(data, 4, 1 << 31),
        lambda data: data + bytes(2 * ROW_LENGTH),
        lambda data: data[: -2 * ROW_LENGTH],
        lambda data: data[:19],
        lambda data: data[:1],
        lambda data: mds_bytes(tokens_of(2)),
        lambda data: mds_bytes(tokens_of(4)),
        lambda data: mds_bytes(tokens_of(3, dtype="uint32")),
        lambda data: mds_bytes(tokens_of(3)[:, :3]),
        lambda data: bytes(len(data)),
        lambda data: struct.pack("<5I", 3, 16, 24, 32, 40) + bytes(20),  # rows from byte 16 on
    ],
)
def test_a_header_that_lies_is_noticed_though_the_hash_is_right(
    tmp_path: Path, lie: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "shard.00000.mds"
    lying = shard_file(path, lie(mds_bytes(tokens_of(3))), num_rows=3)
    split = SplitRows(folder=tmp_path, shards=(lying,), row_length=ROW_LENGTH, dtype="uint16")
    assert refusal_of(split) in {
        f"shard {path} does not hold 3 rows of {ROW_LENGTH} tokens each",
        f"shard {path} is shorter than its own header",
    }


@pytest.mark.parametrize(
    "claim", [{"row_length": 3}, {"row_length": 8}, {"dtype": "uint32"}, {"row_length": 1 << 70}]
)
def test_a_manifest_that_claims_other_rows_is_refused(
    tmp_path: Path, claim: dict[str, object]
) -> None:
    split = write_split(tmp_path, tokens_of(3), rows_per_shard=[3])
    split = replace(split, **claim)  # type: ignore[arg-type]
    path = tmp_path / split.shards[0].name
    with pytest.raises(InputError) as refusal:
        read_module._open_shard(split, split.shards[0], verify=True)
    message = f"shard {path} does not hold 3 rows of {split.row_length} tokens each"
    assert str(refusal.value) == message


def test_a_manifest_that_claims_more_rows_than_fit_is_refused(tmp_path: Path) -> None:
    split = write_split(tmp_path, tokens_of(3), rows_per_shard=[3])
    shards = (split.shards[0].model_copy(update={"num_rows": 1 << 70}),)
    path = tmp_path / split.shards[0].name
    message = f"shard {path} is shorter than its own header"
    assert refusal_of(replace(split, shards=shards)) == message


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["uint16", "uint32"]), st.binary())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_found_behind_any_column_description(
    tmp_path: Path, num_rows: int, row_length: int, dtype: str, config: bytes
) -> None:
    rows = np.arange(num_rows * row_length, dtype=dtype).reshape(num_rows, row_length)
    data = mds_bytes(rows, config=config)
    shard = shard_file(tmp_path / "shard.mds", data, num_rows=num_rows)
    split = SplitRows(folder=tmp_path, shards=(shard,), row_length=row_length, dtype=dtype)
    tokens_BT = RowReader([split]).read([0] * num_rows, range(num_rows))
    assert tokens_BT.tolist() == rows.tolist()


def is_consistent(data: bytes, first: int, *, num_rows: int, stride: int) -> bool:
    """Whether the format's own words say that `num_rows` rows begin at `first` and fill the file.

    Written out beside `matrix_offset`, one offset after the other.
    """
    offsets = [struct.unpack_from("<I", data, 4 * (1 + i))[0] for i in range(num_rows + 1)]
    return (
        struct.unpack_from("<I", data)[0] == num_rows
        and first >= 4 * (num_rows + 2)
        and offsets == [first + i * stride for i in range(num_rows + 1)]
        and offsets[-1] == len(data)
    )


def check_offset(data: bytes, num_rows: int, row_length: int, item_bytes: int) -> None:
    """The offset is consistent, or the refusal is right and names the file."""
    stride = row_length * item_bytes
    path = Path("some/shard.mds")
    try:
        first = matrix_offset(
            data, num_rows=num_rows, row_length=row_length, item_bytes=item_bytes, path=path
        )
    except InputError as refusal:
        assert str(refusal).startswith(f"shard {path} ")
        first = len(data) - num_rows * stride
        assert len(data) < 4 * (num_rows + 2) or not is_consistent(
            data, first, num_rows=num_rows, stride=stride
        )
    else:
        assert is_consistent(data, first, num_rows=num_rows, stride=stride)
        assert first + num_rows * stride == len(data)


EDITS = ["byte", "word", "overlap", "cut", "append"]


@st.composite
def changed_shards(draw: st.DrawFn) -> tuple[bytes, int, int, int]:
    """A valid shard with a few bytes or words changed, cut or appended; and what it should hold."""
    num_rows, row_length = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    item_bytes = draw(st.sampled_from([2, 4]))
    rows = np.zeros((num_rows, row_length), dtype=f"uint{8 * item_bytes}")
    data = bytearray(mds_bytes(rows, config=draw(st.binary(max_size=5))))
    for edit in draw(st.lists(st.sampled_from(EDITS), max_size=3)):
        if edit == "byte" and data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
        elif edit == "word" and len(data) >= 4:
            index, change = draw(st.integers(0, len(data) // 4 - 1)), draw(st.integers(-8, 8))
            data = bytearray(word(data, index, change))
        elif edit == "overlap":  # rows that begin within the header, all else in order
            first, stride = draw(st.integers(0, 4 * (num_rows + 2))), row_length * item_bytes
            offsets = range(first, first + num_rows * stride + 1, stride)
            data = bytearray(struct.pack(f"<{num_rows + 2}I", num_rows, *offsets))
            data = data.ljust(offsets[-1], b"\0")[: offsets[-1]]
        elif edit == "cut":
            del data[draw(st.integers(0, len(data))) :]
        elif edit == "append":
            data += draw(st.binary(max_size=9))
    claims = [num_rows, row_length, item_bytes]
    if draw(st.integers(0, 3)) == 0:
        claims[draw(st.integers(0, 1))] = draw(st.integers(1, 6))
    return bytes(data), claims[0], claims[1], claims[2]


ARBITRARY = st.tuples(
    st.binary(max_size=64), st.integers(1, 12), st.integers(1, 12), st.sampled_from([2, 4])
)
fuzz = given(ARBITRARY | changed_shards())


@settings(max_examples=2_000, derandomize=True, deadline=None)
@example((b"", 1, 1, 2))
@example((mds_bytes(tokens_of(3)), 3, ROW_LENGTH, 2))
@fuzz
def test_any_bytes_have_a_consistent_offset_or_none(
    claim: tuple[bytes, int, int, int],
) -> None:
    check_offset(*claim)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=100_000, deadline=None)
@fuzz
def test_very_many_bytes_have_a_consistent_offset_or_none(
    claim: tuple[bytes, int, int, int],
) -> None:
    check_offset(*claim)
