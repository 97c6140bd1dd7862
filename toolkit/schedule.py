"""The learning rate of each step, as a share of the peak."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

FINAL_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class LearningRateSchedule:
    """Linear warm-up to the peak, then a cosine to a tenth of it at the last step, or constant."""

    shape: Literal["cosine", "constant"]
    warmup_steps: int
    """Steps of warm-up; the last of them takes the peak."""
    num_steps: int
    """Optimizer steps of the whole run."""

    def __call__(self, step: int) -> float:
        """The share of the peak that step number `step` takes, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.shape == "constant":
            return 1.0
        num_decay_steps = self.num_steps - self.warmup_steps
        progress = min(1.0, (step + 1 - self.warmup_steps) / num_decay_steps)
        return FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * progress)) / 2
