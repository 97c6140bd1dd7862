"""The demo's corpus: real text that CPython and the installed packages carry, no download.

In order: find the roots (standard library, C headers, installed packages); let each part's source
read its documents; cut long ones at blank lines; drop duplicates, and from the held-out target
whatever another part holds too; where a part is over its limit keep documents in the order of a
hash of their text, so that it stays as varied as its source; write one JSON-lines file per part,
a line `{"text": ...}` per document, in that same order.

The same installation gives the same bytes. Modules are parsed for their docstrings, never imported.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import json
import os
import re
import sys
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from shards.errors import InputError
from shards.progress import progress_bar

TARGET = "target"
MAX_DOCUMENT_CHARS = 20_000
MIN_DOCSTRING_CHARS = 200
MIN_BYTES_PER_DOMAIN = 4 * MAX_DOCUMENT_CHARS
"""The longest possible document in UTF-8: a limit below it could leave a part empty."""
ENOUGH_BYTES = 500_000
"""Where CPython's own files of a kind hold less than this, the packages' files are read as well."""

PACKAGE_FOLDERS = frozenset({"site-packages", "dist-packages"})
TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
NOT_CODE_FOLDERS = PACKAGE_FOLDERS | TEST_FOLDERS | {"idlelib", "encodings", "pydoc_data"}
LICENCE_PATTERNS = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "AUTHORS*")

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
# A docstring's escapes can spell both: UTF-8 has no lone surrogates, and C strings end at a NUL.
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class CorpusPart:
    """One written part of the corpus."""

    path: Path
    """The JSON-lines file."""
    num_documents: int
    num_bytes: int
    """UTF-8 bytes of the documents' text, without the JSON around it."""
    description: str


@dataclass(frozen=True, kw_only=True)
class Roots:
    """The folders that the corpus is read from; links inside them are not followed."""

    stdlib: Path
    headers: Path
    packages: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a part is, in words, and the function that reads its documents."""

    description: str
    read: Callable[[Roots], Iterator[str]]


def build_corpus(folder: Path, *, max_bytes_per_domain: int = 3_000_000) -> dict[str, CorpusPart]:
    """Write `<folder>/<name>.jsonl` for every part; return what was written by name, target last.

    No part's text is over `max_bytes_per_domain`, and no document of the target is in another
    part. Nothing is written unless every part has documents.

    Raises:
        InputError: `max_bytes_per_domain` is below MIN_BYTES_PER_DOMAIN, or this installation has
            no documents at all for a part.
    """
    if max_bytes_per_domain < MIN_BYTES_PER_DOMAIN:
        raise InputError(
            f"max_bytes_per_domain is {max_bytes_per_domain}; allowed is {MIN_BYTES_PER_DOMAIN} "
            "or more, so that the longest document fits"
        )
    roots = find_roots()
    kept: dict[str, list[str]] = {}
    training_digests: set[bytes] = set()
    with _paused_gc(), progress_bar(label="corpus", total=len(SOURCES), unit="part") as bar:
        for name, source in SOURCES.items():
            bar.set_postfix_str(name)
            documents = cut(source.read(roots))
            if name == TARGET:
                held_out = (text for text in documents if _digest(text) not in training_digests)
                # Bounded here, in its hashed order: parsing every package would take minutes.
                documents = _within(held_out, max_bytes_per_domain)
            candidates = {_digest(text): text for text in documents}
            if not candidates:
                looked_in = ", ".join(map(str, (roots.stdlib, roots.headers, *roots.packages)))
                raise InputError(f"no text for {name} ({source.description}) in {looked_in}")
            training_digests |= candidates.keys()
            in_order = (text for _, text in sorted(candidates.items()))
            kept[name] = list(_within(in_order, max_bytes_per_domain))
            bar.update()
    folder.mkdir(parents=True, exist_ok=True)
    return {name: _write_part(folder, name, documents) for name, documents in kept.items()}


def find_roots() -> Roots:
    """The running interpreter's folders."""
    packages = {Path(entry).resolve() for entry in sys.path if Path(entry).name in PACKAGE_FOLDERS}
    return Roots(
        stdlib=Path(sysconfig.get_path("stdlib")),
        headers=Path(sysconfig.get_path("include")),
        packages=tuple(sorted(packages)),
    )


@contextmanager
def _paused_gc() -> Iterator[None]:
    # A syntax tree is many objects and no cycle; collections take a quarter of the build's time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_code(roots: Roots) -> Iterator[str]:
    return _read_all(_stdlib_modules(roots))


def _read_tests(roots: Roots) -> Iterator[str]:
    # The python:3.x container images leave every test folder out, Debian's packages most of them.
    return _read_all(_or_in_packages(_test_modules, roots.stdlib, roots))


def _read_reference(roots: Roots) -> Iterator[str]:
    with suppress(ImportError):  # then the part is empty, and build_corpus names it
        from pydoc_data.topics import topics

        yield from topics.values()


def _read_licences(roots: Roots) -> Iterator[str]:
    folders = (path for root in roots.packages for path in sorted(root.glob("*.dist-info")))
    for folder in (path for path in folders if not path.is_symlink()):
        yield from _read_all(path for name in LICENCE_PATTERNS for path in _walk(folder, name))
        for metadata in _read_all(_walk(folder, "METADATA")):
            yield metadata.partition("\n\n")[2]  # the long description follows the header fields


def _read_docstrings(roots: Roots) -> Iterator[str]:
    return _long_docstrings(_stdlib_modules(roots))


def _read_tables(roots: Roots) -> Iterator[str]:
    return _read_all(_walk(roots.stdlib / "encodings", "*.py"))


