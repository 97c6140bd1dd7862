"""One file, validated whole: every problem at once, in words that say what to write instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_config, tiny_tree

from shards.errors import InputError
from toolkit.config import DomainSection, RunConfig
from toolkit.config_file import dump_config, load_config, parse_config
from toolkit.config_rules import meaning_changes
from toolkit.deepspeed_config import deepspeed_config

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden"
DATA, RUN = Path("data"), Path("runs/tiny")


def problems_of(tree: dict[str, Any]) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_config(tree, where="x.toml")
    first, *problems = str(caught.value).splitlines()
    noun = "problem" if len(problems) == 1 else "problems"
    assert first == f"{len(problems)} {noun} in x.toml:"
    return [problem.removeprefix("  ") for problem in problems]


def test_all_problems_are_reported_together() -> None:
    tree = tiny_tree(
        DATA,
        RUN,
        optimizer={"learning_rate": -1.0, "learning_rte": 1.0},
        mixture={"mixer": "dgaa"},
        model={"num_heads": 5},
    )
    tree["domains"]["fruit"] = {"path": "x", "weigth": 0.5}
    tree["zero_stage"] = 2
    assert problems_of(tree) == [
        "domains.fruit.weigth: unknown key; did you mean domains.fruit.weight?",
        "model: hidden_size 32 must be a multiple of 2 × num_heads = 10: rotary embeddings turn "
        "pairs",
        "optimizer.learning_rate = -1.0: input should be greater than 0",
        "optimizer.learning_rte: unknown key; did you mean optimizer.learning_rate?",
        "mixture.mixer = 'dgaa': input should be 'fixed', 'observe' or 'dga'",
        "zero_stage: unknown key; did you mean engine.zero_stage?",
    ]


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        (
            {"batch": {"global_batch_size": 9}},
            "batch.global_batch_size = 9: must be a multiple of "
            "micro_batch_size × num_ranks = 2 × 2",
        ),
        (
            {"data": {"num_workers": 2, "prefetch_factor": 4}},
            "data.weight_lag = 2: must cover what loaders draw ahead, "
            "num_workers × prefetch_factor = 8 micro-batches of 2 per step",
        ),
        (
            {"probe": {"rows_per_domain": 16}},
            "probe.num_groups = 2: a group must fit in one pass of "
            "micro_batch_size × num_ranks = 4 rows, so rows_per_domain = 16 needs at least "
            "4 groups",
        ),
        (
            {"probe": {"target_rows": 7}},
            "probe: target_rows 7 must be a multiple of num_groups 2",
        ),
        (
            {"mixture": {"min_weight": 0.4}},
            "mixture.min_weight = 0.4: must be less than 1/3, an equal share of the 3 domains",
        ),
        (
            {"optimizer": {"warmup_steps": 12}},
            "optimizer.warmup_steps = 12: must be less than run.num_steps = 12",
        ),
    ],
)
def test_problems_between_sections(sections: dict[str, Any], problem: str) -> None:
    assert problems_of(tiny_tree(DATA, RUN, **sections)) == [problem]


def test_additions_for_deepspeed_contradict_nothing() -> None:
    additions = {
        "gradient_accumulation_steps": 2,
        "optimizer": {"type": "Lion"},
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 1, "reduce_bucket_size": 1000, "overlap_comm": True},
    }
    words = "generated from this config; change the setting it comes from"
    assert problems_of(tiny_tree(DATA, RUN, engine={"deepspeed": additions})) == [
        f"engine.deepspeed.{key}: {words}"
        for key in ("gradient_accumulation_steps", "optimizer.type", "bf16.enabled",
                    "zero_optimization.stage")
    ]  # fmt: skip


def test_an_interval_without_any_update_is_refused() -> None:
    assert problems_of(tiny_tree(DATA, RUN, mixture={"every_steps": 10})) == [
        "mixture.every_steps = 10: with data.weight_lag = 2 no update takes effect within "
        "run.num_steps = 12"
    ]


def test_a_run_that_never_probes_needs_no_probe_that_fits() -> None:
    sections = {"probe": {"rows_per_domain": 160}, "mixture": {"mixer": "fixed"}}
    assert parse_config(tiny_tree(DATA, RUN, **sections), where="x").probe.rows_per_domain == 160


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("run", {"num_steps": True}),
        ("run", {"num_ranks": 2.0}),
        ("optimizer", {"learning_rate": "1e-3"}),
        ("model", {"tie_embeddings": 1}),
    ],
)
def test_values_are_of_their_own_type(section: str, values: dict[str, Any]) -> None:
    (key,) = values
    (problem,) = problems_of(tiny_tree(DATA, RUN, **{section: values}))
    assert problem.startswith(f"{section}.{key} = ")


def test_weights_are_all_given_or_none() -> None:
    tree = tiny_tree(DATA, RUN)
    tree["domains"]["fruit"]["weight"] = 0.5
    assert problems_of(tree) == ["domains: tools, birds lack a weight; give all weights or none"]
    tree["domains"]["tools"]["weight"] = tree["domains"]["birds"]["weight"] = 0.2
    assert problems_of(tree) == ["domains: the weights sum to 0.9, must sum to 1"]


def test_overrides_are_toml_values_or_strings(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(dump_config(tiny_config(DATA, RUN)), encoding="utf-8")
    config = load_config(
        path,
        ["optimizer.learning_rate=5e-4", "run.folder=runs/other", "optimizer.betas=[0.8, 0.9]",
         "engine.deepspeed.zero_optimization.overlap_comm=true"],
    )  # fmt: skip
    assert config.optimizer.learning_rate == 5e-4
    assert config.run.folder == Path("runs/other")
    assert config.optimizer.betas == (0.8, 0.9)
    assert deepspeed_config(config, num_ranks=2)["zero_optimization"] == {
        "stage": 2,
        "overlap_comm": True,
    }
    for bad in ("optimizer.learning_rate", "seed=1", ".=1"):
        with pytest.raises(InputError, match=r"must have the form section\.key=value"):
            load_config(path, [bad])


def test_the_dumped_config_is_read_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    config = tiny_config(DATA, RUN, engine={"deepspeed": {"comms_logger": {"enabled": False}}})
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


def test_what_may_change_when_a_run_is_continued() -> None:
    config = tiny_config(DATA, RUN)
    moved = tiny_config(
        Path("elsewhere"),
        Path("runs/moved"),
        tracking={"wandb": "offline"},
        data={"num_workers": 1},
    )
    assert meaning_changes(config, moved) == []
    changed = tiny_config(DATA, RUN, optimizer={"learning_rate": 0.5}, engine={"zero_stage": 1})
    assert meaning_changes(config, changed) == [
        "engine.zero_stage: 2 -> 1",
        "optimizer.learning_rate: 0.01 -> 0.5",
    ]
    tree = tiny_tree(DATA, RUN)
    del tree["domains"]["birds"]
    fewer = parse_config(tree, where="x")
    assert meaning_changes(config, fewer) == ["domains: fruit, tools, birds -> fruit, tools"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_configs_resolve_to_the_golden_ones(path: Path) -> None:
    """A changed default shows here: write the new text over the golden file once it is wanted."""
    config = load_config(path)
    assert dump_config(config) == (GOLDEN / f"{path.stem}.toml").read_text(encoding="utf-8")
    generated = deepspeed_config(config, num_ranks=config.run.num_ranks)
    golden = json.loads((GOLDEN / f"{path.stem}.deepspeed.json").read_text(encoding="utf-8"))
    assert generated == golden


def test_every_setting_says_what_it_means() -> None:
    missing: list[str] = []

    def visit(model: Any, prefix: str) -> None:
        for name, info in model.model_fields.items():
            if hasattr(info.annotation, "model_fields"):
                visit(info.annotation, f"{prefix}{name}.")
            elif not info.description:
                missing.append(f"{prefix}{name}")

    visit(RunConfig, "")
    visit(DomainSection, "domains.NAME.")
    assert missing == []
