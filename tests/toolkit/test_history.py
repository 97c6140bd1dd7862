"""Reading a run's events back, and the words made of them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toolkit.history import (
    RunHistory,
    compare,
    explain,
    headline,
    load_history,
    read_events,
    score_errors,
    short_count,
    tokens_to_reach,
)

BATCH = 32
ROW = 128  # tokens per sample
EVEN = {"code": 0.25, "books": 0.25, "web": 0.5}


def start(weights: dict[str, float] = EVEN, mixer: str = "dga") -> dict[str, Any]:
    return {
        "kind": "start",
        "step": 0,
        "domains": list(weights),
        "weights": weights,
        "target": "target",
        "global_batch_size": BATCH,
        "num_steps": 400,
        "mixer": mixer,
    }


def step(number: int, loss: float = 5.0) -> dict[str, Any]:
    return {"kind": "step", "step": number, "num_tokens": number * BATCH * ROW, "loss": loss}


def evaluation(number: int, target_loss: float) -> dict[str, Any]:
    row = {"kind": "evaluation", "target_loss": target_loss, "domain_losses": {}}
    return {**row, "step": number, "num_tokens": number * BATCH * ROW}


def update(
    number: int, scores: dict[str, float], weights: dict[str, float], **changes: Any
) -> dict[str, Any]:
    row = {
        "kind": "update",
        "step": number,
        "num_tokens": number * BATCH * ROW,
        "alignments": {domain: score / 100 + 0.5 for domain, score in scores.items()},
        "standard_errors": {domain: 0.002 for domain in scores},
        "norms": {domain: 1.0 for domain in scores},
        "target_norm": 1.3,
        "scores": scores,
        "proposed": weights,
        "weights": weights,
        "guard_rails": [],
        "effective_from": (number + 2) * BATCH,
        "cost_ms": 210.0,
        "dropped": None,
    }
    return {**row, **changes}


def moved_run() -> list[dict[str, Any]]:
    first = {"code": 0.35, "books": 0.25, "web": 0.4}
    second = {"code": 0.5, "books": 0.26, "web": 0.24}
    scores = {"code": 1.0, "books": 0.5, "web": -1.5}
    rails = ["floor: web held at 0.01", "largest change: code held at 0.15"]
    return [
        start(),
        evaluation(0, 9.0),
        update(50, {"code": 1.2, "books": 0.3, "web": -1.5}, first, cost_ms=200.0),
        update(100, scores, first, dropped="loss scale overflow", guard_rails=rails[:1]),
        update(150, scores, second, guard_rails=rails),
        step(200),
        evaluation(200, 4.5),
        update(200, scores, {"code": 0.9, "books": 0.05, "web": 0.05}),
    ]


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "events.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def history(*rows: dict[str, Any]) -> RunHistory:
    return RunHistory.from_events(rows)


def test_a_last_line_cut_anywhere_is_left_out(tmp_path: Path) -> None:
    rows = [start({"código": 1.0}), step(10)]
    path = write(tmp_path, [rows[0]])
    line = json.dumps(rows[1] | {"note": "ñ"}, ensure_ascii=False).encode()
    whole = path.read_bytes()
    for length in range(len(line)):
        path.write_bytes(whole + line[:length])
        assert read_events(path) == [rows[0]], length
    path.write_bytes(whole + line)
    assert read_events(path) == [rows[0], rows[1] | {"note": "ñ"}]


@pytest.mark.parametrize("broken", ['{"kind":"step","st', "", "12", '{"kind":"step"}', "\udcff"])
def test_any_other_broken_line_is_named(tmp_path: Path, broken: str) -> None:
    path = write(tmp_path, [start()])
    text = path.read_bytes() + broken.encode(errors="surrogateescape") + b"\n"
    for rest in (b"", json.dumps(step(10)).encode() + b"\n"):
        path.write_bytes(text + rest)
        with pytest.raises(ValueError) as caught:
            read_events(path)
        assert str(caught.value).startswith(f"{path}:2: ")


def test_rows_are_sorted_by_kind(tmp_path: Path) -> None:
    rows = moved_run()
    write(tmp_path, [*rows, {"kind": "from a later version", "step": 200}])
    loaded = load_history(tmp_path)
    assert loaded == history(*rows)
    assert loaded.start == rows[0]
    assert loaded.evaluations == (rows[1], rows[6])
    assert loaded.updates == (*rows[2:5], rows[7])
    assert loaded.steps == (rows[5],)
    assert (loaded.num_tokens, loaded.num_samples) == (200 * BATCH * ROW, 200 * BATCH)
    assert loaded.num_tokens_per_sample == ROW


def test_a_resume_voids_what_came_after_its_checkpoint() -> None:
    before = [start(), step(10, 6.0), step(20, 5.0), step(30, 4.0), evaluation(30, 4.0)]
    after = [{"kind": "resume", "step": 20}, step(20, 5.0), step(30, 4.5)]
    assert history(*before, *after) == history(start(), step(10, 6.0), step(20, 5.0), step(30, 4.5))


def test_a_second_start_voids_everything() -> None:
    assert history(start(), step(10, 6.0), start(), step(5)) == history(start(), step(5))


def test_a_file_without_a_start_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, [step(10)])
    with pytest.raises(ValueError, match="no row of kind 'start'") as caught:
        load_history(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


def test_nothing_trained_yet() -> None:
    new = history(start())
    assert (new.num_tokens, new.num_samples, len(new.mixtures)) == (0, 0, 1)
    with pytest.raises(ValueError, match="nothing past step 0"):
        _ = new.num_tokens_per_sample


def test_mixtures_are_those_that_samples_were_drawn_with() -> None:
    run = RunHistory.from_events(moved_run())
    assert [mixture.effective_from for mixture in run.mixtures] == [0, 1664, 3264, 4864]
    assert run.mixtures[-1].weights == {"code": 0.5, "books": 0.26, "web": 0.24}


def test_score_errors_are_on_the_scale_of_the_scores() -> None:
    row = history(start(), update(50, {"code": 1.0, "books": 0.5, "web": -1.5}, EVEN)).updates[0]
    assert score_errors(row) == pytest.approx({"code": 0.2, "books": 0.2, "web": 0.2}, rel=1e-12)
    level = history(start(), update(50, dict.fromkeys(EVEN, 1.0), EVEN)).updates[0]
    assert score_errors(level) == {"code": 0.0, "books": 0.0, "web": 0.0}


def test_explain() -> None:
    assert explain(RunHistory.from_events(moved_run())) == (
        "The mixture moved toward code, away from web.\n"
        "code rose from 25.0% to 50.0%: its gradient follows the target's more than the average"
        " domain's (score +1.07 ± 0.12).\n"
        "web fell from 50.0% to 24.0%: its gradient follows the target's less than the average"
        " domain's (score -1.50 ± 0.12).\n"
        "(Scores are means over the last 3 updates; the average domain's is +0.00.)\n"
        "\n"
        "domain   start     end\n"
        "code     25.0%   50.0%  ████████████████████████\n"
        "books    25.0%   26.0%  ████████████▌\n"
        "web      50.0%   24.0%  ███████████▌\n"
        "\n"
        "The target loss went from 9.000 to 4.500 over 819k tokens.\n"
        "4 updates by dga, 208 ms each on average, 1 dropped (the last: loss scale overflow),"
        " 1 not in force by the last step.\n"
        "Guard rails that fired: floor 2x, largest change 1x."
    )


def test_explain_says_when_the_scores_have_turned_or_are_noise() -> None:
    weights = {"code": 0.4, "books": 0.35, "web": 0.25}
    scores = {"code": -1.0, "books": 0.1, "web": 0.9}
    run = history(start(), update(50, scores, weights), step(100))
    assert explain(run).splitlines()[:5] == [
        "The mixture moved toward code and books, away from web.",
        "code rose from 25.0% to 40.0%: yet lately its gradient follows the target's less than the"
        " average domain's (score -1.00 ± 0.20).",
        "books rose from 25.0% to 35.0%: its gradient now follows the target's as the average"
        " domain's does (score +0.10 ± 0.20).",
        "web fell from 50.0% to 25.0%: yet lately its gradient follows the target's more than the"
        " average domain's (score +0.90 ± 0.20).",
        "(Scores are of one update; the average domain's is +0.00.)",
    ]


def test_explain_a_fixed_mixture() -> None:
    assert explain(history(start(mixer="fixed"), step(10), evaluation(10, 8.0))) == (
        "The mixture was fixed.\n"
        "\n"
        "domain   start     end\n"
        "web      50.0%   50.0%  ████████████████████████\n"
        "code     25.0%   25.0%  ████████████\n"
        "books    25.0%   25.0%  ████████████\n"
        "\n"
        "The target loss was 8.000 at step 10."
    )


def test_explain_sums_what_the_table_has_no_room_for() -> None:
    weights = {f"domain {number}, a name that is long": 1 / 40 for number in range(40)}
    lines = explain(history(start(weights))).splitlines()
    assert len(lines) == 2 + 1 + 21 + 2
    assert lines[3] == "domain 0, a name that i…    2.5%    2.5%  █▎"
    assert lines[23] == "20 others                  50.0%   50.0%  ████████████████████████"
    assert lines[25] == "The target loss was not evaluated yet."


def test_headline_of_moves_too_small_to_name() -> None:
    weights = {"code": 0.26, "books": 0.25, "web": 0.49}
    run = history(start(), update(50, dict.fromkeys(EVEN, 0.0), weights), step(100))
    assert headline(run) == "The mixture stayed where it started"


BASELINE = [start(mixer="fixed"), evaluation(0, 9.0), evaluation(100, 6.0), evaluation(200, 5.0)]


def test_tokens_to_reach_is_linear_between_evaluations() -> None:
    tokens_per_step = BATCH * ROW
    run = history(start(), evaluation(0, 9.0), evaluation(100, 6.0), evaluation(200, 4.0))
    assert tokens_to_reach(run, target_loss=9.5) == 0
    assert tokens_to_reach(run, target_loss=7.5) == 50 * tokens_per_step
    assert tokens_to_reach(run, target_loss=6.0) == 100 * tokens_per_step
    assert tokens_to_reach(run, target_loss=5.5) == 125 * tokens_per_step
    assert tokens_to_reach(run, target_loss=4.0) == 200 * tokens_per_step
    assert tokens_to_reach(run, target_loss=3.9) is None


def test_tokens_to_reach_counts_from_the_first_time() -> None:
    run = history(start(), evaluation(0, 9.0), evaluation(100, 5.0), evaluation(200, 6.0))
    assert tokens_to_reach(run, target_loss=5.0) == 100 * BATCH * ROW


def test_compare() -> None:
    run = history(start(), evaluation(0, 9.0), evaluation(100, 6.0), evaluation(200, 4.0))
    assert compare(run, RunHistory.from_events(BASELINE)) == (
        "                         run  baseline  difference\n"
        "target loss before    9.0000    9.0000     +0.0000\n"
        "target loss after     4.0000    5.0000     -1.0000\n"
        "tokens                  819k      819k\n"
        "\n"
        "The baseline's final 5.0000: reached at 614k tokens, 0.750 of the baseline's."
    )


def test_compare_with_itself_is_one() -> None:
    run = RunHistory.from_events(BASELINE)
    assert compare(run, run).endswith("reached at 819k tokens, 1.000 of the baseline's.")


def test_compare_says_when_it_was_not_reached() -> None:
    run = history(start(), evaluation(0, 9.0), evaluation(200, 5.5))
    assert compare(run, RunHistory.from_events(BASELINE)).splitlines()[2:] == [
        "target loss after     5.5000    5.0000     +0.5000",
        "tokens                  819k      819k",
        "",
        "The baseline's final 5.0000: not reached.",
    ]


def test_compare_takes_two_evaluations() -> None:
    with pytest.raises(ValueError, match="the run has 1 evaluations"):
        compare(history(start(), evaluation(0, 9.0)), RunHistory.from_events(BASELINE))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (999.7, "1k"), (983040, "983k"), (1310720, "1.31M"), (2e13, "20T")],
)
def test_short_count(number: float, text: str) -> None:
    assert short_count(number) == text


def test_importing_is_cheap() -> None:
    heavy = "{'torch', 'deepspeed', 'numpy', 'matplotlib'}"
    code = f"import sys, toolkit.history, toolkit.picture; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
