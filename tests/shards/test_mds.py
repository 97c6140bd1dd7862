"""Our shards under stock mosaicml-streaming, which runs in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from shards.mds import import_streaming_base, mds_writer
from shards.read import RowReader, SplitRows
from shards.write import shard_files

REPOSITORY = Path(__file__).parents[2]
NUM_ROWS, ROW_LENGTH = 50, 16

READ_WITH_STOCK_STREAMING = """
import json, sys
from shards.mds import import_streaming_base
import_streaming_base()
from streaming.base import StreamingDataset

read = {}
for folder in sys.argv[1:]:
    dataset = StreamingDataset(local=folder, batch_size=1, shuffle=False)
    by_number = [dataset[row_id]["tokens"] for row_id in range(len(dataset))]
    read[folder] = {
        "by_number": [row.tolist() for row in by_number],
        "in_order": [sample["tokens"].tolist() for sample in dataset],
        "dtypes": sorted({row.dtype.name for row in by_number}),
    }
print(json.dumps(read))
"""


@dataclass(frozen=True, kw_only=True)
class Written:
    split: SplitRows
    rows: np.ndarray
    read_by_stock: dict[str, list[list[int]]]
    num_shared_left: int


def write_rows(folder: Path, rows: np.ndarray, *, shard_bytes: int) -> SplitRows:
    """Writes one row after the other and describes them from the index that MDSWriter wrote."""
    encoding = f"ndarray:{rows.dtype}:{rows.shape[1]}"
    writer = mds_writer(
        folder=str(folder), column="tokens", encoding=encoding, shard_bytes=shard_bytes
    )
    for row in rows:
        writer.write({"tokens": row})
    writer.finish()
    shards = tuple(shard_files(folder))
    return SplitRows(folder=folder, shards=shards, row_length=rows.shape[1], dtype=rows.dtype.name)


def shared_memory_of_streaming() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if re.match(r"\d{6}_", name)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    """Rows of both types, and rows too large for the shard size, read by stock streaming."""
    base = tmp_path_factory.mktemp("mds")
    generator = np.random.default_rng(3)
    rows = {
        "uint16": generator.integers(0, 1 << 16, (NUM_ROWS, ROW_LENGTH), dtype=np.uint16),
        "uint32": generator.integers(0, 1 << 32, (NUM_ROWS, ROW_LENGTH), dtype=np.uint32),
        "row over limit": generator.integers(0, 1 << 16, (3, 1000), dtype=np.uint16),
    }
    splits = {
        name: write_rows(base / name, rows[name], shard_bytes=1 if "over" in name else 700)
        for name in rows
    }
    before = shared_memory_of_streaming()
    reading = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ_WITH_STOCK_STREAMING]
        + [str(split.folder) for split in splits.values()],
        cwd=REPOSITORY,
        env=os.environ | {"TMPDIR": str(base)},
        capture_output=True,
        text=True,
    )
    assert reading.returncode == 0, reading.stderr
    num_shared_left = len(shared_memory_of_streaming() - before)
    by_folder = json.loads(reading.stdout)
    return {
        name: Written(
            split=split,
            rows=rows[name],
            read_by_stock=by_folder[str(split.folder)],
            num_shared_left=num_shared_left,
        )
        for name, split in splits.items()
    }


@pytest.mark.parametrize("name", ["uint16", "uint32", "row over limit"])
def test_stock_streaming_and_our_reader_find_what_was_written(
    written: dict[str, Written], name: str
) -> None:
    data = written[name]
    assert len(data.split.shards) > 2
    tokens_BT = RowReader([data.split]).read([0] * len(data.rows), range(len(data.rows)))
    assert tokens_BT.tolist() == data.rows.tolist()
    assert data.read_by_stock["by_number"] == data.rows.tolist()
    assert data.read_by_stock["in_order"] == data.rows.tolist()
    assert data.read_by_stock["dtypes"] == [data.rows.dtype.name]


def test_stock_streaming_leaves_no_shared_memory(written: dict[str, Written]) -> None:
    assert written["uint16"].num_shared_left == 0


def test_shards_keep_to_their_size(written: dict[str, Written]) -> None:
    split = written["uint16"].split
    num_bytes = [(split.folder / shard.name).stat().st_size for shard in split.shards]
    assert num_bytes == [shard.num_bytes for shard in split.shards]
    assert max(num_bytes) <= 700


@pytest.mark.parametrize("folder", ["~/a", "~root/a", "wiki:en", "s3:b", "a?b#c", "%41"])
def test_a_relative_folder_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    rows = np.arange(4, dtype=np.uint16).reshape(2, 2)
    split = write_rows(Path(folder), rows, shard_bytes=1000)
    assert (tmp_path / folder / "shard.00000.mds").is_file()
    assert RowReader([split]).read([0, 0], [1, 0]).tolist() == [[2, 3], [0, 1]]


def test_a_package_that_is_loaded_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = ModuleType("streaming")
    monkeypatch.setitem(sys.modules, "streaming", loaded)
    import_streaming_base()
    assert sys.modules["streaming"] is loaded


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "streaming", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="mosaicml-streaming is not installed") as error:
        import_streaming_base()
    assert error.value.name == "streaming"
    assert "streaming" not in sys.modules
