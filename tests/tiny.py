"""A corpus, shards and a config small enough for a test and real enough for a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shards.tokenizer import Tokenizer, train_tokenizer
from shards.write import write_domain
from toolkit.config import RunConfig
from toolkit.config_file import parse_config
from toolkit.integers import derive_key

ROW_LENGTH = 16
DOMAINS = ("fruit", "tools", "birds")
WORDS = {
    "fruit": "apple pear plum cherry quince medlar grape fig melon currant".split(),
    "tools": "hammer chisel plane file rasp clamp drill vice saw awl".split(),
    "birds": "wren robin finch heron crane swift rook jay owl stork".split(),
    "target": "apple pear saw file plum cherry rasp grape".split(),
}


def text_of(domain: str, *, num_documents: int) -> list[str]:
    """Documents of random words of one domain, the same every time."""
    words = WORDS[domain]
    return [
        " ".join(words[derive_key(domain, d, w) % len(words)] for w in range(5 + d % 20)) + "."
        for d in range(num_documents)
    ]


def write_tiny_shards(folder: Path, *, num_documents: int = 400) -> Tokenizer:
    """Writes `folder`/tokenizer.model and a shard folder per domain and for the target."""
    texts = {domain: text_of(domain, num_documents=num_documents) for domain in WORDS}
    tokenizer = train_tokenizer(
        (document for documents in texts.values() for document in documents),
        path=folder / "tokenizer.model",
        vocab_size=300,
    )
    for domain, documents in texts.items():
        source = folder / f"{domain}.jsonl"
        lines = (f'{{"text": "{document}"}}\n' for document in documents)
        source.write_text("".join(lines), encoding="utf-8")
        write_domain(
            [source],
            folder=folder / domain,
            tokenizer=tokenizer,
            row_length=ROW_LENGTH,
            validation_fraction=0.1,
            shard_bytes=2048,
            num_threads=1,
        )
    return tokenizer


def tiny_tree(data: Path, run_folder: Path, /, **sections: dict[str, Any]) -> dict[str, Any]:
    """A config tree over tiny shards; keyword arguments are merged into its sections."""
    tree: dict[str, Any] = {
        "run": {"folder": str(run_folder), "num_steps": 12, "num_ranks": 2, "seed": 3},
        "data": {
            "tokenizer": str(data / "tokenizer.model"),
            "target": str(data / "target"),
            "shards_per_window": 2,
        },
        "domains": {name: {"path": str(data / name)} for name in DOMAINS},
        "model": {"hidden_size": 32, "num_layers": 2, "num_heads": 2},
        "batch": {"global_batch_size": 8, "micro_batch_size": 2},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
        "engine": {"zero_stage": 2},
        "mixture": {"every_steps": 3},
        "probe": {"rows_per_domain": 8, "target_rows": 8},
        "evaluation": {"every_steps": 6, "num_rows": 8},
        "checkpoint": {"every_steps": 100},
        "tracking": {"every_steps": 1, "wandb": "off"},
    }
    for name, section in sections.items():
        tree[name] |= section
    return tree


def tiny_config(data: Path, run_folder: Path, /, **sections: dict[str, Any]) -> RunConfig:
    """The config of `tiny_tree`."""
    return parse_config(tiny_tree(data, run_folder, **sections), where="test")
