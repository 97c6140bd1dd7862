"""Starting, watching and ending ranks, with ranks that are a few lines of Python each."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import MARKER, Commands, wait_until

import launch.local
from launch.local import run_ranks

PRELUDE = """
import os, pathlib, signal, subprocess, sys, time
from launch.environment import rank_environment
place = rank_environment()
rank = place.rank
def listen():
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(75))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
def sleep():
    listen()
    time.sleep(1000)
"""

Run = Callable[[str], int]


@pytest.fixture
def run(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs two ranks of a body of Python in this process; none may be left when they have ended."""
    monkeypatch.setenv(MARKER, commands.marker)

    def run(body: str) -> int:
        command = [sys.executable, "-c", PRELUDE + body]
        before = time.monotonic()
        code = run_ranks(command, num_ranks=2, log_folder=tmp_path)
        assert time.monotonic() - before < 8, "ended only after the time of grace"
        assert [p for p in commands.processes() if p.pid != os.getpid()] == []
        return code

    return run


def test_every_rank_learns_its_place(run: Run, tmp_path: Path) -> None:
    code = run(f"""
import json
names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "DGA_JOB_FOLDER"]
report = {{name: os.environ[name] for name in names}}
report["init"] = place.init_method
report["session"] = os.getsid(0) == os.getpid()
pathlib.Path({str(tmp_path)!r}, f"{{rank}}.json").write_text(json.dumps(report))
""")
    assert code == 0
    reports = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    folder = reports[0]["DGA_JOB_FOLDER"]
    for rank, report in enumerate(reports):
        assert report == {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "DGA_JOB_FOLDER": folder,
            "init": f"file://{folder}/rendezvous",
            "session": True,
        }
    assert not Path(folder).exists()


