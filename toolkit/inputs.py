"""The data that a config names, opened and checked before any process is spawned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shards.errors import InputError
from shards.manifest import DomainManifest, SplitName, load_manifest
from shards.read import SplitRows
from shards.tokenizer import load_tokenizer
from toolkit.config import RunConfig

TARGET = "data.target"
"""What the target is called beside the domains; no domain can have this name."""


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """Manifests of the mixture's domains in the config's order, and of the target."""

    domains: tuple[DomainManifest, ...]
    target: DomainManifest
    domain_folders: tuple[Path, ...]
    target_folder: Path

    @property
    def row_length(self) -> int:
        return self.target.row_length

    @property
    def vocab_size(self) -> int:
        return self.target.vocab_size

    def domain_splits(self, split: SplitName) -> list[SplitRows]:
        """One split of every domain."""
        pairs = zip(self.domain_folders, self.domains, strict=True)
        return [SplitRows.of(folder, manifest, split) for folder, manifest in pairs]

    def target_split(self, split: SplitName) -> SplitRows:
        """One split of the target."""
        return SplitRows.of(self.target_folder, self.target, split)

    def fingerprints(self, config: RunConfig) -> dict[str, str]:
        """What must be unchanged when the run is continued."""
        named = dict(zip(config.domains, self.domains, strict=True)) | {TARGET: self.target}
        return {name: manifest.fingerprint for name, manifest in named.items()}


def load_inputs(config: RunConfig) -> RunInputs:
    """Opens the tokenizer and all manifests.

    Raises:
        InputError: every problem found, one per line: a missing folder or shard, shards made with
            another tokenizer or another row length, a split with too few rows for what it is used
            for.
    """
    problems: list[str] = []
    manifests: dict[str, DomainManifest] = {}
    folders = {name: section.path for name, section in config.domains.items()}
    folders[TARGET] = config.data.target
    for name, folder in folders.items():
        try:
            manifests[name] = load_manifest(folder)
        except InputError as error:
            problems.append(f"{name}: {error}")
    problems += _tokenizer_problems(config, manifests)
    if not problems:
        problems += _row_problems(config, manifests)
    if problems:
        raise InputError.listing(problems, where="with the data")
    *domains, target = manifests.values()
    *domain_folders, target_folder = folders.values()
    return RunInputs(
        domains=tuple(domains),
        target=target,
        domain_folders=tuple(domain_folders),
        target_folder=target_folder,
    )


def _tokenizer_problems(config: RunConfig, manifests: dict[str, DomainManifest]) -> list[str]:
    try:
        tokenizer = load_tokenizer(config.data.tokenizer)
    except InputError as error:
        return [f"data.tokenizer: {error}"]
    return [
        f"{name}: its shards were made with tokenizer {manifest.tokenizer_fingerprint}, "
        f"{config.data.tokenizer} is {tokenizer.fingerprint}"
        for name, manifest in manifests.items()
        if manifest.tokenizer_fingerprint != tokenizer.fingerprint
    ]


def _row_problems(config: RunConfig, manifests: dict[str, DomainManifest]) -> list[str]:
    problems = []
    *_, target = manifests.values()
    for name, manifest in manifests.items():
        if manifest.row_length != target.row_length:
            problems.append(
                f"{name}: rows of {manifest.row_length} tokens, the target's have "
                f"{target.row_length}; all must be equal"
            )
        if not manifest.splits["validation"].num_rows:
            problems.append(
                f"{name}: no validation rows; a larger --validation-fraction gives some"
            )
    if config.mixture.mixer == "fixed":
        return problems
    target_rows = target.splits["train"].num_rows
    if target_rows < config.probe.target_rows:
        problems.append(
            f"data.target: {config.data.target} has {target_rows} training rows, fewer than one "
            f"probe of probe.target_rows = {config.probe.target_rows}"
        )
    for name in config.domains:
        num_rows = manifests[name].splits[config.probe.rows].num_rows
        if num_rows < config.probe.rows_per_domain:
            problems.append(
                f"{name}: has {num_rows} {config.probe.rows} rows, fewer than one probe of "
                f"probe.rows_per_domain = {config.probe.rows_per_domain}"
            )
    return problems
