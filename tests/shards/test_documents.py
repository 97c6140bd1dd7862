"""Files to documents: every kind of file, and one clear refusal for every kind of damage."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.documents import SUFFIXES, find_sources, read_documents
from shards.errors import InputError

ALLOWED = ".txt, .jsonl, .txt.gz, .jsonl.gz"


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def read(path: Path) -> list[str]:
    return list(read_documents(path))


def test_a_folder_names_its_texts_at_any_depth(tmp_path: Path) -> None:
    names = ["b.txt", "a/c.jsonl", "a/b/d.txt.gz", "e.jsonl.gz"]
    for name in [*names, "notes.md", "a/table.csv", "gz"]:
        write(tmp_path / name, b"")
    assert find_sources([str(tmp_path)]) == [
        tmp_path / "a/b/d.txt.gz",
        tmp_path / "a/c.jsonl",
        tmp_path / "b.txt",
        tmp_path / "e.jsonl.gz",
    ]


def test_patterns_that_overlap_name_each_file_once(tmp_path: Path) -> None:
    for name in ["a1.txt", "a2.txt", "b/a3.txt"]:
        write(tmp_path / name, b"")
    patterns = [f"{tmp_path}/a2.txt", f"{tmp_path}/a*.txt", f"{tmp_path}/**/*.txt"]
    assert find_sources(patterns) == [tmp_path / n for n in ["a1.txt", "a2.txt", "b/a3.txt"]]


def test_a_file_whose_name_looks_like_a_pattern_is_found(tmp_path: Path) -> None:
    odd = write(tmp_path / "part[1]*.txt", b"")
    write(tmp_path / "part1.txt", b"")
    assert find_sources([str(odd)]) == [odd]


@pytest.mark.parametrize("pattern", ["none.txt", "*.txt", "empty"])
def test_a_pattern_without_match_is_refused(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "a.md", b"")
    with pytest.raises(InputError) as refusal:
        find_sources([f"{tmp_path}/{pattern}"])
    assert str(refusal.value) == f"{tmp_path}/{pattern} names no text; allowed are {ALLOWED}"


@pytest.mark.parametrize("name", ["a.md", "a.gz", "a.json", "a.TXT", "txt", "a.txt.zst"])
def test_an_unknown_kind_of_file_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, b"")
    with pytest.raises(InputError) as refusal:
        find_sources([f"{tmp_path}/*"])
    assert str(refusal.value) == f"{path} is of an unknown kind; allowed are {ALLOWED}"


TEXT = " \ttext\r\nof \0 any 中文\rkind 👩‍🔬\ufeff \n"


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.txt", "a.txt.gz"])
def test_a_text_file_is_one_document_to_the_letter(tmp_path: Path, name: str) -> None:
    content = TEXT.encode()
    path = write(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
    assert read(path) == [TEXT]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("is_ascii", [True, False])
def test_a_line_is_one_document_to_the_letter(tmp_path: Path, name: str, is_ascii: bool) -> None:
    records = [{"text": TEXT, "id": 1}, {"text": ""}, {"id": [2], "text": "b\u2028\x85c"}]
    lines = [json.dumps(record, ensure_ascii=is_ascii) for record in records]
    content = ("\n\n".join(lines) + "\r\n  \n").encode()
    path = write(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
    assert read(path) == [TEXT, "b\u2028\x85c"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_file_holds_no_document(tmp_path: Path, suffix: str) -> None:
    assert read(write(tmp_path / f"a{suffix}", b"")) == []
    if suffix.endswith(".gz"):
        assert read(write(tmp_path / f"b{suffix}", gzip.compress(b""))) == []


def test_the_text_field_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "no", "content": "yes"}')
    assert list(read_documents(path, text_field="content")) == ["yes"]


ZIPPED = gzip.compress(b"a text that is long enough to be cut " * 9, mtime=0)
BAD_BYTES = "cannot be read: 'utf-8' codec can't decode byte 0xff in position 2: invalid start byte"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"ab\xff", f" {BAD_BYTES}"),
        ("a.jsonl", b"{}\xff", f" {BAD_BYTES}"),
        ("a.txt.gz", gzip.compress(b"ab\xff"), f" {BAD_BYTES}"),
        (
            "a.txt.gz",
            ZIPPED[:-12],
            " cannot be read: Compressed file ended before the end-of-stream marker was reached",
        ),
        ("a.txt.gz", b"plain", " cannot be read: Not a gzipped file (b'pl')"),
        (
            "a.jsonl.gz",
            ZIPPED[:10] + b"\xff" * 20,
            " cannot be read: Error -3 while decompressing data: invalid block type",
        ),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "b"\n',
            ":2 cannot be read as JSON: Expecting ',' delimiter: line 2 column 1 (char 13)",
        ),
        ("a.jsonl", b'\n\n{"txet": "a"}', ":3 has no text field 'text'"),
        ("a.jsonl", b'{"text": null}', ":1 has no text field 'text'"),
        ("a.jsonl", b'{"text": ["a"]}', ":1 has no text field 'text'"),
        ("a.jsonl", b'["text"]', ":1 has no text field 'text'"),
        ("a.jsonl", b'"text"', ":1 has no text field 'text'"),
        (
            "a.jsonl",
            b'{"text": "ok"}\n{"text": "a\\ud83d"}',
            ":2 is not Unicode text: 'utf-8' codec can't encode character '\\ud83d' in position 1: "
            "surrogates not allowed",
        ),
    ],
)
def test_damage_is_refused_where_it_lies(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(InputError) as refusal:
        read(path)
    assert str(refusal.value) == f"{path}{message}"


@pytest.mark.parametrize(
    "line", [b"[" * 100_000, b'{"n": ' + b"1" * 5000 + b"}", b"\xef\xbb\xbf{}", b"nul", b"{]"]
)
def test_a_line_that_the_json_parser_gives_up_on_is_refused(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "a"}\n' + line)
    with pytest.raises(InputError) as refusal:
        read(path)
    assert str(refusal.value).startswith(f"{path}:2 cannot be read as JSON: ")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        read(tmp_path / "a.txt")
    path = tmp_path / "a.txt"
    reason = f"[Errno 2] No such file or directory: '{path}'"
    assert str(refusal.value) == f"{path} cannot be read: {reason}"


def test_documents_before_the_damage_are_handed_out(tmp_path: Path) -> None:
    documents = read_documents(write(tmp_path / "a.jsonl", b'{"text": "a"}\n{"text": "b"}\nno'))
    assert [next(documents), next(documents)] == ["a", "b"]
    with pytest.raises(InputError, match=r"a\.jsonl:3 "):
        next(documents)


UNICODE = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(UNICODE), st.booleans())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back_from_json_lines(
    tmp_path: Path, documents: list[str], is_ascii: bool
) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=is_ascii) + "\n" for text in documents]
    path = write(tmp_path / "a.jsonl", "".join(lines).encode())
    assert read(path) == [text for text in documents if text]


JSON_BYTES = st.lists(st.sampled_from([b'{"text": "', b'"}', b"\n", b"\\ud800", b"\xff", b"a"]))


@given(st.sampled_from(SUFFIXES), st.binary() | JSON_BYTES.map(b"".join), st.booleans())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_text_or_refused(
    tmp_path: Path, suffix: str, content: bytes, is_zipped: bool
) -> None:
    path = write(tmp_path / f"a{suffix}", gzip.compress(content) if is_zipped else content)
    try:
        documents = read(path)
    except InputError as refusal:
        assert str(refusal).startswith(str(path))
    else:
        assert all(documents)
        "".join(documents).encode()
