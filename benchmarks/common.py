"""How every benchmark measures and reports.

1. `time_in_rounds` times its contenders in turn, round after round, so that whatever else the
   machine does falls on all of them alike.
2. `Figure` is the median of one label's numbers, with their spread.
3. `report` prints the figures beside what is wanted of them: a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Wanted = Mapping[str, tuple[Literal[">=", "<="], float]]
"""Per label the bound that its figure is to keep."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every benchmark takes from its command line."""

    is_quick: bool
    is_json: bool


def parse_options(description: str | None) -> Options:
    """The options in `sys.argv`; `description` is the benchmark's docstring."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--quick", action="store_true", help="a moment only; no meaningful figures")
    arguments = parser.parse_args()
    return Options(is_quick=arguments.quick, is_json=arguments.json)


def time_in_rounds(
    contenders: Mapping[str, Callable[[], object]], *, num_rounds: int, num_warmups: int
) -> dict[str, list[float]]:
    """Seconds that each contender took in each round, after some rounds that do not count.

    Every other round runs backwards, so that none always comes after the same one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    gc.disable()
    try:
        for number in range(-num_warmups, num_rounds):
            for name in list(contenders)[:: -1 if number % 2 else 1]:
                started = time.perf_counter()
                contenders[name]()
                took = time.perf_counter() - started
                if number >= 0:
                    seconds[name].append(took)
    finally:
        gc.enable()
    return seconds


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number under a label that carries its unit, or `_ratio`."""

    label: str
    value: float
    spread: float | None = None
    """From the first to the third quartile, as a share of the median; None of a single number."""

    @classmethod
    def median(cls, label: str, numbers: Sequence[float]) -> Figure:
        """The median of two numbers or more."""
        low, middle, high = statistics.quantiles(numbers, n=4, method="inclusive")
        return cls(label=label, value=middle, spread=(high - low) / middle)


def report(name: str, figures: Sequence[Figure], *, wanted: Wanted, options: Options) -> None:
    """Prints the table, unless JSON alone is asked for, and the line of JSON."""
    values = {figure.label: figure.value for figure in figures}
    if not options.is_json:
        _print_table(figures, wanted)
    result = {
        "benchmark": name,
        "figures": values,
        "wanted": wanted,
        "ok": all(_is_met(values[label], wanted[label]) for label in wanted),
    }
    print(json.dumps(result))


def _print_table(figures: Sequence[Figure], wanted: Wanted) -> None:
    width = max(len(figure.label) for figure in figures)
    print(f"{'':<{width}}      median   spread   wanted")
    for figure in figures:
        spread = "" if figure.spread is None else f"{figure.spread:.0%}"
        line = f"{figure.label:<{width}}  {figure.value:>10.4g}  {spread:>7}"
        if figure.label in wanted:
            sign, number = wanted[figure.label]
            met = "met" if _is_met(figure.value, wanted[figure.label]) else "missed"
            line += f"   {sign} {number:g}: {met}"
        print(line.rstrip())


def _is_met(value: float, bound: tuple[Literal[">=", "<="], float]) -> bool:
    sign, number = bound
    return value >= number if sign == ">=" else value <= number
