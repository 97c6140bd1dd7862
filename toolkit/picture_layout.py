"""Where things stand in the picture of a run: its panels, labels and title.

1. `dress` gives a painted panel its title, axis and grid.
2. `write_labels` writes a panel's labels at the right edge, where its curves end; `spread` moves
   them apart so that none covers another.
3. `lay_out` then gives the figure the size that panels, title and the longest label take.
4. `replace` writes the file in one move.

Nothing here knows what a run is.
"""

import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.explain import short_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

INK = "#222222"
FAINT = "#777777"
GRID = "#E2E2E2"

WIDTH_INCHES = 10.0
LEFT_INCHES = 0.65
RIGHT_INCHES = 0.15
BOTTOM_INCHES = 0.6
GAP_INCHES = 0.5
TITLE_LINE_INCHES = 0.25
DOTS_PER_INCH = 150
POINTS_PER_INCH = 72
FONT_POINTS = 9.0
LABEL_LINE_POINTS = 12.0
LABEL_OFFSET_POINTS = 20.0


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text at the right edge for a curve that ends at (`num_tokens`, `value`)."""

    text: str
    num_tokens: float
    value: float
    colour: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A title, a height, and `paint`, which fills the panel and returns the labels it wants."""

    title: str
    height_inches: float
    paint: Callable[["Axes"], list[Label]]


def dress(axes: "Axes", *, title: str, num_tokens: float) -> None:
    axes.set_title(title, loc="left", fontsize=FONT_POINTS + 1, color=INK, pad=8)
    axes.set_xlim(0, num_tokens)
    axes.xaxis.set_major_formatter(lambda value, _: short_count(value))
    axes.tick_params(labelsize=FONT_POINTS, colors=FAINT, labelcolor=INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=GRID, linewidth=0.7)


def write_labels(axes: "Axes", labels: Sequence[Label], *, height_inches: float) -> list["Text"]:
    """Write each label right of the panel, with a line in its colour to the end of its curve."""
    from matplotlib.transforms import ScaledTranslation

    low, high = axes.get_ylim()
    edge = axes.get_xlim()[1]
    gap = LABEL_LINE_POINTS / (height_inches * POINTS_PER_INCH)
    heights = spread([(label.value - low) / (high - low) for label in labels], gap=gap)
    offset_inches = LABEL_OFFSET_POINTS / POINTS_PER_INCH
    to_inches = axes.figure.dpi_scale_trans
    beside = axes.transAxes + ScaledTranslation(offset_inches, 0, to_inches)
    texts = []
    for label, height in zip(labels, heights, strict=True):
        # A curve that stops early is led to the edge by dots, which nobody takes for data.
        axes.plot([label.num_tokens, edge], [label.value] * 2, ":", color=label.colour, linewidth=1)
        leader = {"arrowstyle": "-", "color": label.colour, "linewidth": 1.2, "shrinkB": 0}
        line: dict[str, Any] = {"arrowprops": leader, "annotation_clip": False}
        axes.annotate("", (edge, label.value), (1, height), textcoords=beside, **line)
        style: dict[str, Any] = {"fontsize": FONT_POINTS, "color": INK, "parse_math": False}
        text = f" {label.text}"
        texts.append(axes.text(1, height, text, transform=beside, va="center", **style))
    return texts


def spread(wanted: Sequence[float], *, gap: float) -> list[float]:
    """Heights in [0, 1] nearest to the wanted ones (least squares) that are `gap` apart.

    They keep their order. Less `i * gap`, the sought heights need only not fall: that is isotonic
    regression, done by pooling neighbours. Where 1 / gap is too small, they run past 1.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    pools: list[list[float]] = []
    for rank, index in enumerate(order):
        pools.append([wanted[index] - rank * gap])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    most = 1 - gap * (len(wanted) - 1)
    levels = [max(0.0, min(most, _mean(pool))) for pool in pools for _ in pool]
    heights = [0.0] * len(wanted)
    for rank, index in enumerate(order):
        heights[index] = levels[rank] + rank * gap
    return heights


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def wrapped(text: str, *, num_characters: int) -> list[str]:
    """The text on as few lines as that width takes, and those as even as they can be."""

    def lines(width: int) -> list[str]:
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)

    num_lines = len(lines(num_characters))
    widths = range(1, num_characters + 1)
    return lines(next(width for width in widths if len(lines(width)) == num_lines))


def lay_out(
    figure: "Figure",
    heights: Sequence[float],
    texts: Sequence["Text"],
    *,
    title: Sequence[str],
    subtitle: Sequence[str],
) -> None:
    """Give the figure the size that panels, title and the longest label take."""
    label_inches = max(text.get_window_extent().width for text in texts) / DOTS_PER_INCH
    right = label_inches + LABEL_OFFSET_POINTS / POINTS_PER_INCH + RIGHT_INCHES
    top = TITLE_LINE_INCHES * (len(title) + len(subtitle)) + GAP_INCHES
    total = top + sum(heights) + GAP_INCHES * (len(heights) - 1) + BOTTOM_INCHES
    figure.set_size_inches(WIDTH_INCHES, total)
    figure.subplots_adjust(
        left=LEFT_INCHES / WIDTH_INCHES,
        right=1 - right / WIDTH_INCHES,
        bottom=BOTTOM_INCHES / total,
        top=1 - top / total,
        hspace=GAP_INCHES * len(heights) / sum(heights),
    )
    bold: dict[str, Any] = {"fontweight": "bold", "color": INK}
    plain: dict[str, Any] = {"color": FAINT}
    room = (WIDTH_INCHES - LEFT_INCHES - 2 * RIGHT_INCHES) * DOTS_PER_INCH
    at_inches = 0.18
    for lines, size, style in ((title, FONT_POINTS + 3, bold), (subtitle, FONT_POINTS + 1, plain)):
        at = (LEFT_INCHES / WIDTH_INCHES, 1 - at_inches / total)
        text = figure.text(*at, "\n".join(lines), size=size, va="top", parse_math=False, **style)
        # Lines are wrapped by a count of characters; one of wide letters is still too long.
        text.set_fontsize(size * min(1, room / text.get_window_extent().width))
        at_inches += TITLE_LINE_INCHES * len(lines)


def replace(path: Path, figure: "Figure") -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(temporary, format="png")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
