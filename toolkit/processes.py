"""What ends a process: the signals that ask it to, and the death of the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What asks a run to pause."""

PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def end_with(parent: int) -> None:
    """Lets the kernel kill this process when its parent, the process `parent`, dies.

    On Linux; elsewhere it does nothing.
    """
    if sys.platform != "linux":
        return
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew
        os._exit(128 + signal.SIGKILL)