def _read_headers(roots: Roots) -> Iterator[str]:
    # Where Python's development package is not installed, the folder is not there.
    return _read_all(_or_in_packages(partial(_walk, pattern="*.h"), roots.headers, roots))


def _read_target(roots: Roots) -> Iterator[str]:
    return _long_docstrings(path for root in roots.packages for path in _take_turns(root))


SOURCES: Mapping[str, Source] = {
    "code": Source(description="modules of the standard library", read=_read_code),
    "tests": Source(description="test suites of CPython or packages", read=_read_tests),
    "reference": Source(description="topics of the language reference", read=_read_reference),
    "licences": Source(description="licences and descriptions of packages", read=_read_licences),
    "docstrings": Source(description="docstrings of the standard library", read=_read_docstrings),
    "tables": Source(description="character tables of the codecs", read=_read_tables),
    "headers": Source(description="C headers of CPython or packages", read=_read_headers),
    TARGET: Source(description="docstrings of packages, held out", read=_read_target),
}


def _walk(root: Path, pattern: str, *, skip: frozenset[str] = frozenset()) -> Iterator[Path]:
    """The files whose name matches, sorted; folders named in `skip` and links are passed over."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - skip)
        for name in sorted(names):
            path = Path(folder, name)
            if fnmatch(name, pattern) and not path.is_symlink():
                yield path


def _stdlib_modules(roots: Roots) -> Iterator[Path]:
    return _walk(roots.stdlib, "*.py", skip=NOT_CODE_FOLDERS)


def _test_modules(root: Path) -> Iterator[Path]:
    for path in _walk(root, "*.py", skip=PACKAGE_FOLDERS):
        if not TEST_FOLDERS.isdisjoint(path.relative_to(root).parts[:-1]):
            yield path


def _or_in_packages(
    find: Callable[[Path], Iterator[Path]], own_root: Path, roots: Roots
) -> list[Path]:
    """What `find` finds in CPython's own root; if less than ENOUGH_BYTES, in the packages too."""
    paths = list(find(own_root))
    if sum(path.stat().st_size for path in paths) < ENOUGH_BYTES:
        paths += (path for root in roots.packages for path in find(root))
    return paths


def _take_turns(root: Path) -> list[Path]:
    """The packages' modules outside their tests: one of every package, then a second, and so on.

    A package's modules are in the order of a hash, so a prefix of the list shows all its corners.
    """
    packages: defaultdict[str, list[tuple[bytes, Path]]] = defaultdict(list)
    for path in _walk(root, "*.py", skip=TEST_FOLDERS):
        relative = path.relative_to(root)
        packages[relative.parts[0]].append((_digest(relative.as_posix()), path))
    turns = [turn for modules in packages.values() for turn in enumerate(sorted(modules))]
    return [path for _, (_, path) in sorted(turns)]


def _read_all(paths: Iterable[Path]) -> Iterator[str]:
    """The text of every file that can be read as UTF-8."""
    for path in paths:
        with suppress(OSError, UnicodeDecodeError):
            yield path.read_text(encoding="utf-8-sig")


def _long_docstrings(paths: Iterable[Path]) -> Iterator[str]:
    """The dedented docstrings of at least MIN_DOCSTRING_CHARS in the modules that parse."""
    for module in _read_all(paths):
        for definition in _definitions(module):
            docstring = ast.get_docstring(definition)
            if docstring is not None and len(docstring) >= MIN_DOCSTRING_CHARS:
                yield docstring


def _definitions(module: str) -> Iterator[_Documented]:
    """Everything in the module's source that can have a docstring, itself first.

    Only statements are visited: ast.walk would look into every expression, at six times the cost.
    """
    todo: list[ast.AST] = []
    # Templates, NUL bytes and generated nesting do not parse; invalid escapes only warn.
    with suppress(SyntaxError, ValueError, RecursionError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        todo.append(ast.parse(module))
    while todo:
        node = todo.pop()
        if isinstance(node, _Documented):
            yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            todo += getattr(node, field, ())


def cut(documents: Iterable[str]) -> Iterator[str]:
    """The documents in pieces of at most MAX_DOCUMENT_CHARS.

    A piece ends at the last blank line that fits, else at the last line that fits, else anywhere.
    """
    for document in documents:
        rest = document.strip("\n")
        while rest:
            end = len(rest)
            if end > MAX_DOCUMENT_CHARS:
                ends = (rest.rfind(mark, 0, MAX_DOCUMENT_CHARS) for mark in ("\n\n", "\n"))
                end = next((found for found in ends if found > 0), MAX_DOCUMENT_CHARS)
            piece, rest = rest[:end], rest[end:].strip("\n")
            if not piece.isspace() and not _NOT_TEXT.search(piece):
                yield piece


def _within(documents: Iterable[str], max_bytes: int) -> Iterator[str]:
    """The first documents, as many as fit."""
    num_bytes = 0
    for text in documents:
        num_bytes += len(text.encode())
        if num_bytes > max_bytes:
            return
        yield text


def _digest(text: str) -> bytes:
    # surrogateescape: a path may hold bytes that are no UTF-8.
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _write_part(folder: Path, name: str, documents: list[str]) -> CorpusPart:
    path = folder / f"{name}.jsonl"
    temporary = folder / f".{name}.jsonl.{os.getpid()}.tmp"  # two builders must not share one
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(
                json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return CorpusPart(
        path=path,
        num_documents=len(documents),
        num_bytes=sum(len(text.encode()) for text in documents),
        description=SOURCES[name].description,
    )