def test_output_of_rank_0_is_shown_and_of_others_is_logged(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("print('out', rank, flush=True); print('err', rank, file=sys.stderr)") == 0
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("out 0\n", "err 0\n")
    assert (tmp_path / "rank-1.log").read_text() == "out 1\nerr 1\n"


def test_a_failure_of_another_rank_is_shown_from_its_log(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rank-1.log").write_text("of an earlier attempt\n")
    code = run("""
if rank == 0:
    print("\\rtrain: 10%", end="", file=sys.stderr, flush=True)
    sleep()
print("\\n".join(f"line {i}" for i in range(30)))
time.sleep(0.5)
sys.exit(3)
""")
    assert code == 3
    shown = "".join(f"  line {i}\n" for i in range(10, 30))
    assert capfd.readouterr().err == (
        f"\rtrain: 10%\nrank 1 failed with exit code 3; the end of {tmp_path}/rank-1.log:\n{shown}"
    )


def test_a_traceback_of_another_rank_is_shown(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rank-1.log").write_text("of an earlier attempt\n")
    assert run("sleep() if rank == 0 else print(1 / 0)") == 1
    shown = capfd.readouterr().err
    head = f"\nrank 1 failed with exit code 1; the end of {tmp_path}/rank-1.log:\n"
    assert shown.startswith(head + "  Traceback (most recent call last):\n")
    assert shown.endswith("  ZeroDivisionError: division by zero\n")
    assert "earlier" not in shown


def test_the_first_failure_is_named_though_its_rank_ends_last(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As when a collective of rank 0 breaks because rank 1 leaves the process group."""
    code = run("""
if rank == 0:
    wait = place.job_folder / "failed"
    while not wait.exists(): time.sleep(0.01)
    place.report_failure()
    sys.exit("rank 0: connection closed by peer")
print("the cause", flush=True)
place.report_failure()
time.sleep(0.5)
sys.exit(4)
""")
    assert code == 4
    assert capfd.readouterr().err == (
        "rank 0: connection closed by peer\n"
        f"\nrank 1 failed with exit code 4; the end of {tmp_path}/rank-1.log:\n  the cause\n"
    )


def test_a_killed_rank_is_named_though_another_reports_first(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fifo = tmp_path / "open while rank 1 lives"
    os.mkfifo(fifo)
    code = run(f"""
if rank == 1:
    file = open({str(fifo)!r}, "w")
    os.kill(os.getpid(), signal.SIGKILL)
open({str(fifo)!r}).read()
place.report_failure()
time.sleep(0.5)
sys.exit(1)
""")
    assert code == 137
    assert capfd.readouterr().err == ("\nrank 1 was killed by SIGKILL, often for lack of memory\n")


def test_a_killed_rank_0_is_named_too(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("sleep() if rank else os.kill(os.getpid(), signal.SIGSEGV)") == 139
    assert capfd.readouterr().err == "\nrank 0 was killed by SIGSEGV\n"


def test_a_refusal_of_one_rank_alone_is_shown(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = run("sleep() if rank == 0 else print('dga train: no shard', flush=True); sys.exit(2)")
    assert code == 2
    assert capfd.readouterr().err == (
        f"\nrank 1 failed with exit code 2; the end of {tmp_path}/rank-1.log:\n"
        "  dga train: no shard\n"
    )


def test_a_refusal_of_all_ranks_is_shown_once(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    code = run("""
time.sleep(0.3 * (rank == 0))
print("dga train: no shard", file=sys.stderr, flush=True)
sys.exit(2)
""")
    assert code == 2
    assert capfd.readouterr().err == "dga train: no shard\n"


def test_a_rank_that_does_not_end_is_killed(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch.local, "GRACE_SECONDS", 0.3)
    assert run("time.sleep(1000) if rank == 0 else sys.exit(5)") == 5


def test_a_rank_that_failed_and_does_not_end_is_killed_and_shown(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch.local, "GRACE_SECONDS", 0.3)
    body = "if rank == 1: print('stuck', flush=True); place.report_failure()\ntime.sleep(1000)"
    assert run(body) == 1
    assert capfd.readouterr().err == (
        f"\nrank 1 failed; the end of {tmp_path}/rank-1.log:\n  stuck\n"
    )


def test_loader_processes_of_a_killed_rank_are_killed_at_once(run: Run, tmp_path: Path) -> None:
    """They hold its sockets, so the other ranks would not notice; rank 0 waits for one to end."""
    fifo = tmp_path / "held"
    os.mkfifo(fifo)
    code = run(f"""
fifo = {str(fifo)!r}
if rank == 0:
    with open(fifo) as file:
        file.read()
    sys.exit(1)
loader = subprocess.Popen(["sleep", "1000"], stdout=open(fifo, "w"))
os.kill(os.getpid(), signal.SIGKILL)
""")
    assert code == 137


PARENT = f"""
import sys
from pathlib import Path
from launch.local import run_ranks
body = {PRELUDE!r} + sys.argv[1]
sys.exit(run_ranks([sys.executable, "-c", body], num_ranks=2, log_folder=Path(sys.argv[2])))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_ranks_listen(
    number: signal.Signals, commands: Commands, tmp_path: Path
) -> None:
    job = commands.start(
        "print('here', flush=True); time.sleep(0.5); sleep()",
        tmp_path,
        command=(sys.executable, "-c", PARENT),
    )
    wait_until(lambda: job.out.read_text() == "here\n")
    job.send(number)
    job.send(signal.SIGTERM)
    ended = job.finish()
    assert ended.code == 75
    assert ended.err == "\nstopping after this step, with a checkpoint; interrupt again to kill\n"
    assert commands.left_after(0) == []


def test_a_second_interrupt_kills_ranks_that_do_not_listen(
    commands: Commands, tmp_path: Path
) -> None:
    body = "subprocess.Popen(['sleep', '1000']); print('here', flush=True); time.sleep(1000)"
    job = commands.start(body, tmp_path, command=(sys.executable, "-c", PARENT))
    wait_until(lambda: job.out.read_text() == "here\n")
    job.send(signal.SIGINT)
    wait_until(lambda: "stopping" in job.err.read_text())
    wait_until(lambda: len(commands.processes()) == 5)
    job.send(signal.SIGINT)
    assert job.finish(within_seconds=5).code == 130
    assert commands.left_after(0) == []


def test_ranks_die_with_their_parent(commands: Commands, tmp_path: Path) -> None:
    job = commands.start(
        "print('here', flush=True); sleep()", tmp_path, command=(sys.executable, "-c", PARENT)
    )
    wait_until(lambda: job.out.read_text() == "here\n")
    job.send(signal.SIGKILL)
    job.finish()
    assert commands.left_after(2) == []


def test_a_held_file_is_open_in_every_rank(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "held").open("w") as file:
        body = f"os.write({file.fileno()}, str(rank).encode())"
        command = [sys.executable, "-c", PRELUDE + body]
        assert run_ranks(command, num_ranks=2, log_folder=tmp_path, held_files=[file.fileno()]) == 0
    assert sorted((tmp_path / "held").read_text()) == ["0", "1"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has no PYTHONSAFEPATH yet")
def test_ranks_run_this_code_whatever_lies_in_the_working_directory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "launch.py").write_text("raise SystemExit('the wrong launch')")
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "launch.cli", "--help"]
    code = run_ranks(command, num_ranks=1, log_folder=tmp_path)
    assert (code, capfd.readouterr().err) == (0, "")
