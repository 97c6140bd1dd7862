"""Progress on a terminal and in a log."""

from __future__ import annotations

import io

import pytest

from shards.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_plain_lines_of_bounded_width(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(label="shard wiki", total=3 << 20, unit="B") as bar:
        bar.update(3 << 20)
        assert (bar.mininterval, bar.maxinterval) == (10.0, 10.0)
    captured = capsys.readouterr()
    assert captured.out == ""
    *_, last = captured.err.strip().split("\r")
    assert last.startswith("shard wiki: 100%|.....")
    assert "| 3.00M/3.00M [" in last
    assert len(last) <= 96
    assert captured.err.isascii()


def test_a_terminal_is_redrawn_often(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress_bar(label="steps", total=4, initial=1, unit="step") as bar:
        bar.update(3)
        assert (bar.mininterval, bar.maxinterval) == (0.2, 1.0)
    last = terminal.getvalue().strip().split("\r")[-1]
    assert last.startswith("steps: 100%|")
    assert "| 4/4 [" in last
    assert " step/s]" in last


def test_a_hidden_bar_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(label="steps", total=None, unit="step", is_shown=False) as bar:
        bar.update(3)
    assert capsys.readouterr() == ("", "")
