"""The command line `dga`. Heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.environment import rank_label
from launch.exit_codes import BAD_INPUT, KILLED_BY_USER, OK
from shards.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code (`launch.exit_codes`)."""
    parsed = parse(arguments)
    try:
        return _run(parsed)
    except InputError as error:
        problem = str(error)
    except OSError as error:
        # Paths on the command line are the user's to mend; what breaks while training needs a
        # traceback.
        if parsed.command not in ("tokenizer", "shard", "explain") or error.filename is None:
            raise
        problem = f"{error.filename}: {error.strerror}"
    except KeyboardInterrupt:
        print(f"\ndga {parsed.command}: interrupted", file=sys.stderr)
        return KILLED_BY_USER
    print(f"dga {parsed.command}: {rank_label(os.environ)}{problem}", file=sys.stderr)
    return BAD_INPUT


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line as `build_parser` describes it, overrides also after options."""
    parser = build_parser()
    parsed, rest = parser.parse_known_args(arguments)
    # argparse takes optional positionals only where the first of them stands.
    if parsed.command == "train" and not any(text.startswith("-") for text in rest):
        parsed.overrides += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return parsed


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dga", description="Pretraining that steers its own data mixture."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train on text of this machine, with and without DGA")
    demo.add_argument("--folder", type=Path, default=Path("runs/demo"), help="default: %(default)s")
    demo.add_argument("overrides", nargs="*", metavar="section.key=value", help="for both runs")

    tokenizer = commands.add_parser("tokenizer", help="train a SentencePiece model on text")
    tokenizer.add_argument("sources", nargs="+", metavar="TEXT", help="files, globs or folders")
    tokenizer.add_argument("--out", required=True, type=Path, metavar="MODEL")
    tokenizer.add_argument("--vocab-size", type=int, default=16384, help="default: %(default)s")
    tokenizer.add_argument("--text-field", default="text", help="of .jsonl; default: %(default)s")

    shard = commands.add_parser("shard", help="turn the text of one domain into token shards")
    shard.add_argument("sources", nargs="+", metavar="TEXT", help="files, globs or folders")
    shard.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    shard.add_argument("--tokenizer", required=True, type=Path, metavar="MODEL")
    shard.add_argument("--row-length", type=int, default=1024, help="tokens; default: %(default)s")
    shard.add_argument(
        "--validation-fraction", type=float, default=0.05, help="default: %(default)s"
    )
    shard.add_argument("--text-field", default="text", help="of .jsonl; default: %(default)s")

    train = commands.add_parser("train", help="train, or continue a run that exists")
    train.add_argument("config", type=Path, metavar="CONFIG")
    train.add_argument("overrides", nargs="*", metavar="section.key=value")
    train.add_argument("--check", action="store_true", help="validate config and data, then leave")

    explain = commands.add_parser("explain", help="say where a run's weights went, and why")
    explain.add_argument("run", type=Path, metavar="RUN")
    explain.add_argument("--baseline", type=Path, metavar="RUN", help="another run to compare with")
    explain.add_argument("--picture", type=Path, metavar="PNG", help="default: RUN/mixture.png")
    return parser


def _run(parsed: argparse.Namespace) -> int:
    match parsed.command:
        case "demo":
            return _demo(parsed)
        case "tokenizer":
            return _tokenizer(parsed)
        case "shard":
            return _shard(parsed)
        case "train":
            return _train(parsed)
        case "explain":
            return _explain(parsed)
    raise AssertionError(f"no such command: {parsed.command}")


def _demo(parsed: argparse.Namespace) -> int:
    from launch.demo import run_demo

    return run_demo(parsed.folder, overrides=parsed.overrides)


def _tokenizer(parsed: argparse.Namespace) -> int:
    from shards.documents import find_sources, read_documents
    from shards.tokenizer import train_tokenizer

    sources = find_sources(parsed.sources)
    documents = (
        document
        for path in sources
        for document in read_documents(path, text_field=parsed.text_field)
    )
    tokenizer = train_tokenizer(documents, path=parsed.out, vocab_size=parsed.vocab_size)
    print(f"{parsed.out}: {tokenizer.vocab_size} pieces, fingerprint {tokenizer.fingerprint}")
    return OK


def _shard(parsed: argparse.Namespace) -> int:
    from shards.documents import find_sources
    from shards.tokenizer import load_tokenizer
    from shards.write import write_domain

    manifest = write_domain(
        find_sources(parsed.sources),
        folder=parsed.out,
        tokenizer=load_tokenizer(parsed.tokenizer),
        row_length=parsed.row_length,
        validation_fraction=parsed.validation_fraction,
        text_field=parsed.text_field,
    )
    for name, split in manifest.splits.items():
        print(
            f"{parsed.out}/{name}: {split.num_documents} documents, {split.num_tokens} tokens, "
            f"{split.num_rows} rows in {len(split.shards)} shards"
        )
    return OK


def _train(parsed: argparse.Namespace) -> int:
    from launch.training import check, train_here
    from toolkit.config_file import load_config

    config = load_config(parsed.config, parsed.overrides)
    if parsed.check:
        return check(config)
    return train_here(config)


def _explain(parsed: argparse.Namespace) -> int:
    from launch.training import show_run

    show_run(parsed.run, baseline=parsed.baseline, picture=parsed.picture)
    return OK


if __name__ == "__main__":
    sys.exit(main())
