"""Documents out of text files: a .txt file is one document, a line of a .jsonl file is one."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import IO

from shards.errors import InputError

SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")


def find_sources(patterns: Sequence[str]) -> list[Path]:
    """The files that the glob patterns or folders name, sorted, each once.

    Raises:
        InputError: a pattern that names no file, or a file of an unknown kind.
    """
    found: set[Path] = set()
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = {p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES)}
        elif path.is_file():  # "[" and "*" may stand in a name
            matches = {path}
        else:
            matches = {Path(p) for p in glob(pattern, recursive=True) if Path(p).is_file()}
        if not matches:
            raise InputError(f"{pattern} names no text; allowed are {', '.join(SUFFIXES)}")
        found |= matches
    for path in found:
        if not path.name.endswith(SUFFIXES):
            raise InputError(f"{path} is of an unknown kind; allowed are {', '.join(SUFFIXES)}")
    return sorted(found)


def read_documents(path: Path, *, text_field: str = "text") -> Iterator[str]:
    """The documents of one file in order; empty ones are passed over.

    Raises:
        InputError: bytes that are not UTF-8, a damaged .gz, a line that is not a JSON object, or
            one whose `text_field` is no text.
    """
    try:
        with _open_text(path) as file:
            if path.name.endswith((".jsonl", ".jsonl.gz")):
                for number, line in enumerate(file, start=1):
                    text = _text_of(line, f"{path}:{number}", text_field) if line.strip() else ""
                    if text:
                        yield text
            elif text := file.read():
                yield text
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _text_of(line: str, where: str, text_field: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} cannot be read as JSON: {error}") from None
    text = record.get(text_field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise InputError(f"{where} has no text field {text_field!r}")
    try:
        text.encode()  # JSON can escape half of a surrogate pair, which no tokenizer accepts
    except UnicodeEncodeError as error:
        raise InputError(f"{where} is not Unicode text: {error}") from None
    return text
