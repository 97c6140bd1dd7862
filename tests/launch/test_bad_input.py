"""What a user gets wrong is said once, in full, before anything is started."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import Commands, write_config
from tiny import ROW_LENGTH, text_of, tiny_config, tiny_tree

from launch.cli import main
from shards.manifest import load_manifest
from shards.tokenizer import load_tokenizer, train_tokenizer
from shards.write import write_domain
from toolkit.checkpoint_files import RunState, publish
from toolkit.config import RunConfig
from toolkit.inputs import load_inputs
from toolkit.run_folder import locked, prepare_run_folder

Refusal = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder that does not exist yet."""
    return tmp_path / "run"


@pytest.fixture
def refusal(capfd: pytest.CaptureFixture[str]) -> Refusal:
    """Runs a command that must be refused, and returns the only thing that it says."""

    def refuse(*arguments: object) -> str:
        capfd.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        assert psutil.Process().children() == []
        printed = capfd.readouterr()
        assert printed.out == ""
        return printed.err

    return refuse


def config_of(tmp_path: Path, tree: dict[str, Any]) -> Path:
    return write_config(tmp_path / "config.toml", tree)


def write_shards(folder: Path, data: Path, *, num_documents: int, tokenizer: Path) -> Path:
    """Shards of tiny text in `folder`."""
    source = folder.with_suffix(".jsonl")
    documents = text_of("fruit", num_documents=num_documents)
    source.write_text("".join(f'{{"text": "{text}"}}\n' for text in documents), encoding="utf-8")
    write_domain(
        [source],
        folder=folder,
        tokenizer=load_tokenizer(tokenizer),
        row_length=ROW_LENGTH,
        validation_fraction=0.1,
        num_threads=1,
    )
    return folder


def write_checkpoint(config: RunConfig, *, step: int) -> None:
    """A whole checkpoint as `train` would find it, with nothing of an engine in it."""
    partial = config.run.folder / "checkpoints" / "partial"
    partial.mkdir(parents=True)
    state = RunState(
        step=step,
        loader={},
        weight_log={},
        probe={},
        events_bytes=0,
        shards=load_inputs(config).fingerprints(config),
    )
    publish(partial, config.run.folder / "checkpoints" / f"step-{step:08d}", state)


def test_missing_shard_folder(refusal: Refusal, tiny_data: Path, tmp_path: Path, run: Path) -> None:
    tree = tiny_tree(tiny_data, run)
    tree["domains"]["tools"]["path"] = str(tmp_path / "nowhere")
    assert refusal("train", config_of(tmp_path, tree)) == (
        "dga train: 1 problem with the data:\n"
        f"  tools: shard folder {tmp_path}/nowhere does not exist; "
        "`dga shard` writes such folders\n"
    )
    assert not run.exists()


def test_folder_without_a_manifest_and_missing_tokenizer(
    refusal: Refusal, tiny_data: Path, tmp_path: Path, run: Path
) -> None:
    tree = tiny_tree(tiny_data, run, data={"tokenizer": str(tmp_path / "none.model")})
    tree["domains"]["birds"]["path"] = str(tmp_path)
    assert refusal("train", config_of(tmp_path, tree)) == (
        "dga train: 2 problems with the data:\n"
        f"  birds: shard folder {tmp_path} has no manifest.json; `dga shard` writes such folders\n"
        f"  data.tokenizer: tokenizer {tmp_path}/none.model does not exist; "
        "`dga tokenizer` trains one\n"
    )


def test_shards_of_another_tokenizer(
    refusal: Refusal, tiny_data: Path, tmp_path: Path, run: Path
) -> None:
    other = tmp_path / "other.model"
    train_tokenizer(iter(text_of("birds", num_documents=400)), path=other, vocab_size=290)
    shards = write_shards(tmp_path / "odd", tiny_data, num_documents=400, tokenizer=other)
    tree = tiny_tree(tiny_data, run)
    tree["domains"]["birds"]["path"] = str(shards)
    ours, theirs = (load_tokenizer(p).fingerprint for p in (tiny_data / "tokenizer.model", other))
    assert refusal("train", config_of(tmp_path, tree)) == (
        "dga train: 1 problem with the data:\n"
        f"  birds: its shards were made with tokenizer {theirs}, "
        f"{tiny_data}/tokenizer.model is {ours}\n"
    )


def test_weights_that_do_not_sum(
    refusal: Refusal, tiny_data: Path, tmp_path: Path, run: Path
) -> None:
    tree = tiny_tree(tiny_data, run)
    for name, weight in (("fruit", 0.5), ("tools", 0.3), ("birds", 0.1)):
        tree["domains"][name]["weight"] = weight
    config = config_of(tmp_path, tree)
    assert refusal("train", config) == (
        f"dga train: 1 problem in {config}:\n  domains: the weights sum to 0.9, must sum to 1\n"
    )


