"""The ranks of a job on this machine: started together, watched, ended together.

Every rank runs in a session of its own, so an interrupt at the terminal reaches only this process, which
passes it on once. The kernel kills the ranks if this process dies, whatever it dies of.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from launch.environment import variables
from launch.exit_codes import KILLED_BY_USER, OK, PAUSED

POLL_SECONDS = 0.05
GRACE_SECONDS = 10.0
"""How long the other ranks may take to end once one has failed."""
NUM_LOG_LINES = 20
PR_SET_PDEATHSIG = 1


def run_ranks(command: Sequence[str], *, num_ranks: int, log_folder: Path) -> int:
    """Runs `command` once per rank and returns one exit code for all.

    Rank 0 writes to this process's terminal, rank r to `log_folder`/rank-r.log. When a rank fails, the
    others are ended; the code of the first that failed is returned, 128 + n for death by signal n.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dga-"))
        ranks = [
            _start_rank(
                command,
                environment=_environment(rank, num_ranks, rendezvous=Path(folder, "rendezvous")),
                log=None if rank == 0 else log_folder / f"rank-{rank}.log",
                stack=stack,
            )
            for rank in range(num_ranks)
        ]
        stack.callback(_kill, ranks)
        with _forwarding_signals(ranks) as is_abandoned:
            code, failed = _watch(ranks, is_abandoned)
    if failed is not None and failed > 0:
        _show_log(failed, code, log_folder / f"rank-{failed}.log")
    return code


def _environment(rank: int, num_ranks: int, *, rendezvous: Path) -> dict[str, str]:
    # Each rank would otherwise start a thread per core, and they would wait for each other.
    num_threads = max(1, (os.cpu_count() or 1) // num_ranks)
    own = variables(rank=rank, num_ranks=num_ranks, rendezvous=rendezvous)
    return {"OMP_NUM_THREADS": str(num_threads)} | dict(os.environ) | own


def _start_rank(
    command: Sequence[str], *, environment: dict[str, str], log: Path | None, stack: ExitStack
) -> subprocess.Popen[bytes]:
    output = stack.enter_context(log.open("ab")) if log else None
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )


_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def _forwarding_signals(ranks: Sequence[subprocess.Popen[bytes]]) -> Iterator[Callable[[], bool]]:
    """Passes SIGINT and SIGTERM on as SIGTERM; yields whether a second interrupt gave up waiting."""
    num_interrupts = 0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal num_interrupts
        num_interrupts += number == signal.SIGINT
        for rank in ranks:
            if rank.poll() is None:
                rank.terminate()
        if num_interrupts == 1:
            print(
                "\nstopping after this step, with a checkpoint; interrupt again to kill",
                file=sys.stderr,
            )

    previous = {s: signal.signal(s, forward) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: num_interrupts > 1
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _watch(
    ranks: Sequence[subprocess.Popen[bytes]], is_abandoned: Callable[[], bool]
) -> tuple[int, int | None]:
    """Waits for all ranks; the job's exit code, and which rank failed first."""
    failed: int | None = None
    deadline = 0.0
    while any(rank.poll() is None for rank in ranks):
        if is_abandoned():
            return KILLED_BY_USER, None
        if failed is None:
            failed = _first_failure(ranks)
            if failed is not None:
                deadline = time.monotonic() + GRACE_SECONDS
                for rank in ranks:
                    if rank.poll() is None:
                        rank.terminate()
        elif time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    if failed is None:
        failed = _first_failure(ranks)
    if failed is None:
        return ranks[0].returncode, None
    code = ranks[failed].returncode
    return (code if code > 0 else 128 - code), failed


def _first_failure(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    return next((i for i, rank in enumerate(ranks) if rank.poll() not in (None, OK, PAUSED)), None)


def _kill(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        if rank.poll() is None:
            # The whole session: a rank's loader processes must not outlive it.
            os.killpg(rank.pid, signal.SIGKILL)
    for rank in ranks:
        rank.wait()


def _show_log(rank: int, code: int, path: Path) -> None:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-NUM_LOG_LINES:]
    tail = "".join(f"\n  {line}" for line in lines)
    print(f"rank {rank} failed first, with exit code {code}; the end of {path}:{tail}",
          file=sys.stderr)  # fmt: skip
