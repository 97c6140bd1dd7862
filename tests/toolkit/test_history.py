"""Reading a run's events back."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from histories import BATCH, EVEN, ROW, evaluation, history, moved_run, start, step, update

from toolkit.history import RunHistory, load_history, read_events, score_errors, tokens_to_reach


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "events.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


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


def test_importing_is_cheap() -> None:
    heavy = "{'torch', 'deepspeed', 'numpy', 'matplotlib'}"
    code = f"import sys, toolkit.explain, toolkit.picture; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
