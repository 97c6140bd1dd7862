"""What a run recorded about itself, read back and put into words.

`read_events` reads the rows of `events.jsonl`. `RunHistory` keeps those that the run still stands
on (a resume voids what was recorded past its checkpoint) and sorts them by kind. `explain` says in
a few sentences what the mixture did and why; `compare` sets a run beside a baseline.
`toolkit.picture` draws the same history.

Alignments come on two scales: `alignments` and `standard_errors` are raw inner products, `scores`
are the normalised values that entered the mixer. Everything shown is in scores.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

EVENTS_FILE = "events.jsonl"
NUM_RECENT_UPDATES = 10  # what explain averages scores over
NOTICEABLE = 0.05  # the least change worth a sentence, as a share of the even weight 1 / domains
NUM_NAMED_MOVES = 3
NUM_TABLE_ROWS = 20
NAME_WIDTH = 24
BAR_WIDTH = 24


class StartRow(TypedDict):
    """Written once, when the run first starts; `weights` hold from sample 0."""

    step: int
    domains: list[str]
    weights: dict[str, float]
    target: str
    global_batch_size: int
    num_steps: int
    mixer: str


class StepRow(TypedDict):
    """The training loss at `step`, and the tokens trained on so far."""

    step: int
    num_tokens: int
    loss: float


class EvaluationRow(TypedDict):
    """Validation losses after `step` steps, in nats per token."""

    step: int
    num_tokens: int
    target_loss: float
    domain_losses: dict[str, float]


class UpdateRow(TypedDict):
    """One update of the mixture; a dropped one gives the reason and repeats the old weights."""

    step: int
    num_tokens: int
    alignments: dict[str, float]
    standard_errors: dict[str, float]
    scores: dict[str, float]
    weights: dict[str, float]
    guard_rails: list[str]
    effective_from: int
    cost_ms: float
    dropped: str | None


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The weights that samples are drawn with from global sample index `effective_from` on."""

    effective_from: int
    weights: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """What one run did, each kind of row in order of steps."""

    start: StartRow
    steps: tuple[StepRow, ...]
    evaluations: tuple[EvaluationRow, ...]
    updates: tuple[UpdateRow, ...]

    @classmethod
    def from_events(cls, events: Iterable[Mapping[str, Any]]) -> "RunHistory":
        """The history told by the rows of `read_events`; ValueError if none is a start row."""
        rows: list[Mapping[str, Any]] = []
        for event in events:
            if event["kind"] in ("start", "resume"):
                rows = [row for row in rows if row["step"] <= event["step"]]
            rows.append(event)
        # What is due at the checkpoint's own step may be recorded once more after the resume.
        latest = {(row["kind"], row["step"]): row for row in rows}
        by_kind: dict[str, list[Any]] = {}
        for row in latest.values():
            by_kind.setdefault(row["kind"], []).append(row)
        if "start" not in by_kind:
            raise ValueError("no row of kind 'start', which a run writes before its first step")
        return cls(
            start=by_kind["start"][0],
            steps=tuple(by_kind.get("step", ())),
            evaluations=tuple(by_kind.get("evaluation", ())),
            updates=tuple(by_kind.get("update", ())),
        )

    @property
    def _last(self) -> StepRow | EvaluationRow | UpdateRow | None:
        ends = [rows[-1] for rows in (self.steps, self.evaluations, self.updates) if rows]
        return max(ends, key=lambda row: row["step"], default=None)

    @property
    def num_tokens(self) -> int:
        """Tokens trained on up to the last row."""
        return self._last["num_tokens"] if self._last else 0

    @property
    def num_samples(self) -> int:
        """Samples trained on up to the last row."""
        return self._last["step"] * self.start["global_batch_size"] if self._last else 0

    @property
    def num_tokens_per_sample(self) -> float:
        """Tokens in one sample; ValueError if no row past step 0 tells."""
        if not self.num_samples:
            raise ValueError("the run recorded nothing past step 0: tokens per sample unknown")
        return self.num_tokens / self.num_samples

    @property
    def mixtures(self) -> tuple[Mixture, ...]:
        """The mixtures that samples were really drawn with, the first from sample 0."""
        changes = (
            Mixture(effective_from=update["effective_from"], weights=update["weights"])
            for update in self.updates
            if update["effective_from"] < self.num_samples
        )
        return (Mixture(effective_from=0, weights=self.start["weights"]), *changes)

    @property
    def measured_updates(self) -> tuple[UpdateRow, ...]:
        """The updates whose scores moved the mixture: measured, and not dropped."""
        return tuple(
            update for update in self.updates if update["scores"] and not update["dropped"]
        )


