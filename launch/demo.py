"""`dga demo`: the whole path from text to a steered run, on text that is already on this machine.

Corpus, tokenizer, shards; one run with DGA; the same run with fixed uniform weights; then where the
weights went, and both runs' loss on the target. What exists is reused, so it is safe to run again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launch.demo_corpus import TARGET, build_corpus
from launch.exit_codes import OK
from launch.training import show_run, train_here
from shards.documents import read_documents
from shards.manifest import MANIFEST_NAME
from shards.tokenizer import load_tokenizer, train_tokenizer
from shards.write import write_domain
from toolkit.config import RunConfig
from toolkit.config_file import load_config

VOCAB_SIZE = 2048
ROW_LENGTH = 64


def run_demo(folder: Path, *, overrides: Sequence[str] = ()) -> int:
    """Prepares the data under `folder`, trains both runs there, and shows the comparison.

    Args:
        overrides: `section.key=value`, for both runs.
    """
    configs = [demo_config(folder, mixer=mixer, overrides=overrides) for mixer in ("dga", "fixed")]
    started = time.monotonic()
    _say("1/3 text, tokenizer and shards of the Python installation")
    prepare_shards(folder, names=[*configs[0].domains, TARGET])
    for config, what in zip(
        configs, ("2/3 train, steered by DGA", "3/3 train, fixed weights"), strict=True
    ):
        _say(f"{what}: {config.run.num_steps} steps on {config.run.num_ranks} ranks")
        code = train_here(config, is_quiet=True)
        if code != OK:
            return code
    _say(f"done after {time.monotonic() - started:.0f} s")
    dga, fixed = (config.run.folder for config in configs)
    show_run(dga, baseline=fixed, picture=folder / "mixture.png")
    return OK


def prepare_shards(folder: Path, *, names: Sequence[str]) -> None:
    """Text, tokenizer and one shard folder per name under `folder`, unless they exist."""
    shard_folders = {name: folder / "shards" / name for name in names}
    if all((path / MANIFEST_NAME).exists() for path in shard_folders.values()):
        return
    parts = build_corpus(folder / "text")
    model = folder / "tokenizer.model"
    if model.exists():
        tokenizer = load_tokenizer(model)
    else:
        _say(f"train a tokenizer of {VOCAB_SIZE} pieces")
        documents = (text for part in parts.values() for text in read_documents(part.path))
        tokenizer = train_tokenizer(documents, path=model, vocab_size=VOCAB_SIZE)
    for name, path in shard_folders.items():
        if not (path / MANIFEST_NAME).exists():
            write_domain(
                [parts[name].path], folder=path, tokenizer=tokenizer, row_length=ROW_LENGTH
            )


def demo_config(folder: Path, *, mixer: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The demo's config with its paths under `folder`, one run folder per mixer."""
    path = Path(__file__).parents[1] / "configs" / "demo.toml"
    config = load_config(path)
    paths = {name: folder / "shards" / name for name in config.domains}
    return load_config(
        path,
        [
            f"run.folder={folder / mixer}",
            f"mixture.mixer={mixer}",
            f"data.tokenizer={folder / 'tokenizer.model'}",
            f"data.target={folder / 'shards' / TARGET}",
            *(f"domains.{name}.path={path}" for name, path in paths.items()),
            *(["run.num_ranks=1"] if _num_cuda_devices() == 1 else []),
            *overrides,
        ],
    )


def _num_cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
