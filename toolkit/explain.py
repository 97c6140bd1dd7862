"""What a run's history says, in words: for a terminal, and for the titles of the picture.

1. `moves` pairs each domain's first weight with its last; `noticeable_moves` keeps those worth a
   word.
2. `headline` says in one line which domains the mixture moved toward and away from.
3. `explain` adds a sentence per named domain, which sets its latest scores beside the average
   domain's, then a table of the weights and the figures of the run.
4. `compare` sets the run beside a baseline.

A run that only observed (it measured alignments and held its weights) is told by its scores.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from toolkit.history import RunHistory, UpdateRow, score_errors, tokens_to_reach

NUM_RECENT_UPDATES = 10  # what scores are averaged over
NOTICEABLE = 0.05  # the least change worth a word, as a share of the even weight 1 / domains
NUM_NAMED_MOVES = 3
NUM_TABLE_ROWS = 20
NAME_WIDTH = 24
BAR_WIDTH = 24


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


def noticeable_moves(history: RunHistory, *, direction: Literal["up", "down"]) -> list[Move]:
    """The moves in one direction that are worth a word, the longest first."""
    sign = 1 if direction == "up" else -1
    least = NOTICEABLE / len(history.start["domains"])
    found = [move for move in moves(history) if sign * move.change > least]
    return sorted(found, key=lambda move: -sign * move.change)


def headline(history: RunHistory) -> str:
    """What the mixture did, in one line without a full stop."""
    if history.start["mixer"] == "fixed":
        return "The mixture was fixed"
    if not history.updates:
        return "The mixture was not updated yet"
    if _only_observed(history):
        return "The mixture was observed, not moved"
    went = [
        f"{word} {_listed([shortened(move.domain) for move in found[:NUM_NAMED_MOVES]])}"
        for word, direction in _DIRECTIONS.items()
        if (found := noticeable_moves(history, direction=direction))
    ]
    return f"The mixture moved {', '.join(went)}" if went else "The mixture stayed where it started"


_DIRECTIONS: Mapping[str, Literal["up", "down"]] = {"toward": "up", "away from": "down"}


def _only_observed(history: RunHistory) -> bool:
    return history.start["mixer"] == "observe"


def explain(history: RunHistory) -> str:
    """What the mixture did and why, for a terminal: sentences, a table of weights, the figures."""
    story = [f"{headline(history)}.", *_reasons(history)]
    figures = [_losses(history), *_updates(history)]
    return "\n".join([*story, "", *_weight_table(moves(history)), "", *figures])


def _reasons(history: RunHistory) -> list[str]:
    """A sentence for each domain worth naming, and one on the scores in them."""
    recent = history.measured_updates[-NUM_RECENT_UPDATES:]
    if _only_observed(history):
        sentences = _extremes(history.start["domains"], recent)
    else:
        sentences = [
            _reason(move, recent)
            for direction in _DIRECTIONS.values()
            for move in noticeable_moves(history, direction=direction)[:NUM_NAMED_MOVES]
        ]
    if sentences and recent:
        many = len(recent) > 1
        last = f"means over the last {len(recent)} measurements" if many else "of one measurement"
        average = f"{round(_average_score(recent), 2) + 0.0:+.2f}"  # no -0.00
        sentences.append(f"Scores are {last}, ± one standard error; the average is {average}.")
    return sentences


def _reason(move: Move, recent: Sequence[UpdateRow]) -> str:
    verb = "rose" if move.change > 0 else "fell"
    went = f"{move.domain} {verb} from {move.before:.1%} to {move.after:.1%}"
    if not recent:
        return f"{went}."
    score = Score.of(move.domain, recent)
    lead = score.mean - _average_score(recent)
    if abs(lead) <= 2 * score.error:
        return (
            f"{went}; within two standard errors it cannot be told from the average now ({score})."
        )
    joint = ":" if (lead > 0) == (move.change > 0) else ", yet lately"
    more = "more" if lead > 0 else "less"
    return f"{went}{joint} its gradient follows the target's {more} than average ({score})."


def _extremes(domains: Sequence[str], recent: Sequence[UpdateRow]) -> list[str]:
    """The domains of highest and lowest score, if there are two."""
    if not recent or len(domains) < 2:
        return []
    scores = {domain: Score.of(domain, recent) for domain in domains}
    ranked = sorted(domains, key=lambda domain: scores[domain].mean)
    return [
        f"The gradient of {domain} follows the target's {most} ({scores[domain]})."
        for most, domain in {"most": ranked[-1], "least": ranked[0]}.items()
    ]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A domain's mean score over some updates, with the standard error of that mean."""

    mean: float
    error: float

    @classmethod
    def of(cls, domain: str, updates: Sequence[UpdateRow]) -> "Score":
        return cls(
            mean=statistics.fmean(update["scores"][domain] for update in updates),
            error=math.hypot(*(score_errors(update)[domain] for update in updates)) / len(updates),
        )

    def __str__(self) -> str:
        return f"score {self.mean:+.2f} ± {self.error:.2f}"


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
        start, end = (percent(share, num_decimals=1) for share in (move.before, move.after))
        bar = _bar(move.after / longest)
        lines.append(f"{shortened(move.domain):<{width}}  {start:>6}  {end:>6}  {bar}")
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
    parts = [f"{counted_updates(history)}, {cost_ms:.0f} ms each on average"]
    reasons = [update["dropped"] for update in history.updates if update["dropped"]]
    if reasons:
        parts.append(f"{len(reasons)} dropped (the last: {reasons[-1]})")
    if _only_observed(history):
        return [f"{', '.join(parts)}."]
    late = len(history.updates) + 1 - len(history.mixtures)
    if late:
        parts.append(f"{late} not in force by the last step")
    # A rail is logged as "name: detail".
    fired = Counter(
        rail.split(":")[0] for update in history.updates for rail in update["guard_rails"]
    )
    rails = ", ".join(f"{name} {count}x" for name, count in fired.most_common())
    return [f"{', '.join(parts)}.", f"Guard rails that fired: {rails or 'none'}."]


def counted_updates(history: RunHistory) -> str:
    """How many updates by which mixer, or how many measurements of one that only observes."""
    number = len(history.updates)
    plural = "" if number == 1 else "s"
    if _only_observed(history):
        return f"{number} measurement{plural}"
    return f"{number} update{plural} by {history.start['mixer']}"


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


def short_count(number: float) -> str:
    """Three significant digits and a unit: 983040 is "983k"."""
    for unit in ("", "k", "M", "B"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"


def percent(share: float, *, num_decimals: int) -> str:
    """A share in percent; one that is not 0 but would read so is "<" the least that can be read."""
    text = f"{share:.{num_decimals}%}"
    least = f"{10.0 ** (-2 - num_decimals):.{num_decimals}%}"
    return f"<{least}" if share > 0 and float(text[:-1]) == 0 else text


def shortened(name: str) -> str:
    """A domain's name, cut to `NAME_WIDTH` characters."""
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
