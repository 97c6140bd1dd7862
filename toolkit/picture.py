"""One picture of a run: where the mixture went, why, and what the target gained.

`draw` stacks up to three panels over one axis of training tokens: mixture weights; alignment
scores, if any were measured; target loss, if it was evaluated. Each panel paints its curves and
hands back labels; `toolkit.picture_layout` then puts panels, labels and title in their places and
writes the file. matplotlib is imported when a picture is drawn and not before; without pyplot
nothing global is touched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolkit.explain import (
    counted_updates,
    headline,
    moves,
    noticeable_moves,
    percent,
    short_count,
    shortened,
)
from toolkit.history import RunHistory, score_errors, tokens_to_reach
from toolkit.picture_layout import (
    DOTS_PER_INCH,
    FAINT,
    FONT_POINTS,
    INK,
    Label,
    Panel,
    dress,
    lay_out,
    replace,
    wrapped,
    write_labels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart with any of the common colour blindnesses (OKLab distance >= 0.067 under simulated
# protanopia, deuteranopia and tritanopia), and each at least 2.5 : 1 against white.
PALETTE = (
    *("#0072B2", "#D98200", "#009E73", "#C44601", "#CC79A7", "#770022"),
    *("#003388", "#33AAFF", "#884466", "#992200", "#443355", "#115599"),
)
OTHER_COLOUR = "#C4C4C4"
ARROWS: Mapping[str, Literal["up", "down"]] = {"↑": "up", "↓": "down"}
TITLE_CHARACTERS, SUBTITLE_CHARACTERS = 88, 124  # what fits a line; lay_out shrinks wider letters
NUM_CROWDED = 8  # with more lines bands fade; with more points markers go


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
        dress(axes, title=panel.title, num_tokens=num_tokens)
        texts += write_labels(axes, labels, height_inches=panel.height_inches)
    columns[-1, 0].set_xlabel("training tokens", fontsize=FONT_POINTS, color=FAINT)
    title = wrapped(headline(history), num_characters=TITLE_CHARACTERS)
    subtitle = wrapped(_subtitle(history, baseline), num_characters=SUBTITLE_CHARACTERS)
    lay_out(figure, heights, texts, title=title, subtitle=subtitle)
    replace(path, figure)


def _panels(history: RunHistory, baseline: RunHistory | None) -> list[Panel]:
    colours = domain_colours(history)
    weights = Panel(
        title=_weights_title(history),
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
    floor = [0.0] * len(num_tokens)
    labels = []
    for band in reversed(_bands(history, colours)):
        heights = [sum(m.weights[d] for d in band.domains) for m in (*mixtures, mixtures[-1])]
        top = [below + height for below, height in zip(floor, heights, strict=True)]
        style: dict[str, Any] = {"color": band.colour, "edgecolor": "white", "linewidth": 0.5}
        axes.fill_between(num_tokens, floor, top, step="post", **style)
        middle = (floor[-1] + top[-1]) / 2
        label = Label(text=band.text, num_tokens=num_tokens[-1], value=middle, colour=band.colour)
        labels.append(label)
        floor = top
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return labels


@dataclass(frozen=True, kw_only=True)
class Band:
    """The area of one or more domains among the stacked weights, and its label's text."""

    text: str
    colour: str
    domains: Sequence[str]


def _bands(history: RunHistory, colours: Mapping[str, str]) -> list[Band]:
    """The areas from the top; an arrow in the label tells where a weight went since the start."""
    weights = history.mixtures[-1].weights
    arrows = {
        move.domain: f" {arrow}"
        for arrow, direction in ARROWS.items()
        for move in noticeable_moves(history, direction=direction)
    }
    bands = []
    for domain, colour in colours.items():
        text = f"{shortened(domain)} {_weight(weights[domain])}{arrows.get(domain, '')}"
        bands.append(Band(text=text, colour=colour, domains=[domain]))
    rest = [domain for domain in history.start["domains"] if domain not in colours]
    if rest:
        text = f"other ({len(rest)}) {_weight(sum(weights[domain] for domain in rest))}"
        bands.append(Band(text=text, colour=OTHER_COLOUR, domains=rest))
    return bands


def _weight(share: float) -> str:
    return percent(share, num_decimals=1 if share < 0.0095 else 0)


def _weights_title(history: RunHistory) -> str:
    """Names the weight that all domains started from, where they did and have moved since."""
    title = "Mixture weights, as trained on"
    first = history.start["weights"].values()
    started_equal = max(first) - min(first) < 1e-9
    has_moved = history.mixtures[-1].weights != history.start["weights"]
    if started_equal and has_moved:
        return f"{title}; all started at {percent(max(first), num_decimals=1)}"
    return title


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
        parts.append(counted_updates(history))
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