def read_events(path: Path) -> list[dict[str, Any]]:
    """The rows of an event file, in order.

    A last line that has no newline and does not parse was cut off when the run was killed: it is
    left out. Any other line that is no object with a kind and a step is a ValueError naming it.
    """
    *lines, last = path.read_bytes().split(b"\n")
    rows = [_parse(line, place=f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    try:
        json.loads(last.decode())
    except ValueError:
        return rows
    return [*rows, _parse(last, place=f"{path}:{len(lines) + 1}")]


def _parse(line: bytes, *, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except ValueError as error:
        raise ValueError(f"{place}: not a line of JSON: {error}") from error
    if not (isinstance(row, dict) and {"kind", "step"} <= row.keys()):
        raise ValueError(f"{place}: expected an object with 'kind' and 'step', got {line[:80]!r}")
    return row


def load_history(run_folder: Path) -> RunHistory:
    """The history in a run folder; ValueError naming the file if it holds none."""
    path = run_folder / EVENTS_FILE
    events = read_events(path)
    try:
        return RunHistory.from_events(events)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def score_errors(update: UpdateRow) -> dict[str, float]:
    """The standard error of each domain's score.

    Scores are the raw alignments shifted and divided by one scale common to all domains, so the
    ratio of the spreads is that scale. Without a spread there is no scale, and the errors are 0.
    """
    spread = statistics.pstdev(update["alignments"].values())
    scale = statistics.pstdev(update["scores"].values()) / spread if spread else 0.0
    return {domain: error * scale for domain, error in update["standard_errors"].items()}


@dataclass(frozen=True, kw_only=True)
class Move:
    """How far the weight of one domain went over the run."""

    domain: str
    before: float
    after: float

    @property
    def change(self) -> float:
        return self.after - self.before


def moves(history: RunHistory) -> list[Move]:
    """First and last weight of every domain, the largest last weight first."""
    before, after = history.start["weights"], history.mixtures[-1].weights
    found = (Move(domain=d, before=before[d], after=after[d]) for d in history.start["domains"])
    return sorted(found, key=lambda move: -move.after)


def furthest_moves(history: RunHistory, *, direction: Literal["up", "down"]) -> list[Move]:
    """The few noticeable moves in one direction, the longest first."""
    sign = 1 if direction == "up" else -1
    least = NOTICEABLE / len(history.start["domains"])
    found = [move for move in moves(history) if sign * move.change > least]
    return sorted(found, key=lambda move: -sign * move.change)[:NUM_NAMED_MOVES]


def headline(history: RunHistory) -> str:
    """What the mixture did, in one line without a full stop."""
    if not history.updates:
        return "The mixture was fixed"
    went = [
        f"{word} {_listed([shortened(move.domain) for move in found])}"
        for word, direction in _DIRECTIONS.items()
        if (found := furthest_moves(history, direction=direction))
    ]
    return f"The mixture moved {', '.join(went)}" if went else "The mixture stayed where it started"


_DIRECTIONS: Mapping[str, Literal["up", "down"]] = {"toward": "up", "away from": "down"}


def explain(history: RunHistory) -> str:
    """What the mixture did and why, for a terminal: sentences, a table of weights, the figures."""
    story = [f"{headline(history)}.", *_reasons(history)]
    figures = [_losses(history), *_updates(history)]
    return "\n".join([*story, "", *_weight_table(moves(history)), "", *figures])


def _reasons(history: RunHistory) -> list[str]:
    """One sentence for each move of the headline, from the scores of the last updates."""
    recent = history.measured_updates[-NUM_RECENT_UPDATES:]
    sentences = []
    for direction in _DIRECTIONS.values():
        for move in furthest_moves(history, direction=direction):
            verb = "rose" if direction == "up" else "fell"
            went = f"{move.domain} {verb} from {move.before:.1%} to {move.after:.1%}"
            sentences.append(f"{went}: {_reason(recent, move)}." if recent else f"{went}.")
    if sentences and recent:
        last = f"means over the last {len(recent)} updates" if len(recent) > 1 else "of one update"
        average = f"{round(_average_score(recent), 2) + 0.0:+.2f}"  # no -0.00
        sentences.append(f"(Scores are {last}; the average domain's is {average}.)")
    return sentences


def _reason(recent: Sequence[UpdateRow], move: Move) -> str:
    score = statistics.fmean(update["scores"][move.domain] for update in recent)
    error = math.hypot(*(score_errors(update)[move.domain] for update in recent)) / len(recent)
    lead = score - _average_score(recent)
    if abs(lead) <= 2 * error:
        stands = "its gradient now follows the target's as the average domain's does"
    else:
        lately = "" if (lead > 0) == (move.change > 0) else "yet lately "
        more = "more" if lead > 0 else "less"
        stands = f"{lately}its gradient follows the target's {more} than the average domain's"
    return f"{stands} (score {score:+.2f} ± {error:.2f})"


def _average_score(updates: Sequence[UpdateRow]) -> float:
    return statistics.fmean(statistics.fmean(update["scores"].values()) for update in updates)


def _weight_table(rows: Sequence[Move]) -> list[str]:
    """Domains with their first and last weight and a bar of the last; small ones are summed."""
    shown, rest = list(rows[:NUM_TABLE_ROWS]), rows[NUM_TABLE_ROWS:]
    if rest:
        before, after = sum(move.before for move in rest), sum(move.after for move in rest)
        shown.append(Move(domain=f"{len(rest)} others", before=before, after=after))
    width = max(len("domain"), *(len(shortened(move.domain)) for move in shown))
    longest = max(move.after for move in shown)
    lines = [f"{'domain':<{width}}   start     end"]
    for move in shown:
        weights = f"{move.before:>6.1%}  {move.after:>6.1%}"
        lines.append(f"{shortened(move.domain):<{width}}  {weights}  {_bar(move.after / longest)}")
    return [line.rstrip() for line in lines]


def _bar(share: float) -> str:
    full, eighths = divmod(round(share * BAR_WIDTH * 8), 8)
    return "█" * full + " ▏▎▍▌▋▊▉"[eighths].strip()


def _losses(history: RunHistory) -> str:
    if not history.evaluations:
        return "The target loss was not evaluated yet."
    first, last = history.evaluations[0], history.evaluations[-1]
    if first is last:
        return f"The target loss was {first['target_loss']:.3f} at step {first['step']}."
    went = f"from {first['target_loss']:.3f} to {last['target_loss']:.3f}"
    return f"The target loss went {went} over {short_count(last['num_tokens'])} tokens."


def _updates(history: RunHistory) -> list[str]:
    if not history.updates:
        return []
    cost_ms = statistics.fmean(update["cost_ms"] for update in history.updates)
    count = "1 update" if len(history.updates) == 1 else f"{len(history.updates)} updates"
    parts = [f"{count} by {history.start['mixer']}, {cost_ms:.0f} ms each on average"]
    reasons = [update["dropped"] for update in history.updates if update["dropped"]]
    if reasons:
        parts.append(f"{len(reasons)} dropped (the last: {reasons[-1]})")
    late = len(history.updates) + 1 - len(history.mixtures)
    if late:
        parts.append(f"{late} not in force by the last step")
    # A rail is logged as "name: detail".
    fired = Counter(
        rail.split(":")[0] for update in history.updates for rail in update["guard_rails"]
    )
    rails = ", ".join(f"{name} {count}x" for name, count in fired.most_common())
    return [f"{', '.join(parts)}.", f"Guard rails that fired: {rails or 'none'}."]


def compare(history: RunHistory, baseline: RunHistory) -> str:
    """A table of target losses before and after, and how soon the run matched the baseline.

    ValueError if either was evaluated less than twice.
    """
    runs = {"the run": history, "the baseline": baseline}
    for name, run in runs.items():
        if len(run.evaluations) < 2:
            raise ValueError(f"{name} has {len(run.evaluations)} evaluations; comparing takes two")
    lines = [f"{'':<18}{'run':>10}{'baseline':>10}{'difference':>12}"]
    for label, index in {"target loss before": 0, "target loss after": -1}.items():
        ours, theirs = (run.evaluations[index]["target_loss"] for run in runs.values())
        lines.append(f"{label:<18}{ours:>10.4f}{theirs:>10.4f}{ours - theirs:>+12.4f}")
    totals = [short_count(run.evaluations[-1]["num_tokens"]) for run in runs.values()]
    lines.append(f"{'tokens':<18}{totals[0]:>10}{totals[1]:>10}")
    goal = baseline.evaluations[-1]
    num_tokens = tokens_to_reach(history, target_loss=goal["target_loss"])
    if num_tokens is None:
        reached = "not reached"
    else:
        share = num_tokens / goal["num_tokens"]
        reached = f"reached at {short_count(num_tokens)} tokens, {share:.3f} of the baseline's"
    return "\n".join([*lines, "", f"The baseline's final {goal['target_loss']:.4f}: {reached}."])


def tokens_to_reach(history: RunHistory, *, target_loss: float) -> float | None:
    """Tokens at which the run's target loss first came down to `target_loss`, or None.

    Linear between evaluations.
    """
    previous: EvaluationRow | None = None
    for row in history.evaluations:
        if row["target_loss"] <= target_loss:
            if previous is None:
                return row["num_tokens"]
            fall = previous["target_loss"] - row["target_loss"]
            share = (previous["target_loss"] - target_loss) / fall
            return previous["num_tokens"] + share * (row["num_tokens"] - previous["num_tokens"])
        previous = row
    return None


def short_count(number: float) -> str:
    """Three significant digits and a unit: 983040 is "983k"."""
    for unit in ("", "k", "M", "B"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"


def shortened(name: str) -> str:
    """A domain's name, cut to `NAME_WIDTH` characters."""
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
