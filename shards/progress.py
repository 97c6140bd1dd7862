"""Progress with rate and remaining time, on a terminal and in a log file alike."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LOG_LINES = 10.0


def progress_bar(
    *, label: str, total: int | None, unit: str, initial: int = 0, is_shown: bool = True
) -> Any:
    """A tqdm bar on standard error; where that is no terminal, a line every ten seconds.

    Units of "B" are shown with binary prefixes.
    """
    is_terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=initial,
        desc=label,
        unit=unit if unit == "B" else f" {unit}",
        unit_scale=unit == "B",
        unit_divisor=1024,
        mininterval=0.2 if is_terminal else SECONDS_BETWEEN_LOG_LINES,
        maxinterval=1.0 if is_terminal else SECONDS_BETWEEN_LOG_LINES,
        dynamic_ncols=is_terminal,
        ncols=None if is_terminal else 96,
        ascii=None if is_terminal else " .",
        leave=True,
        disable=not is_shown,
        file=sys.stderr,
    )
