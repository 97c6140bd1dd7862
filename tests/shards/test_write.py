"""Text to a domain and back to text, byte for byte, whatever goes wrong on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import write as write_module
from shards.errors import InputError
from shards.manifest import DomainManifest, Split, SplitName, load_manifest
from shards.read import RowReader, SplitRows
from shards.tokenizer import Tokenizer
from shards.write import SPLITS, shard_bytes_for, split_of, write_domain

ROW_LENGTH = 16
DOCUMENTS = [
    "the cat sat on the mat",
    "  leading and trailing  ",
    " ",
    "\ttabs\tand\r\nlines\n\n\r",
    "NUL \0\0 in the middle",
    "漢字かな交じり文",
    "👩‍🔬 🇩🇪 é \ufeff\u2028",
    "<|boundary|> <unk> <0x41>",
    "▅ \ufffd \U0010ffff",
    "x",
    "the cat " * 5_000,
    "that was that",
] + [f"document {n}" for n in range(40)]


def write_source(path: Path, documents: list[str]) -> Path:
    lines = (json.dumps({"text": document}) + "\n" for document in documents)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write(
    folder: Path, sources: list[Path], tokenizer: Tokenizer, **settings: Any
) -> DomainManifest:
    settings = {"row_length": ROW_LENGTH, "validation_fraction": 0.3} | settings
    return write_domain(sources, folder=folder, tokenizer=tokenizer, num_threads=1, **settings)


def tokens_of(folder: Path, manifest: DomainManifest, split: SplitName) -> np.ndarray:
    rows = SplitRows.of(folder, manifest, split)
    return RowReader([rows]).read([0] * rows.num_rows, range(rows.num_rows))


def documents_of(folder: Path, tokenizer: Tokenizer, split: SplitName) -> list[str]:
    """The documents of a split, decoded from its rows."""
    manifest = load_manifest(folder)
    tokens = tokens_of(folder, manifest, split).reshape(-1)
    num_tokens = manifest.splits[split].num_tokens
    assert (tokens[num_tokens:] == tokenizer.boundary_id).all()
    ends = np.flatnonzero(tokens[:num_tokens] == tokenizer.boundary_id)
    starts = [0, *(ends + 1)]
    assert len(ends) == manifest.splits[split].num_documents
    return [
        tokenizer.processor.decode(tokens[start:end].tolist())
        for start, end in zip(starts, ends, strict=False)
    ]


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("shard_bytes", [None, 1000])
def test_rows_decode_to_the_documents(
    tmp_path: Path, tokenizer: Tokenizer, shard_bytes: int | None
) -> None:
    source = write_source(tmp_path / "a.jsonl", DOCUMENTS)
    manifest = write(tmp_path / "wiki", [source], tokenizer, shard_bytes=shard_bytes)
    expected: dict[SplitName, list[str]] = {"train": [], "validation": []}
    for document in DOCUMENTS:
        expected[split_of(document, validation_fraction=0.3)].append(document)
    assert min(len(documents) for documents in expected.values()) > 10
    for split in SPLITS:
        assert documents_of(tmp_path / "wiki", tokenizer, split) == expected[split]
    assert (len(manifest.splits["train"].shards) > 10) == (shard_bytes is not None)


@given(
    documents=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), min_size=1),
        min_size=1,
        max_size=8,
    ),
    row_length=st.integers(2, 9),
)
@settings(max_examples=60, deadline=None)
def test_rows_decode_to_any_documents(
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[str],
    row_length: int,
) -> None:
    base = tmp_path_factory.mktemp("any")
    source = write_source(base / "a.jsonl", documents)
    write(base / "wiki", [source], tokenizer, row_length=row_length, validation_fraction=0.0)
    assert documents_of(base / "wiki", tokenizer, "train") == documents


def test_sources_are_read_in_order_and_empty_documents_passed_over(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    sources = [
        write_source(tmp_path / "b.jsonl", ["one", "", "two"]),
        tmp_path / "c.txt",
        write_source(tmp_path / "a.jsonl", ["four"]),
    ]
    sources[1].write_text("three\n", encoding="utf-8")
    write(tmp_path / "wiki", sources, tokenizer, validation_fraction=0.0)
    documents = documents_of(tmp_path / "wiki", tokenizer, "train")
    assert documents == ["one", "two", "three\n", "four"]


def test_the_manifest_says_what_was_written(tmp_path: Path, tokenizer: Tokenizer) -> None:
    documents = ["the cat", "that", "sat on the mat"]
    source = write_source(tmp_path / "a.jsonl", documents)
    manifest = write(tmp_path / "wiki", [source], tokenizer, row_length=4, validation_fraction=0.0)
    encoded = tokenizer.encode_documents(documents, num_threads=1)
    num_tokens = sum(len(tokens) + 1 for tokens in encoded)
    assert manifest == load_manifest(tmp_path / "wiki")
    (shard,) = manifest.splits["train"].shards
    assert (shard.name, shard.num_rows) == ("shard.00000.mds", -(-num_tokens // 4))
    assert manifest == DomainManifest(
        domain="wiki",
        row_length=4,
        dtype="uint16",
        vocab_size=300,
        tokenizer_fingerprint=tokenizer.fingerprint,
        validation_fraction=0.0,
        sources=["a.jsonl"],
        splits={
            "train": Split(num_documents=3, num_tokens=num_tokens, shards=[shard]),
            "validation": Split(num_documents=0, num_tokens=0, shards=[]),
        },
    )
    assert sorted(files_of(tmp_path / "wiki")) == [
        "manifest.json",
        "train/index.json",
        "train/shard.00000.mds",
        "validation/index.json",
    ]


class WideProcessor:
    """A processor of more pieces than uint16 counts: one per character, from 70,000 on."""

    def vocab_size(self) -> int:
        return 70_000 + 128

    def eos_id(self) -> int:
        return 65_536

    def encode(self, documents: list[str], num_threads: int) -> list[list[int]]:
        return [[70_000 + ord(character) for character in document] for document in documents]


def test_a_large_vocabulary_is_written_in_four_bytes(tmp_path: Path) -> None:
    source = write_source(tmp_path / "a.jsonl", ["ab", "c"])
    wide = Tokenizer(tmp_path / "wide.model", "f" * 16, WideProcessor())
    manifest = write(tmp_path / "wiki", [source], wide, row_length=3, validation_fraction=0.0)
    assert (manifest.dtype, manifest.vocab_size) == ("uint32", 70_128)
    tokens = tokens_of(tmp_path / "wiki", manifest, "train")
    assert tokens.tolist() == [[70_097, 70_098, 65_536], [70_099, 65_536, 65_536]]


def test_writing_twice_gives_the_same_bytes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = write_source(tmp_path / "a.jsonl", DOCUMENTS)
    for name, num_threads in [("first", 1), ("again", 3)]:
        write_domain(
            [source],
            folder=tmp_path / name / "wiki",
            tokenizer=tokenizer,
            row_length=ROW_LENGTH,
            validation_fraction=0.3,
            shard_bytes=2000,
            num_threads=num_threads,
        )
    first = files_of(tmp_path / "first")
    assert len(first) > 10
    assert first == files_of(tmp_path / "again")


@pytest.mark.parametrize(
    "edit",
    [
        lambda documents: [*documents[:-1], documents[-1] + "."],
        lambda documents: [documents[0].upper(), *documents[1:]],
        lambda documents: [documents[1], documents[0], *documents[2:]],
        lambda documents: documents[:-1],
    ],
)
def test_other_rows_have_another_fingerprint(
    tmp_path: Path, tokenizer: Tokenizer, edit: Callable[[list[str]], list[str]]
) -> None:
    source = write_source(tmp_path / "a.jsonl", DOCUMENTS)
    before = write(tmp_path / "1" / "wiki", [source], tokenizer, validation_fraction=0.0)
    again = write(tmp_path / "2" / "wiki", [source], tokenizer, validation_fraction=0.0)
    write_source(source, edit(DOCUMENTS))
    after = write(tmp_path / "3" / "wiki", [source], tokenizer, validation_fraction=0.0)
    assert before.fingerprint == again.fingerprint != after.fingerprint


def test_the_split_of_a_document_is_the_same_today_as_when_it_was_written_down() -> None:
    splits = [split_of(f"document {n}", validation_fraction=0.5)[0] for n in range(24)]
    assert "".join(splits) == "vtvvvvvttttvttvvvvvvvttt"
    num_validation = sum(
        split_of(f"document {n}", validation_fraction=0.05) == "validation" for n in range(10_000)
    )
    assert num_validation == 492


@given(st.text(), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_a_larger_fraction_only_adds_to_validation(text: str, one: float, other: float) -> None:
    document = text.encode("utf-8", "replace").decode()
    smaller, larger = sorted((one, other))
    if split_of(document, validation_fraction=smaller) == "validation":
        assert split_of(document, validation_fraction=larger) == "validation"
    assert split_of(document, validation_fraction=0.0) == "train"


def test_adding_files_moves_no_document(tmp_path: Path, tokenizer: Tokenizer) -> None:
    old = write_source(tmp_path / "b.jsonl", DOCUMENTS)
    earlier = write_source(tmp_path / "a.jsonl", [f"earlier {n}" for n in range(30)])
    later = write_source(tmp_path / "c.jsonl", [f"later {n}" for n in range(30)])
    write(tmp_path / "before", [old], tokenizer)
    write(tmp_path / "after", [earlier, old, later], tokenizer)
    for split in SPLITS:
        before = documents_of(tmp_path / "before", tokenizer, split)
        after = documents_of(tmp_path / "after", tokenizer, split)
        assert [text for text in after if text in DOCUMENTS] == before
        assert len(after) > len(before) > 0


def refusal_of(folder: Path, sources: list[Path], tokenizer: Tokenizer, **settings: Any) -> str:
    with pytest.raises(InputError) as refusal:
        write(folder, sources, tokenizer, **settings)
    return str(refusal.value)


def test_a_folder_that_exists_is_refused_and_left_alone(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    source = write_source(tmp_path / "a.jsonl", DOCUMENTS)
    folder, file = tmp_path / "wiki", tmp_path / "file"
    folder.mkdir()
    (folder / "mine").write_bytes(b"1")
    file.write_bytes(b"2")
    for path in (folder, file):
        message = f"{path} exists already; remove it or write to another folder"
        assert refusal_of(path, [source], tokenizer) == message
    assert files_of(folder) == {"mine": b"1"}
    assert file.read_bytes() == b"2"
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "file", "wiki"]


def test_a_source_that_fails_leaves_no_folder_and_a_rerun_succeeds(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    good = write_source(tmp_path / "a.jsonl", DOCUMENTS)
    bad = tmp_path / "b.jsonl"
    bad.write_bytes(b'{"text": "fine"}\n{"text": "b"\n')
    refusal = refusal_of(tmp_path / "wiki", [good, bad], tokenizer, shard_bytes=1000)
    assert refusal.startswith(f"{bad}:2 cannot be read as JSON: ")
    assert not (tmp_path / "wiki").exists()

    bad.write_bytes(b'{"text": "fine"}\n{"text": "b"}\n')
    write(tmp_path / "wiki", [good, bad], tokenizer, shard_bytes=9000)
    write(tmp_path / "fresh" / "wiki", [good, bad], tokenizer, shard_bytes=9000)
    assert files_of(tmp_path / "wiki") == files_of(tmp_path / "fresh" / "wiki")
    assert not (tmp_path / "wiki.partial").exists()


def test_what_another_run_left_is_cleared_away(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = write_source(tmp_path / "a.jsonl", DOCUMENTS)
    left = tmp_path / "wiki.partial" / "train"
    left.mkdir(parents=True)
    (left / "shard.00099.mds").write_bytes(b"old")
    write(tmp_path / "wiki", [source], tokenizer)
    assert not left.parent.exists()
    write(tmp_path / "fresh" / "wiki", [source], tokenizer)
    assert files_of(tmp_path / "wiki") == files_of(tmp_path / "fresh" / "wiki")


def test_the_folder_gets_its_name_after_its_manifest(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(manifest: DomainManifest, folder: Path) -> None:
        assert sorted(os.listdir(folder / "train")) == ["index.json", "shard.00000.mds"]
        raise OSError(28, "No space left on device")

    source = write_source(tmp_path / "a.jsonl", DOCUMENTS)
    with monkeypatch.context() as patch:
        patch.setattr(write_module, "save_manifest", failing)
        with pytest.raises(OSError, match="No space"):
            write(tmp_path / "wiki", [source], tokenizer)
    assert not (tmp_path / "wiki").exists()
    manifest = write(tmp_path / "wiki", [source], tokenizer)
    assert load_manifest(tmp_path / "wiki") == manifest


@pytest.mark.parametrize(
    "documents, validation_fraction", [(DOCUMENTS, 1 - 1e-12), ([], 0.05), (["", ""], 0.0)]
)
def test_no_document_to_train_on_is_refused(
    tmp_path: Path, tokenizer: Tokenizer, documents: list[str], validation_fraction: float
) -> None:
    sources = [write_source(tmp_path / name, documents) for name in ("a.jsonl", "b.jsonl")]
    refusal = refusal_of(
        tmp_path / "wiki", sources, tokenizer, validation_fraction=validation_fraction
    )
    assert refusal == "domain wiki: no document for training in 2 files"
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    "setting, allowed",
    [
        ({"row_length": 1}, "row_length is 1; it must be at least 2"),
        ({"row_length": -4}, "row_length is -4; it must be at least 2"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0; it must be in [0, 1)"),
        ({"validation_fraction": -0.1}, "validation_fraction is -0.1; it must be in [0, 1)"),
        (
            {"validation_fraction": float("nan")},
            "validation_fraction is nan; it must be in [0, 1)",
        ),
    ],
)
def test_a_setting_out_of_range_is_refused_before_anything_is_written(
    tmp_path: Path, tokenizer: Tokenizer, setting: dict[str, Any], allowed: str
) -> None:
    source = write_source(tmp_path / "a.jsonl", DOCUMENTS)
    assert refusal_of(tmp_path / "wiki", [source], tokenizer, **setting) == allowed
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_a_row_larger_than_a_shard_may_be_has_a_shard_of_its_own(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    documents = ["the cat sat on the mat " * 200]
    source = write_source(tmp_path / "a.jsonl", documents)
    manifest = write(
        tmp_path / "wiki",
        [source],
        tokenizer,
        row_length=500,
        shard_bytes=10,
        validation_fraction=0.0,
    )
    num_rows = [shard.num_rows for shard in manifest.splits["train"].shards]
    assert num_rows == [1] * len(num_rows) != [1]
    assert documents_of(tmp_path / "wiki", tokenizer, "train") == documents


def test_names_that_are_not_utf_8_make_a_manifest_that_loads(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    source = write_source(tmp_path / os.fsdecode(b"caf\xe9.jsonl"), DOCUMENTS)
    folder = tmp_path / os.fsdecode(b"wiki\xff")
    manifest = write(folder, [source], tokenizer)
    assert (manifest.domain, manifest.sources) == ("wiki\\udcff", ["caf\\udce9.jsonl"])
    assert load_manifest(folder) == manifest
    assert len(load_manifest(folder).fingerprint) == 16


@pytest.mark.parametrize(
    "num_text_bytes, shard_bytes",
    [
        (0, 1 << 20),
        (128 << 20, 1 << 20),
        (256 << 20, 2 << 20),
        (8 << 30, 64 << 20),
        (1 << 40, 64 << 20),
    ],
)
def test_shards_are_sized_by_the_text(num_text_bytes: int, shard_bytes: int) -> None:
    assert shard_bytes_for(num_text_bytes) == shard_bytes


def test_progress_ends_at_the_size_of_the_text(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_source(tmp_path / "a.jsonl", ["the cat " * 1024])
    write(tmp_path / "wiki", [source], tokenizer, validation_fraction=0.0)
    last = capsys.readouterr().err.strip().split("\r")[-1]
    assert last.startswith("shard wiki: 100%|")
    assert "| 8.01k/8.01k [" in last
