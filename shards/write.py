"""Text to shards for one domain.

Sources are read in order; each document goes to `train` or `validation` by a hash of its own text,
so adding files moves no document; its tokens are packed into rows and written as MDS; the manifest
comes last, in a folder that gets its name only when everything in it is on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from shards.documents import read_documents
from shards.errors import InputError
from shards.manifest import DomainManifest, ShardFile, Split, SplitName, save_manifest
from shards.mds import mds_writer
from shards.pack import RowPacker, smallest_dtype
from shards.progress import progress_bar
from shards.tokenizer import Tokenizer

MIN_SHARD_BYTES = 1 << 20
MAX_SHARD_BYTES = 64 << 20
SHARDS_PER_DOMAIN = 64
DOCUMENTS_PER_BATCH = 256
SPLITS: tuple[SplitName, ...] = ("train", "validation")


def shard_bytes_for(num_text_bytes: int) -> int:
    """A shard size for about 64 shards of 1 to 64 MB a domain, at four text bytes a token."""
    return min(max(num_text_bytes // 2 // SHARDS_PER_DOMAIN, MIN_SHARD_BYTES), MAX_SHARD_BYTES)


def split_of(document: str, *, validation_fraction: float) -> SplitName:
    """The split of a document, a function of its text alone."""
    digest = hashlib.blake2b(document.encode(), digest_size=8).digest()
    is_validation = int.from_bytes(digest, "little") < validation_fraction * 2.0**64
    return "validation" if is_validation else "train"


def write_domain(
    sources: Sequence[Path],
    *,
    folder: Path,
    tokenizer: Tokenizer,
    row_length: int,
    validation_fraction: float = 0.05,
    text_field: str = "text",
    shard_bytes: int | None = None,
    num_threads: int | None = None,
) -> DomainManifest:
    """Writes the domain `folder.name` from `sources` and returns its manifest.

    Args:
        row_length: tokens per row, at least 2.
        validation_fraction: share of the documents held out, in [0, 1).
        shard_bytes: size limit of one shard; by default from the size of the sources.

    Raises:
        InputError: an argument out of range, a folder that exists already, a source that cannot be
            read, or no document to train on.
    """
    if row_length < 2:
        raise InputError(f"row_length is {row_length}; it must be at least 2")
    if not 0 <= validation_fraction < 1:
        raise InputError(f"validation_fraction is {validation_fraction}; it must be in [0, 1)")
    if folder.exists():
        raise InputError(f"{folder} exists already; remove it or write to another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    num_text_bytes = sum(path.stat().st_size for path in sources)
    documents = _documents_with_progress(sources, folder.name, num_text_bytes, text_field)
    splits = _write_splits(
        _encoded(documents, tokenizer, num_threads or os.cpu_count() or 1, validation_fraction),
        folder=partial,
        tokenizer=tokenizer,
        row_length=row_length,
        shard_bytes=shard_bytes or shard_bytes_for(num_text_bytes),
    )
    if splits["train"].num_rows == 0:
        shutil.rmtree(partial)
        raise InputError(f"domain {folder.name}: no document for training in {len(sources)} files")
    manifest = DomainManifest(
        domain=_as_text(folder),
        row_length=row_length,
        dtype="uint16" if smallest_dtype(tokenizer.vocab_size) == "uint16" else "uint32",
        vocab_size=tokenizer.vocab_size,
        tokenizer_fingerprint=tokenizer.fingerprint,
        validation_fraction=validation_fraction,
        sources=[_as_text(path) for path in sources],
        splits=splits,
    )
    save_manifest(manifest, partial)
    os.replace(partial, folder)
    return manifest


def _as_text(path: Path) -> str:
    """The name of a file, which need not be UTF-8, as text that a manifest can hold."""
    return path.name.encode(errors="backslashreplace").decode()


def _documents_with_progress(
    sources: Sequence[Path], label: str, num_text_bytes: int, text_field: str
) -> Iterator[str]:
    with progress_bar(label=f"shard {label}", total=num_text_bytes, unit="B") as bar:
        for path in sources:
            for document in read_documents(path, text_field=text_field):
                yield document
                bar.update(min(len(document), bar.total - bar.n))
        bar.update(bar.total - bar.n)


def _encoded(
    documents: Iterator[str], tokenizer: Tokenizer, num_threads: int, validation_fraction: float
) -> Iterator[tuple[SplitName, list[int]]]:
    while batch := list(islice(documents, DOCUMENTS_PER_BATCH)):
        encoded = tokenizer.encode_documents(batch, num_threads=num_threads)
        for document, tokens in zip(batch, encoded, strict=True):
            yield split_of(document, validation_fraction=validation_fraction), tokens


def _write_splits(
    encoded: Iterable[tuple[SplitName, list[int]]],
    *,
    folder: Path,
    tokenizer: Tokenizer,
    row_length: int,
    shard_bytes: int,
) -> dict[SplitName, Split]:
    dtype = smallest_dtype(tokenizer.vocab_size)
    packers = {
        name: RowPacker(row_length=row_length, boundary_id=tokenizer.boundary_id, dtype=dtype)
        for name in SPLITS
    }
    writers = {
        name: mds_writer(
            folder=str(folder / name),
            column="tokens",
            encoding=f"ndarray:{dtype}:{row_length}",
            shard_bytes=shard_bytes,
        )
        for name in SPLITS
    }
    for name, tokens in encoded:
        for row in packers[name].add(tokens):
            writers[name].write({"tokens": row})
    for name in SPLITS:
        for row in packers[name].finish():
            writers[name].write({"tokens": row})
        writers[name].finish()
    return {name: _split_record(folder / name, packers[name]) for name in SPLITS}


def _split_record(folder: Path, packer: RowPacker) -> Split:
    """The manifest's record of a finished MDS folder."""
    return Split(
        num_documents=packer.num_documents,
        num_tokens=packer.num_tokens,
        shards=shard_files(folder),
    )


def shard_files(folder: Path) -> list[ShardFile]:
    """The shards that the index of an MDS folder with hashes lists."""
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    return [
        ShardFile(
            name=shard["raw_data"]["basename"],
            num_rows=shard["samples"],
            num_bytes=shard["raw_data"]["bytes"],
            xxh3_64=shard["raw_data"]["hashes"]["xxh3_64"],
        )
        for shard in index["shards"]
    ]
