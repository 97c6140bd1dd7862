"""The command line: what it says about itself, what it prints, and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import ROOT, write_config
from tiny import tiny_tree

from launch.cli import main
from toolkit.config_file import load_config

HELP = """\
usage: dga [-h] COMMAND ...

Pretraining that steers its own data mixture.

positional arguments:
  COMMAND
    demo      train on text of this machine, with and without DGA
    tokenizer
              train a SentencePiece model on text
    shard     turn the text of one domain into token shards
    train     train, or continue a run that exists
    explain   say where a run's weights went, and why

options:
  -h, --help  show this help message and exit
"""

Refusal = Callable[..., str]


@pytest.fixture
def refusal(capfd: pytest.CaptureFixture[str]) -> Refusal:
    """Runs a command that must be refused, and returns what it says, without progress."""

    def refuse(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        printed = capfd.readouterr()
        assert printed.out == ""
        return re.sub(r"\r[^\r\n]*\n?", "", printed.err)

    return refuse


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("one document of a few words", encoding="utf-8")
    return path


def test_help() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "launch.cli", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, HELP, "")


@pytest.mark.parametrize("command", ["demo", "tokenizer", "shard", "train", "explain"])
def test_help_of_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: dga {command} [-h]")


def test_the_command_line_imports_nothing_heavy() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import launch.cli"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rsplit("|", 1)[1].strip() for line in result.stderr.splitlines()}
    assert "launch.cli" in imported
    assert not imported & {"torch", "numpy", "pydantic", "matplotlib", "sentencepiece", "tqdm"}


def test_check_prints_a_config_that_reads_back_equal(
    capsys: pytest.CaptureFixture[str], tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = write_config(tmp_path / "config.toml", tiny_tree(tiny_data, run))
    overrides = ["optimizer.learning_rate=0.25", "tracking.name=a b"]
    assert main(["train", str(config), overrides[0], "--check", overrides[1]]) == 0
    printed = capsys.readouterr()
    assert re.fullmatch(r"# 3 domains, \d+ training rows of 16 tokens\n", printed.err)
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(printed.out)
    assert load_config(resolved) == load_config(config, overrides)
    assert load_config(resolved).optimizer.learning_rate == 0.25
    assert load_config(resolved).tracking.name == "a b"
    assert not run.exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "dga: error: the following arguments are required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["train", "c.toml", "--chekc"], "dga: error: unrecognized arguments: --chekc"),
        (["explain", "run", "other"], "dga: error: unrecognized arguments: other"),
        (["shard", "a.txt", "--out", "b"], "arguments are required: --tokenizer"),
    ],
)
def test_arguments_that_do_not_exist(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert problem in capsys.readouterr().err.splitlines()[-1]


def test_shard_and_tokenizer_write_what_they_say(
    capsys: pytest.CaptureFixture[str], tiny_data: Path, tmp_path: Path
) -> None:
    model, source = tmp_path / "new.model", tiny_data / "fruit.jsonl"
    assert main(["tokenizer", str(source), "--out", str(model), "--vocab-size", "280"]) == 0
    assert re.fullmatch(
        rf"{model}: 280 pieces, fingerprint [0-9a-f]{{16}}\n", capsys.readouterr().out
    )
    folder = tmp_path / "new"
    shard = ["shard", str(source), "--out", str(folder), "--tokenizer", str(model)]
    assert main([*shard, "--row-length", "32"]) == 0
    train, validation = capsys.readouterr().out.splitlines()
    pattern = r"\d+ documents, \d+ tokens, \d+ rows in 1 shards"
    assert re.fullmatch(rf"{folder}/train: {pattern}", train)
    assert re.fullmatch(rf"{folder}/validation: {pattern}", validation)


def test_shard_refuses_what_it_cannot_use(
    refusal: Refusal, tiny_data: Path, tmp_path: Path, text: Path
) -> None:
    model = ["--tokenizer", tiny_data / "tokenizer.model"]
    out = ["--out", tmp_path / "out"]
    assert refusal("shard", text, *model, "--out", tmp_path) == (
        f"dga shard: {tmp_path} exists already; remove it or write to another folder\n"
    )
    assert refusal("shard", tmp_path / "none*.txt", *model, *out) == (
        f"dga shard: {tmp_path}/none*.txt names no text; "
        "allowed are .txt, .jsonl, .txt.gz, .jsonl.gz\n"
    )
    undecodable = tmp_path / "bytes.txt"
    undecodable.write_bytes(b"abc\xff")
    assert refusal("shard", undecodable, *model, *out) == (
        f"dga shard: {undecodable} cannot be read: 'utf-8' codec can't decode byte 0xff in "
        "position 3: invalid start byte\n"
    )
    assert refusal("shard", text, *out, "--tokenizer", text) == (
        f"dga shard: tokenizer {text} is not a SentencePiece model\n"
    )
    assert refusal("shard", text, *model, "--out", text / "a" / "out") == (
        f"dga shard: {text}/a: Not a directory\n"
    )


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--row-length", "1", "row_length is 1; it must be at least 2"),
        ("--validation-fraction", "2", "validation_fraction is 2.0; it must be in [0, 1)"),
        ("--validation-fraction", "nan", "validation_fraction is nan; it must be in [0, 1)"),
    ],
)
def test_shard_refuses_numbers_that_make_no_sense(
    option: str,
    value: str,
    problem: str,
    refusal: Refusal,
    tiny_data: Path,
    tmp_path: Path,
    text: Path,
) -> None:
    given = ["--tokenizer", tiny_data / "tokenizer.model", "--out", tmp_path / "out"]
    assert refusal("shard", text, *given, option, value) == f"dga shard: {problem}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt"]


def test_tokenizer_refuses_what_it_cannot_make(
    refusal: Refusal, tmp_path: Path, text: Path
) -> None:
    out = ["--out", tmp_path / "new.model"]
    for size in (0, -1, 5):
        assert re.fullmatch(
            f"dga tokenizer: a tokenizer of {size} pieces is impossible: [^\n]*\n",
            refusal("tokenizer", text, *out, "--vocab-size", size),
        )
    unwritable = text / "a" / "new.model"
    assert refusal("tokenizer", text, "--vocab-size", 280, "--out", unwritable) == (
        f"dga tokenizer: {text}/a: Not a directory\n"
    )