def test_target_with_fewer_rows_than_a_probe(
    refusal: Refusal, tiny_data: Path, tmp_path: Path, run: Path
) -> None:
    tokenizer = tiny_data / "tokenizer.model"
    target = write_shards(tmp_path / "few", tiny_data, num_documents=40, tokenizer=tokenizer)
    num_rows = load_manifest(target).splits["train"].num_rows
    num_probed = num_rows + num_rows % 2 + 2
    tree = tiny_tree(
        tiny_data,
        run,
        data={"target": str(target)},
        probe={"target_rows": num_probed, "num_groups": num_probed // 2},
    )
    tree["probe"]["rows_per_domain"] = num_probed
    assert refusal("train", config_of(tmp_path, tree)) == (
        "dga train: 1 problem with the data:\n"
        f"  data.target: {target} has {num_rows} training rows, fewer than one probe of "
        f"probe.target_rows = {num_probed}\n"
    )


def test_batch_that_ranks_cannot_share(
    refusal: Refusal, tiny_data: Path, tmp_path: Path, run: Path
) -> None:
    config = config_of(tmp_path, tiny_tree(tiny_data, run, run={"num_ranks": 3}))
    assert refusal("train", config, "probe.num_groups=4") == (
        f"dga train: 1 problem in {config}:\n"
        "  batch.global_batch_size = 8: must be a multiple of micro_batch_size × num_ranks = "
        "2 × 3\n"
    )


def test_unknown_keys(refusal: Refusal, tiny_data: Path, tmp_path: Path, run: Path) -> None:
    tree = tiny_tree(tiny_data, run, mixture={"stepsize": 1}, model={"learning_rate": 1e-3})
    tree |= {"optimiser": {}, "batch": tree["batch"] | {"rows": 1}}
    config = config_of(tmp_path, tree)
    assert refusal("train", config) == (
        f"dga train: 4 problems in {config}:\n"
        "  model.learning_rate: unknown key; did you mean optimizer.learning_rate?\n"
        "  batch.rows: unknown key; did you mean probe.rows?\n"
        "  mixture.stepsize: unknown key; did you mean mixture.step_size?\n"
        "  optimiser: unknown key; did you mean optimizer?\n"
    )


def test_problems_of_several_sections_are_reported_together(
    refusal: Refusal, tiny_data: Path, tmp_path: Path, run: Path
) -> None:
    tree = tiny_tree(tiny_data, run, run={"num_steps": 0}, optimizer={"learning_rate": "fast"})
    tree["engine"]["zero_stage"] = 4
    del tree["data"]["target"]
    config = config_of(tmp_path, tree)
    assert refusal("train", config) == (
        f"dga train: 4 problems in {config}:\n"
        "  run.num_steps = 0: input should be greater than 0\n"
        "  data.target: missing\n"
        "  optimizer.learning_rate = 'fast': input should be a valid number\n"
        "  engine.zero_stage = 4: input should be 0, 1, 2 or 3\n"
    )


def test_not_toml(refusal: Refusal, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[run\n")
    assert refusal("train", config) == (
        f"dga train: config {config} is not TOML: Expected ']' at the end of a table declaration "
        "(at line 1, column 5)\n"
    )
    assert refusal("train", tmp_path / "none.toml") == (
        f"dga train: config {tmp_path}/none.toml does not exist\n"
    )
    assert refusal("train", tmp_path) == (
        f"dga train: config {tmp_path} cannot be read: Is a directory\n"
    )


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("num_steps=3", "override 'num_steps=3' must have the form section.key=value"),
        ("run.num_steps", "override 'run.num_steps' must have the form section.key=value"),
        ("run.folder.x=1", "override 'run.folder.x=1': folder is a value, not a section"),
    ],
)
def test_bad_override(
    override: str, problem: str, refusal: Refusal, tiny_data: Path, tmp_path: Path, run: Path
) -> None:
    config = config_of(tmp_path, tiny_tree(tiny_data, run))
    assert refusal("train", config, override) == f"dga train: {problem}\n"


def test_changed_config_on_an_existing_run(
    refusal: Refusal, tiny_data: Path, tmp_path: Path, run: Path
) -> None:
    original = tiny_config(tiny_data, run)
    prepare_run_folder(original, load_inputs(original))
    before = (run / "config.toml").read_bytes()
    config = config_of(tmp_path, tiny_tree(tiny_data, run))
    assert refusal("train", config, "run.seed=4", "mixture.mixer=fixed", "data.num_workers=1") == (
        f"dga train: {run} holds a run with another config; undo this or choose another "
        "run.folder:\n"
        "  mixture.mixer: dga -> fixed\n"
        "  run.seed: 3 -> 4\n"
    )
    assert (run / "config.toml").read_bytes() == before


def test_changed_shards(refusal: Refusal, tiny_data: Path, tmp_path: Path, run: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    original = tiny_config(data, run)
    prepare_run_folder(original, load_inputs(original))
    write_checkpoint(original, step=7)
    shutil.rmtree(data / "birds")
    tokenizer = data / "tokenizer.model"
    write_shards(data / "birds", data, num_documents=200, tokenizer=tokenizer)
    assert refusal("train", config_of(tmp_path, tiny_tree(data, run))) == (
        "dga train: the shards of birds changed since step 7 of this run; restore them or choose "
        "another run.folder\n"
    )


def test_locked_run_folder(refusal: Refusal, tiny_data: Path, tmp_path: Path, run: Path) -> None:
    config = config_of(tmp_path, tiny_tree(tiny_data, run))
    with locked(run):
        assert refusal("train", config) == (
            f"dga train: run.folder {run}: another process is training in it\n"
        )
    assert [path.name for path in run.iterdir()] == ["lock"]


def test_unwritable_run_folder(refusal: Refusal, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = tmp_path / "file" / "run"
    assert refusal("train", config_of(tmp_path, tiny_tree(tiny_data, run))) == (
        f"dga train: run.folder {run} cannot be written: Not a directory\n"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_run_folder_of_somebody_else(
    refusal: Refusal, tiny_data: Path, tmp_path: Path, run: Path
) -> None:
    run.mkdir(mode=0o500)
    assert refusal("train", config_of(tmp_path, tiny_tree(tiny_data, run))) == (
        f"dga train: run.folder {run} cannot be written: Permission denied\n"
    )


def test_explain_without_a_run(refusal: Refusal, tmp_path: Path) -> None:
    assert refusal("explain", tmp_path) == (
        f"dga explain: {tmp_path} holds no run: it has no events.jsonl\n"
    )
    assert refusal("explain", tmp_path / "none") == (
        f"dga explain: {tmp_path}/none holds no run: it has no events.jsonl\n"
    )
    events = tmp_path / "events.jsonl"
    events.write_text('{"kind": "step"}\n')
    assert refusal("explain", tmp_path) == (
        f"dga explain: {events}:1: expected an object with 'kind' and 'step', "
        'got b\'{"kind": "step"}\'\n'
    )


def test_launcher_with_another_number_of_ranks(
    refusal: Refusal, tiny_data: Path, tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, tiny_tree(tiny_data, run))
    job = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    for name, value in (job | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    assert refusal("train", config) == (
        "dga train: rank 1: the launcher started 4 ranks, run.num_ranks is 2; make them equal\n"
    )
    assert not run.exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"MASTER_ADDR": None, "MASTER_PORT": None},
            "rank 1: RANK and WORLD_SIZE are set, MASTER_ADDR and MASTER_PORT not; a launcher sets "
            "them all, and without RANK `dga train` starts the ranks itself",
        ),
        ({"RANK": "2"}, "rank 2: RANK = 2: must be less than WORLD_SIZE = 2"),
        (
            {"WORLD_SIZE": "two"},
            "rank 1: WORLD_SIZE = 'two' in the environment: must be a whole number",
        ),
    ],
)
def test_launcher_that_makes_no_sense(
    changes: dict[str, str | None],
    problem: str,
    refusal: Refusal,
    tiny_data: Path,
    tmp_path: Path,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    job |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in (job | changes).items():
        if value is not None:
            monkeypatch.setenv(name, value)
    config = config_of(tmp_path, tiny_tree(tiny_data, run))
    assert refusal("train", config) == f"dga train: {problem}\n"


def test_the_real_command_says_the_same_and_leaves_no_process(
    commands: Commands, tiny_data: Path, tmp_path: Path, run: Path
) -> None:
    config = config_of(tmp_path, tiny_tree(tiny_data, run))
    ended = commands.run("train", config, "probe.target_rows=3")
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err == (
        f"dga train: 1 problem in {config}:\n"
        "  probe: target_rows 3 must be a multiple of num_groups 2\n"
    )
    assert commands.left_after(0) == []
    assert not run.exists()


def test_a_damaged_shard_stops_the_run_with_its_name(
    commands: Commands, tiny_data: Path, tmp_path: Path, run: Path
) -> None:
    """Sizes are checked before the start, hashes where a rank first reads the shard."""
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    for shard in (data / "tools" / "train").glob("shard.*.mds"):
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
    tree = tiny_tree(data, run, run={"num_ranks": 1}, batch={"micro_batch_size": 4})
    ended = commands.run("train", config_of(tmp_path, tree))
    assert (ended.code, ended.out) == (2, "")
    *progress, last = ended.err.splitlines()
    assert all(not line or line.startswith("train:") for line in progress)
    assert re.fullmatch(
        f"dga train: shard {data}/tools/train/shard.\\d+.mds does not match its hash; "
        "fetch or write it again",
        last,
    )
    assert commands.left_after(5) == []
