"""One picture of a run: where the mixture went, why, and what the target gained.

`draw` stacks up to three panels over one axis of training tokens: mixture weights; alignment
scores, if any were measured; target loss, if it was evaluated. Each panel paints its curves and
hands back labels, which are then written at the right edge where the curves end, spread so that
none covers another. The file is replaced in one move. matplotlib is imported when a picture is
drawn and not before; without pyplot nothing global is touched.
"""

import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.history import (
    RunHistory,
    headline,
    moves,
    score_errors,
    short_count,
    shortened,
    tokens_to_reach,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

# Told apart with any of the common colour blindnesses (OKLab distance >= 0.067 under simulated
# protanopia, deuteranopia and tritanopia), and each at least 2.5 : 1 against white.
PALETTE = (
    *("#0072B2", "#D98200", "#009E73", "#C44601", "#CC79A7", "#770022"),
    *("#003388", "#33AAFF", "#884466", "#992200", "#443355", "#115599"),
)
OTHER_COLOUR = "#C4C4C4"
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
NUM_CROWDED = 8  # with more lines bands fade; with more points markers go


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


def draw(history: RunHistory, path: Path, *, baseline: RunHistory | None = None) -> None:
    """Write the picture of a run as PNG to `path`, whole or not at all.

    ValueError if the run recorded nothing past step 0.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(history, baseline)
    num_tokens = max(run.num_tokens for run in (history, baseline) if run)
    figure = Figure(dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    heights = [panel.height_inches for panel in panels]
    columns = figure.subplots(
        len(panels), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    texts = []
    for panel, axes in zip(panels, columns[:, 0], strict=True):
        labels = panel.paint(axes)
        _dress(axes, title=panel.title, num_tokens=num_tokens)
        texts += _write_labels(axes, labels, height_inches=panel.height_inches)
    columns[-1, 0].set_xlabel("training tokens", fontsize=FONT_POINTS, color=FAINT)
    title = textwrap.wrap(headline(history), width=88)
    subtitle = textwrap.wrap(_subtitle(history, baseline), width=124)
    _lay_out(figure, heights, texts, title=title, subtitle=subtitle)
    _replace(path, figure)


def _panels(history: RunHistory, baseline: RunHistory | None) -> list[Panel]:
    colours = domain_colours(history)
    weights = Panel(
        title="Mixture weights, as trained on",
        height_inches=3.0,
        paint=lambda axes: _paint_weights(axes, history, colours),
    )
    scores = Panel(
        title=_scores_title(history),
        height_inches=2.5,
        paint=lambda axes: _paint_scores(axes, history, colours),
    )
    losses = Panel(
        title="Validation loss on the target (nats per token)",
        height_inches=2.0,
        paint=lambda axes: _paint_losses(axes, history, baseline),
    )
    panels = [weights]
    if history.measured_updates:
        panels.append(scores)
    if history.evaluations:
        panels.append(losses)
    return panels


def domain_colours(history: RunHistory) -> dict[str, str]:
    """The colour of each domain that is named, the largest last weight first.

    With more domains than colours, those that never reach a large weight go unnamed.
    """
    domains = history.start["domains"]
    mixtures = history.mixtures
    peaks = {domain: max(mixture.weights[domain] for mixture in mixtures) for domain in domains}
    named = set(sorted(domains, key=lambda domain: -peaks[domain])[: len(PALETTE)])
    colours = dict(zip([d for d in domains if d in named], PALETTE, strict=False))
    return {m.domain: colours[m.domain] for m in moves(history) if m.domain in named}


def _paint_weights(axes: "Axes", history: RunHistory, colours: Mapping[str, str]) -> list[Label]:
    """Stacked areas that step exactly where new weights take effect, the largest on top."""
    mixtures = history.mixtures
    num_tokens_per_sample = history.num_tokens_per_sample
    edges = [mixture.effective_from * num_tokens_per_sample for mixture in mixtures]
    num_tokens = [*edges, history.num_tokens]
    bands = [
        (f"{shortened(domain)} {mixtures[-1].weights[domain]:.0%}", colour, [domain])
        for domain, colour in colours.items()
    ]
    rest = [domain for domain in history.start["domains"] if domain not in colours]
    if rest:
        share = sum(mixtures[-1].weights[domain] for domain in rest)
        bands.append((f"other ({len(rest)}) {share:.0%}", OTHER_COLOUR, rest))
    floor = [0.0] * len(num_tokens)
    labels = []
    for text, colour, domains in reversed(bands):
        heights = [sum(m.weights[d] for d in domains) for m in (*mixtures, mixtures[-1])]
        top = [below + height for below, height in zip(floor, heights, strict=True)]
        axes.fill_between(
            num_tokens, floor, top, step="post", color=colour, edgecolor="white", linewidth=0.5
        )
        middle = (floor[-1] + top[-1]) / 2
        labels.append(Label(text=text, num_tokens=num_tokens[-1], value=middle, colour=colour))
        floor = top
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return labels


def _scores_title(history: RunHistory) -> str:
    title = "Alignment with the target: score per update ± one standard error"
    num_dropped = sum(1 for update in history.updates if update["dropped"])
    return f"{title}; {num_dropped} dropped left out" if num_dropped else title


def _paint_scores(axes: "Axes", history: RunHistory, colours: Mapping[str, str]) -> list[Label]:
    updates = history.measured_updates
    errors = [score_errors(update) for update in updates]
    num_tokens = [update["num_tokens"] for update in updates]
    crowded = len(colours) > NUM_CROWDED
    axes.axhline(0, color=FAINT, linewidth=0.8)
    labels = []
    for domain, colour in colours.items():
        scores = [update["scores"][domain] for update in updates]
        low = [score - error[domain] for score, error in zip(scores, errors, strict=True)]
        high = [score + error[domain] for score, error in zip(scores, errors, strict=True)]
        if len(updates) > 1:
            alpha = 0.07 if crowded else 0.16
            axes.fill_between(num_tokens, low, high, color=colour, alpha=alpha, linewidth=0)
        else:
            axes.vlines(num_tokens, low, high, color=colour, linewidth=1, clip_on=False)
        _plot(axes, num_tokens, scores, color=colour, linewidth=1.1 if crowded else 1.4)
        name = shortened(domain)
        labels.append(Label(text=name, num_tokens=num_tokens[-1], value=scores[-1], colour=colour))
    return labels


def _paint_losses(axes: "Axes", history: RunHistory, baseline: RunHistory | None) -> list[Label]:
    runs = [("run", history, INK, "solid")]
    if baseline and baseline.evaluations:
        runs.insert(0, ("baseline", baseline, FAINT, "dashed"))
        goal = baseline.evaluations[-1]
        reached = tokens_to_reach(history, target_loss=goal["target_loss"])
        if reached is not None:
            between = [reached, goal["num_tokens"]], [goal["target_loss"]] * 2
            axes.plot(*between, ":", color=FAINT, linewidth=1)
            circle: dict[str, Any] = {
                "color": INK,
                "markerfacecolor": "white",
                "zorder": 3,
                "clip_on": False,
            }
            axes.plot(reached, goal["target_loss"], "o", **circle)
    labels = []
    for name, run, colour, style in runs:
        num_tokens = [row["num_tokens"] for row in run.evaluations]
        losses = [row["target_loss"] for row in run.evaluations]
        _plot(axes, num_tokens, losses, color=colour, linestyle=style, linewidth=1.6)
        text = f"{name} {losses[-1]:.3f}"
        labels.append(Label(text=text, num_tokens=num_tokens[-1], value=losses[-1], colour=colour))
    return labels


def _plot(axes: "Axes", num_tokens: Sequence[int], values: Sequence[float], **style: Any) -> None:
    """A line; with few points it shows them, also at the panel's edge."""
    if len(num_tokens) <= NUM_CROWDED:
        style |= {"marker": "o", "markersize": 4}
    axes.plot(num_tokens, values, clip_on=False, **style)


def _subtitle(history: RunHistory, baseline: RunHistory | None) -> str:
    parts = [f"{short_count(history.num_tokens)} tokens"]
    if history.updates:
        plural = "s" if len(history.updates) > 1 else ""
        parts.append(f"{len(history.updates)} update{plural} by {history.start['mixer']}")
    if history.evaluations:
        first, last = history.evaluations[0], history.evaluations[-1]
        parts.append(f"target loss {first['target_loss']:.2f} to {last['target_loss']:.2f}")
    if history.evaluations and baseline and baseline.evaluations:
        goal = baseline.evaluations[-1]
        reached = tokens_to_reach(history, target_loss=goal["target_loss"])
        if reached is None:
            parts.append(f"the baseline's final {goal['target_loss']:.2f} not reached")
        else:
            share = reached / goal["num_tokens"]
            parts.append(f"the baseline's final loss reached at {share:.0%} of its tokens")
    return "; ".join(parts)


def _dress(axes: "Axes", *, title: str, num_tokens: float) -> None:
    axes.set_title(title, loc="left", fontsize=FONT_POINTS + 1, color=INK, pad=8)
    axes.set_xlim(0, num_tokens)
    axes.xaxis.set_major_formatter(lambda value, _: short_count(value))
    axes.tick_params(labelsize=FONT_POINTS, colors=FAINT, labelcolor=INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=GRID, linewidth=0.7)


def _write_labels(axes: "Axes", labels: Sequence[Label], *, height_inches: float) -> list["Text"]:
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


def _lay_out(
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


def _replace(path: Path, figure: "Figure") -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(temporary, format="png")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
