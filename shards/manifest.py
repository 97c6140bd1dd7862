"""What lies on disk for one domain, and how to know that it is still the same.

A domain is a folder: `manifest.json` beside one folder per split (`train`, `validation`), each an
MDS dataset that stock mosaicml-streaming reads. The manifest is written last, so a folder without
one is not a domain; it carries a hash per shard, so a shard that changed is noticed before use.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from shards.errors import InputError

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION: Literal[1] = 1

# One path component that starts with a letter or digit: a manifest from elsewhere cannot point
# out of its own folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
SplitName = Literal["train", "validation"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ShardFile(_Record):
    """One MDS file of a split."""

    name: FileName
    num_rows: int = Field(gt=0)
    num_bytes: int = Field(gt=0)
    xxh3_64: str = Field(pattern=r"^[0-9a-f]{16}$")


class Split(_Record):
    """The rows of one split, in the order in which they were written."""

    num_documents: int = Field(ge=0)
    num_tokens: int = Field(ge=0)
    """Tokens of documents and the boundary after each, without the padding of the last row."""
    shards: list[ShardFile]

    @property
    def num_rows(self) -> int:
        return sum(shard.num_rows for shard in self.shards)


class DomainManifest(_Record):
    """One domain's shards, the tokenizer they were made with, and where the text came from."""

    format_version: Literal[1] = FORMAT_VERSION
    domain: str
    row_length: int = Field(gt=1)
    """Tokens per row."""
    dtype: Literal["uint16", "uint32"]
    vocab_size: int = Field(gt=0)
    tokenizer_fingerprint: str
    validation_fraction: float = Field(ge=0, lt=1)
    sources: list[str]
    splits: dict[SplitName, Split]

    @model_validator(mode="after")
    def _has_every_split(self) -> Self:
        if set(self.splits) != {"train", "validation"}:
            raise ValueError("splits must be exactly train and validation")
        return self

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change whenever any row of any split does."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def save_manifest(manifest: DomainManifest, folder: Path) -> None:
    """Writes `folder/manifest.json` so that a reader sees all of it or nothing."""
    temporary = folder / f"{MANIFEST_NAME}.partial"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest.model_dump(), indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / MANIFEST_NAME)


def load_manifest(folder: Path) -> DomainManifest:
    """The manifest of the domain in `folder`.

    Raises:
        InputError: no such folder, no manifest in it, one that does not parse, or a shard that is
            missing or has another size than the manifest says.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        reason = "has no manifest.json" if folder.is_dir() else "does not exist"
        raise InputError(f"shard folder {folder} {reason}; `dga shard` writes such folders")
    try:
        manifest = DomainManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise InputError(f"{path}: {where}: {first['msg']}") from None
    for split_name, split in manifest.splits.items():
        for shard in split.shards:
            _check_size(folder / split_name / shard.name, shard)
    return manifest


def _check_size(path: Path, shard: ShardFile) -> None:
    if not path.is_file():
        raise InputError(f"shard {path} is missing; the manifest beside it lists it")
    num_bytes = path.stat().st_size
    if num_bytes != shard.num_bytes:
        raise InputError(f"shard {path} has {num_bytes} bytes, its manifest says {shard.num_bytes}")
