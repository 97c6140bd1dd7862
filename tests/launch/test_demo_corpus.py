"""The demo's corpus: built twice from this installation, and once from a small invented one."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from launch import demo_corpus
from launch.demo_corpus import CorpusPart, Roots, build_corpus, cut
from shards.errors import InputError

NAMES = ["code", "tests", "reference", "licences", "docstrings", "tables", "headers", "target"]
MAX_BYTES = 200_000
LONG = "This sentence is here to make the docstring that holds it longer than the limit. " * 3


@dataclass(frozen=True, kw_only=True)
class TwoBuilds:
    folder: Path
    parts: dict[str, CorpusPart]
    again: Path


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> TwoBuilds:
    folder, again = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    parts = build_corpus(folder, max_bytes_per_domain=MAX_BYTES)
    build_corpus(again, max_bytes_per_domain=MAX_BYTES)
    return TwoBuilds(folder=folder, parts=parts, again=again)


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Roots:
    """A small installation in place of the running one: a file or two for every part."""
    lib, headers, packages = tmp_path / "lib", tmp_path / "include", tmp_path / "site-packages"
    write(lib / "a.py", f'"""Module.\n\n    {LONG}"""\ndef f():\n    "short"\n')
    write(lib / "test" / "test_a.py", "assert 1\n")
    write(lib / "encodings" / "table.py", "table = {}\n")
    write(lib / "site-packages" / "other.py", "not the standard library\n")
    write(headers / "a.h", "int a;\n")
    write(packages / "p" / "p.py", f'class P:\n    """P.\n\n    {LONG}\n    """\n')
    write(packages / "p" / "tests" / "test_p.py", f'"""Test. {LONG}"""\n')
    write(packages / "p-1.dist-info" / "licenses" / "LICENSE", "Do as you like.\n")
    write(packages / "p-1.dist-info" / "METADATA", "Name: p\n\nP is a package.\n\nUse it.\n")
    write(packages / "p-1.dist-info" / "RECORD", "p.py,,\n")
    roots = Roots(stdlib=lib, headers=headers, packages=(packages,))
    monkeypatch.setattr(demo_corpus, "find_roots", lambda: roots)
    return roots


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def read(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    assert all(list(record) == ["text"] for record in records)
    return [record["text"] for record in records]


def build_and_read(folder: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, list[str]]:
    parts = build_corpus(folder, max_bytes_per_domain=max_bytes)
    return {name: read(part.path) for name, part in parts.items()}


def test_every_part_is_filled_within_the_limit(builds: TwoBuilds) -> None:
    assert list(builds.parts) == NAMES
    for name, part in builds.parts.items():
        documents = read(part.path)
        assert part.path == builds.folder / f"{name}.jsonl"
        assert part.num_documents == len(documents)
        assert part.num_bytes == sum(len(text.encode()) for text in documents)
        # The next document did not fit, and none is longer than MAX_DOCUMENT_CHARS.
        assert MAX_BYTES - 4 * demo_corpus.MAX_DOCUMENT_CHARS < part.num_bytes <= MAX_BYTES
        assert all(0 < len(text) <= demo_corpus.MAX_DOCUMENT_CHARS for text in documents)


def test_two_builds_are_byte_identical_and_leave_nothing_else(builds: TwoBuilds) -> None:
    for folder in (builds.folder, builds.again):
        assert sorted(os.listdir(folder)) == sorted(f"{name}.jsonl" for name in NAMES)
    for name in NAMES:
        first, second = (folder / f"{name}.jsonl" for folder in (builds.folder, builds.again))
        assert first.read_bytes() == second.read_bytes()


def test_no_document_is_there_twice_and_the_target_is_held_out(builds: TwoBuilds) -> None:
    documents = {name: read(part.path) for name, part in builds.parts.items()}
    for texts in documents.values():
        assert len(set(texts)) == len(texts)
    target = set(documents.pop("target"))
    for texts in documents.values():
        assert target.isdisjoint(texts)


def test_docstrings_are_long_dedented_and_the_tables_are_tables(builds: TwoBuilds) -> None:
    for name in ("docstrings", "target"):
        lengths = [len(text) for text in read(builds.parts[name].path)]
        assert min(lengths) >= demo_corpus.MIN_DOCSTRING_CHARS
        assert len(lengths) >= 100  # many modules', not one module's
    tables = "".join(read(builds.parts["tables"].path))
    assert len(re.findall(r"0x[0-9A-Fa-f]{2}", tables)) > 1_000


def test_an_invented_installation_gives_exactly_its_documents(
    installation: Roots, tmp_path: Path
) -> None:
    documents = build_and_read(tmp_path / "corpus")
    assert len(documents.pop("reference")) >= 10  # imported, so of the running interpreter
    assert {name: sorted(texts) for name, texts in documents.items()} == {
        "code": [f'"""Module.\n\n    {LONG}"""\ndef f():\n    "short"'],
        # CPython's own tests are few here, so the packages' are read as well
        "tests": [f'"""Test. {LONG}"""', "assert 1"],
        "licences": ["Do as you like.", "P is a package.\n\nUse it."],
        "docstrings": [f"Module.\n\n{LONG}"],
        "tables": ["table = {}"],
        "headers": ["int a;"],
        "target": [f"P.\n\n{LONG}"],
    }


def test_an_installation_without_its_own_tests_falls_back_on_the_packages(
    installation: Roots, tmp_path: Path
) -> None:
    (installation.stdlib / "test" / "test_a.py").unlink()
    assert build_and_read(tmp_path / "corpus")["tests"] == [f'"""Test. {LONG}"""']


def test_enough_tests_of_its_own_leave_the_packages_tests_alone(
    installation: Roots, tmp_path: Path
) -> None:
    many = "assert 1\n" * (demo_corpus.ENOUGH_BYTES // 8)
    write(installation.stdlib / "test" / "test_many.py", many)
    tests = build_and_read(tmp_path / "corpus", max_bytes=3_000_000)["tests"]
    assert tests and not any(LONG in text for text in tests)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("tests", "lib/test/test_a.py"),
        ("licences", "site-packages/p-1.dist-info"),
        ("headers", "include/a.h"),
        ("target", "site-packages/p/p.py"),
    ],
)
def test_a_part_without_text_is_named_and_nothing_is_written(
    installation: Roots, tmp_path: Path, name: str, path: str
) -> None:
    (tmp_path / "site-packages/p/tests/test_p.py").unlink()
    (tmp_path / path).rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=rf"no text for {name} .*{installation.stdlib}"):
        build_corpus(tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_the_target_leaves_out_what_a_training_part_holds(
    installation: Roots, tmp_path: Path
) -> None:
    backport = (installation.stdlib / "a.py").read_text(encoding="utf-8")
    write(installation.packages[0] / "backport.py", backport)
    assert build_and_read(tmp_path / "corpus")["target"] == [f"P.\n\n{LONG}"]


def test_the_target_takes_turns_between_packages(installation: Roots, tmp_path: Path) -> None:
    for number in range(400):
        docstring = f"{number}. {LONG}"
        write(installation.packages[0] / "big" / f"m{number}.py", f'"""{docstring}"""')
    target = build_and_read(tmp_path / "corpus", max_bytes=80_000)["target"]
    assert len(target) < 401
    assert f"P.\n\n{LONG}" in target


def test_links_and_files_that_are_no_text_are_passed_over(
    installation: Roots, tmp_path: Path
) -> None:
    before = build_and_read(tmp_path / "before")
    write(tmp_path / "outside" / "secret.py", f'"""Secret. {LONG}"""')
    for root in (installation.stdlib, installation.packages[0]):
        (root / "link.py").symlink_to(tmp_path / "outside" / "secret.py")
        (root / "linked").symlink_to(tmp_path / "outside")
        (root / "latin.py").write_bytes(b"# caf\xe9\n")
        (root / "nul.py").write_bytes(b"# \0\n")
    (installation.packages[0] / "q-1.dist-info").symlink_to(tmp_path / "outside")
    write(tmp_path / "outside" / "LICENSE", "Elsewhere.")
    # Docstrings whose escapes spell what a text file cannot hold, and a module that does not parse.
    write(installation.packages[0] / "odd.py", f'"""\\ud800 {LONG}"""\nclass C:\n "\\0 {LONG}"\n')
    write(installation.packages[0] / "template.py", f'"""{LONG}"""\nclass {{name}}: pass\n')
    assert build_and_read(tmp_path / "after") == before


def test_a_smaller_limit_keeps_a_varied_prefix_of_a_larger_one(
    installation: Roots, tmp_path: Path
) -> None:
    for number in range(40):
        write(installation.stdlib / f"m{number:02}.py", f"# {number:02}\n" * 1_000)
    small = build_and_read(tmp_path / "small", max_bytes=100_000)["code"]
    large = build_and_read(tmp_path / "large", max_bytes=1_000_000)["code"]
    assert len(large) == 41
    assert small == large[: len(small)]
    assert len(small) == 20  # of 4,999 bytes, or 19 and the short a.py
    assert sorted(small) != sorted(large)[: len(small)]


def test_long_documents_are_cut_at_blank_lines_then_lines_then_anywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo_corpus, "MAX_DOCUMENT_CHARS", 10)
    assert list(cut(["\naa\nbb\n\ncc\ndd\n"])) == ["aa\nbb", "cc\ndd"]
    assert list(cut(["aaaa\nbbbb\ncccc"])) == ["aaaa\nbbbb", "cccc"]
    assert list(cut(["a" * 25])) == ["a" * 10, "a" * 10, "a" * 5]
    assert list(cut(["0123456789", "", "\n\n", " \n ", "x"])) == ["0123456789", "x"]


def test_a_limit_that_a_document_could_exceed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_bytes_per_domain is 79999; allowed is 80000"):
        build_corpus(tmp_path / "corpus", max_bytes_per_domain=79_999)


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(
    installation: Roots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "corpus"
    build_corpus(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write(installation.stdlib / "b.py", "b = 1\n")

    def full_disk(source: Path, destination: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        build_corpus(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
