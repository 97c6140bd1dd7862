"""What a run recorded about itself, read back.

1. `read_events` reads the rows of `events.jsonl`.
2. `RunHistory` keeps those that the run still stands on (a resume voids what was recorded past its
   checkpoint), sorts them by kind, and derives which weights were trained on from which sample.
3. `score_errors` and `tokens_to_reach` are the two figures that take more than looking up.

`toolkit.explain` puts a history into words and `toolkit.picture` draws it.

Alignments come on two scales: `alignments` and `standard_errors` are raw inner products, `scores`
are the normalised values that entered the mixer. Everything shown is in scores.
"""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

EVENTS_FILE = "events.jsonl"


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
