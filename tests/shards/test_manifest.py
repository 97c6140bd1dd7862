"""The manifest: what it accepts, how it is saved, and when its fingerprint changes."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shards.errors import InputError
from shards.manifest import DomainManifest, ShardFile, Split, load_manifest, save_manifest

Tree = dict[str, Any]

MANIFEST = DomainManifest(
    domain="wiki",
    row_length=8,
    dtype="uint16",
    vocab_size=300,
    tokenizer_fingerprint="0123456789abcdef",
    validation_fraction=0.25,
    sources=["a.txt", "b.jsonl.gz"],
    splits={
        "train": Split(
            num_documents=5,
            num_tokens=37,
            shards=[
                ShardFile(name="shard.00000.mds", num_rows=3, num_bytes=4, xxh3_64="0" * 16),
                ShardFile(name="shard.00001.mds", num_rows=2, num_bytes=5, xxh3_64="f" * 16),
            ],
        ),
        "validation": Split(num_documents=0, num_tokens=0, shards=[]),
    },
)

ON_DISK = """{
 "format_version": 1,
 "domain": "wiki",
 "row_length": 8,
 "dtype": "uint16",
 "vocab_size": 300,
 "tokenizer_fingerprint": "0123456789abcdef",
 "validation_fraction": 0.25,
 "sources": [
  "a.txt",
  "b.jsonl.gz"
 ],
 "splits": {
  "train": {
   "num_documents": 5,
   "num_tokens": 37,
   "shards": [
    {
     "name": "shard.00000.mds",
     "num_rows": 3,
     "num_bytes": 4,
     "xxh3_64": "0000000000000000"
    },
    {
     "name": "shard.00001.mds",
     "num_rows": 2,
     "num_bytes": 5,
     "xxh3_64": "ffffffffffffffff"
    }
   ]
  },
  "validation": {
   "num_documents": 0,
   "num_tokens": 0,
   "shards": []
  }
 }
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A domain folder with `MANIFEST` and files of the sizes that it lists."""
    (tmp_path / "train").mkdir()
    (tmp_path / "validation").mkdir()
    (tmp_path / "train/shard.00000.mds").write_bytes(b"1234")
    (tmp_path / "train/shard.00001.mds").write_bytes(b"12345")
    save_manifest(MANIFEST, tmp_path)
    return tmp_path


def refusal_of(folder: Path) -> str:
    with pytest.raises(InputError) as refusal:
        load_manifest(folder)
    return str(refusal.value)


def test_a_manifest_on_disk_is_plain_json_and_comes_back(folder: Path) -> None:
    assert (folder / "manifest.json").read_text(encoding="utf-8") == ON_DISK
    assert load_manifest(folder) == MANIFEST
    assert load_manifest(folder).splits["train"].num_rows == 5


def test_a_manifest_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        MANIFEST.row_length = 9  # type: ignore[misc]


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    hint = "`dga shard` writes such folders"
    assert refusal_of(tmp_path) == f"shard folder {tmp_path} has no manifest.json; {hint}"
    missing = tmp_path / "missing"
    assert refusal_of(missing) == f"shard folder {missing} does not exist; {hint}"


def shard(tree: Tree, **changes: Any) -> None:
    tree["splits"]["train"]["shards"][0] |= changes


NOT_A_NAME = "String should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*$'"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "../shard.mds",
        "../../etc/passwd",
        "/etc/passwd",
        "a/b.mds",
        "a\\b.mds",
        "-a.mds",
        "a.mds\n",
        "a\0b",
        "a b",
        "C:a",
        "é.mds",
    ],
)
def test_a_shard_name_that_is_no_plain_file_name_is_refused(folder: Path, name: str) -> None:
    tree = json.loads(ON_DISK)
    shard(tree, name=name)
    (folder / "manifest.json").write_text(json.dumps(tree))
    where = f"{folder}/manifest.json: splits.train.shards.0.name"
    assert refusal_of(folder) == f"{where}: {NOT_A_NAME}"


@pytest.mark.parametrize("name", ["a", "0", "shard.00000.mds", "a..b", "A-1_b.mds"])
def test_a_plain_file_name_is_accepted(name: str) -> None:
    assert ShardFile(name=name, num_rows=1, num_bytes=1, xxh3_64="0" * 16).name == name


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda t: t.update(format_version=2), "format_version: Input should be 1"),
        (lambda t: t.update(extra=1), "extra: Extra inputs are not permitted"),
        (lambda t: t.pop("domain"), "domain: Field required"),
        (lambda t: t.update(domain=3), "domain: Input should be a valid string"),
        (lambda t: t.update(row_length=1), "row_length: Input should be greater than 1"),
        (lambda t: t.update(row_length="8"), "row_length: Input should be a valid integer"),
        (lambda t: t.update(row_length=8.0), "row_length: Input should be a valid integer"),
        (lambda t: t.update(row_length=True), "row_length: Input should be a valid integer"),
        (lambda t: t.update(dtype="int16"), "dtype: Input should be 'uint16' or 'uint32'"),
        (lambda t: t.update(vocab_size=0), "vocab_size: Input should be greater than 0"),
        (
            lambda t: t.update(validation_fraction=1),
            "validation_fraction: Input should be less than 1",
        ),
        (
            lambda t: t.update(validation_fraction=float("nan")),
            "validation_fraction: Input should be less than 1",
        ),
        (
            lambda t: t.update(validation_fraction=-0.1),
            "validation_fraction: Input should be greater than or equal to 0",
        ),
        (lambda t: t.update(sources="a.txt"), "sources: Input should be a valid array"),
        (lambda t: t.update(splits=[]), "splits: Input should be an object"),
        (
            lambda t: t["splits"].pop("validation"),
            "file: Value error, splits must be exactly train and validation",
        ),
        (
            lambda t: t["splits"].update(test=t["splits"]["train"]),
            "splits.test.[key]: Input should be 'train' or 'validation'",
        ),
        (
            lambda t: t["splits"]["train"].update(num_tokens=-1),
            "splits.train.num_tokens: Input should be greater than or equal to 0",
        ),
        (
            lambda t: t["splits"]["train"].update(extra=1),
            "splits.train.extra: Extra inputs are not permitted",
        ),
        (
            lambda t: shard(t, num_rows=0),
            "splits.train.shards.0.num_rows: Input should be greater than 0",
        ),
        (
            lambda t: shard(t, num_bytes=None),
            "splits.train.shards.0.num_bytes: Input should be a valid integer",
        ),
        (
            lambda t: shard(t, xxh3_64="0" * 15),
            "splits.train.shards.0.xxh3_64: String should match pattern '^[0-9a-f]{16}$'",
        ),
        (
            lambda t: shard(t, xxh3_64="F" * 16),
            "splits.train.shards.0.xxh3_64: String should match pattern '^[0-9a-f]{16}$'",
        ),
        (
            lambda t: shard(t, extra=1),
            "splits.train.shards.0.extra: Extra inputs are not permitted",
        ),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(
    folder: Path, edit: Callable[[Tree], object], message: str
) -> None:
    tree = json.loads(ON_DISK)
    edit(tree)
    (folder / "manifest.json").write_text(json.dumps(tree))
    assert refusal_of(folder) == f"{folder}/manifest.json: {message}"


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b"{", b"[" * 100_000])
def test_a_file_that_is_no_json_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    assert refusal_of(folder).startswith(f"{folder}/manifest.json: file: ")


def test_a_manifest_cut_anywhere_is_refused(folder: Path) -> None:
    whole = ON_DISK.rstrip().encode()
    for num_bytes in range(len(whole)):
        (folder / "manifest.json").write_bytes(whole[:num_bytes])
        assert refusal_of(folder).startswith(f"{folder}/manifest.json: file: Invalid JSON: ")


@given(st.data())
@settings(deadline=None)
def test_a_manifest_with_changed_bytes_is_refused_or_consistent(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(ON_DISK.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.getbasetemp()
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(InputError) as refusal:  # at the latest because no shard lies there
        load_manifest(folder)
    assert str(folder) in str(refusal.value)


def test_a_missing_shard_is_refused(folder: Path) -> None:
    path = folder / "train/shard.00001.mds"
    path.unlink()
    message = f"shard {path} is missing; the manifest beside it lists it"
    assert refusal_of(folder) == message
    path.mkdir()
    assert refusal_of(folder) == message


@pytest.mark.parametrize("content", [b"", b"1234", b"123456"])
def test_a_shard_of_another_size_is_refused(folder: Path, content: bytes) -> None:
    path = folder / "train/shard.00001.mds"
    path.write_bytes(content)
    message = f"shard {path} has {len(content)} bytes, its manifest says 5"
    assert refusal_of(folder) == message


def test_saving_replaces_the_manifest_when_all_of_it_is_on_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def traced_fsync(descriptor: int) -> None:
        fsync(descriptor)
        calls.append((folder / "manifest.json.partial").read_text())

    def traced_replace(source: Path, target: Path) -> None:
        calls.append(f"{source.name} -> {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    save_manifest(MANIFEST, folder)
    assert calls == [ON_DISK, "manifest.json.partial -> manifest.json"]
    assert sorted(os.listdir(folder)) == ["manifest.json", "train", "validation"]


def test_a_save_that_fails_leaves_the_old_manifest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_manifest(MANIFEST.model_copy(update={"domain": "other"}), folder)
    assert load_manifest(folder) == MANIFEST


def test_the_fingerprint_is_the_same_today_as_when_it_was_written_down(folder: Path) -> None:
    assert MANIFEST.fingerprint == "9df8b3da7dcc93aa"
    assert load_manifest(folder).fingerprint == MANIFEST.fingerprint


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: shard(t, xxh3_64="0" * 15 + "1"),
        lambda t: shard(t, num_rows=4),
        lambda t: shard(t, num_bytes=5),
        lambda t: shard(t, name="shard.mds"),
        lambda t: t["splits"]["train"]["shards"].reverse(),
        lambda t: t["splits"]["train"]["shards"].pop(),
        lambda t: t["splits"]["validation"].update(shards=t["splits"]["train"]["shards"]),
        lambda t: t.update(dtype="uint32"),
        lambda t: t.update(row_length=9),
        lambda t: t.update(tokenizer_fingerprint="f" * 16),
    ],
)
def test_the_fingerprint_changes_with_what_the_rows_hang_on(edit: Callable[[Tree], object]) -> None:
    tree = copy.deepcopy(MANIFEST.model_dump())
    edit(tree)
    changed = DomainManifest.model_validate(tree)
    assert changed.fingerprint != MANIFEST.fingerprint
