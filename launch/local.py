"""The ranks of a job on this machine: started together, watched, ended together.

Every rank runs in a session of its own, so an interrupt at the terminal reaches only this process,
which passes it on once. The ranks start with SIGINT and SIGTERM blocked: one that comes while they
import waits until they listen. The kernel kills the ranks if this process dies, whatever it dies
of.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from launch.environment import first_failure, variables
from launch.exit_codes import BAD_INPUT, FAILED, KILLED_BY_USER, OK, PAUSED
from toolkit.processes import STOP_SIGNALS, end_with

POLL_SECONDS = 0.05
GRACE_SECONDS = 10.0
"""How long the other ranks may take to end once one has failed."""
NUM_LOG_LINES = 20


@dataclass(frozen=True, kw_only=True)
class _Rank:
    number: int
    process: subprocess.Popen[bytes]
    log: Path | None
    log_start: int
    """Bytes of the log that earlier attempts wrote."""

    @property
    def code(self) -> int | None:
        """Exit code, 128 + n for death by signal n; None while it runs."""
        code = self.process.poll()
        return 128 - code if code is not None and code < 0 else code

    @property
    def killer(self) -> signal.Signals | None:
        """The signal that it died of."""
        code = self.process.poll()
        return signal.Signals(-code) if code is not None and code < 0 else None

    @property
    def has_failed(self) -> bool:
        return self.code not in (None, OK, PAUSED)


def run_ranks(
    command: Sequence[str], *, num_ranks: int, log_folder: Path, held_files: Sequence[int] = ()
) -> int:
    """Runs `command` once per rank and returns one exit code for all.

    Rank 0 writes to this process's terminal, rank r to `log_folder`/rank-r.log. When a rank fails,
    the others are ended, the end of its log is shown, and its code is returned, 128 + n for death
    by signal n. A second SIGINT kills the ranks.

    Args:
        held_files: descriptors that stay open as long as this process or any rank lives.
    """
    with ExitStack() as stack:
        job_folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dga-")))
        received = stack.enter_context(_recorded_signals())
        ranks: list[_Rank] = []
        stack.callback(_kill, ranks)
        with _blocked_signals():
            for number in range(num_ranks):
                log = None if number == 0 else log_folder / f"rank-{number}.log"
                environment = _environment(number, num_ranks, job_folder=job_folder)
                ranks.append(_start_rank(number, command, environment, log, held_files))
        cause = _watch(ranks, received, job_folder=job_folder)
        if _is_abandoned(received):
            return KILLED_BY_USER
        if cause:
            _explain(cause)
        # A rank that reported its failure and then would not end has no code of its own.
        return FAILED if (code := (cause or ranks[0]).code) is None else code


def _environment(number: int, num_ranks: int, *, job_folder: Path) -> dict[str, str]:
    # Each rank would otherwise start a thread per core, and they would wait for each other.
    num_threads = max(1, (os.cpu_count() or 1) // num_ranks)
    own = variables(rank=number, num_ranks=num_ranks, job_folder=job_folder)
    if Path.cwd() != Path(__file__).resolve().parent.parent:
        # `python -m launch.cli` would look for its packages in the working directory first.
        own["PYTHONSAFEPATH"] = "1"
    return {"OMP_NUM_THREADS": str(num_threads)} | dict(os.environ) | own


def _start_rank(
    number: int,
    command: Sequence[str],
    environment: dict[str, str],
    log: Path | None,
    held_files: Sequence[int],
) -> _Rank:
    with ExitStack() as stack:
        output = stack.enter_context(log.open("ab")) if log else None
        log_start = output.tell() if output else 0
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,
            pass_fds=held_files,
            preexec_fn=partial(end_with, os.getpid()),
        )
        return _Rank(number=number, process=process, log=log, log_start=log_start)


@contextmanager
def _recorded_signals() -> Iterator[list[int]]:
    """While inside, SIGINT and SIGTERM only add their number to the list."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in STOP_SIGNALS
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Processes that start inside have SIGINT and SIGTERM blocked; here they wait for the end."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _is_abandoned(received: Sequence[int]) -> bool:
    return received.count(signal.SIGINT) > 1


def _watch(ranks: Sequence[_Rank], received: Sequence[int], *, job_folder: Path) -> _Rank | None:
    """Waits until all ranks have ended or are not worth waiting for; the one that failed first."""
    cause: _Rank | None = None
    is_stopping = False
    deadline = math.inf
    while any(rank.code is None for rank in ranks) and time.monotonic() < deadline:
        if _is_abandoned(received):
            return None
        if received and not is_stopping:
            is_stopping = True
            _terminate(ranks)
            _say("stopping after this step, with a checkpoint; interrupt again to kill")
        if not cause and (cause := _first_failed(ranks, job_folder=job_folder)):
            deadline = time.monotonic() + GRACE_SECONDS
            # Loader processes of a killed rank hold its sockets: the others would wait for it.
            _kill([rank for rank in ranks if rank.has_failed])
            _terminate([rank for rank in ranks if rank is not cause])
        time.sleep(POLL_SECONDS)
    cause = cause or _first_failed(ranks, job_folder=job_folder)
    if cause and cause.code == BAD_INPUT:
        # What several ranks refuse, the lowest has said: rank 0 on the terminal.
        return next(rank for rank in ranks if rank.code == BAD_INPUT)
    return cause


def _first_failed(ranks: Sequence[_Rank], *, job_folder: Path) -> _Rank | None:
    """The rank that failed first; the others fail after it, because their collectives break.

    A rank that is killed reports nothing: the first report is then another's, and later. SIGABRT
    can be how NCCL ends a rank whose peer is gone.
    """
    reported = first_failure(job_folder)  # before the codes, so no death is missed that caused it
    failed = [rank for rank in ranks if rank.has_failed]
    harmless = (None, signal.SIGTERM, signal.SIGABRT)
    killed = [rank for rank in failed if rank.killer not in harmless]
    reporting = [rank for rank in ranks if rank.number == reported]
    return next(iter(killed + reporting + failed), None)


def _terminate(ranks: Sequence[_Rank]) -> None:
    for rank in ranks:
        rank.process.terminate()


def _kill(ranks: Sequence[_Rank]) -> None:
    for rank in ranks:
        # The whole session, also of a rank that has ended: its loader processes must not outlive
        # it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(rank.process.pid, signal.SIGKILL)
    for rank in ranks:
        rank.process.wait()


def _explain(rank: _Rank) -> None:
    """Says how a rank failed, unless it wrote that to the terminal itself."""
    if rank.killer:
        usual_cause = ", often for lack of memory" if rank.killer == signal.SIGKILL else ""
        what = f"rank {rank.number} was killed by {rank.killer.name}{usual_cause}"
    elif rank.log:
        code = "" if rank.code is None else f" with exit code {rank.code}"
        what = f"rank {rank.number} failed{code}"
    else:
        return
    lines = _last_lines(rank.log, start=rank.log_start) if rank.log else []
    where = f"; the end of {rank.log}:" if lines else ""
    _say(what + where + "".join(f"\n  {line}" for line in lines))


def _last_lines(log: Path, *, start: int) -> list[str]:
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace").splitlines()[-NUM_LOG_LINES:]


def _say(text: str) -> None:
    # On a line of its own: rank 0's progress bar leaves the cursor at the end of its line.
    print(f"\n{text}", file=sys.stderr, flush=True)
