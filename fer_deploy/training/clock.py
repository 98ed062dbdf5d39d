"""A run's clock: when the next checkpoint is due, and whether the next step still fits into the time limit."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(eq=False)
class RunClock:
    """Measures what a run's steps, validations and checkpoints take. All times are in seconds."""

    limit_seconds: float | None = None
    """The run ends, saved, before this much time has passed."""
    checkpoint_seconds: float = 120.0
    """Longest time between two checkpoints."""
    began: float = field(default_factory=time.monotonic)
    saved_at: float = field(default_factory=time.monotonic)
    saving_seconds: float = 0.5
    """Duration of the last save; before the first one, a guess."""
    validation_seconds: float | None = None
    """Duration of the last validation; None before the first one."""
    batch_seconds: float = 0.0
    """The slowest recent batch: older ones fade by a tenth a batch."""

    def batch_took(self, seconds: float) -> None:
        """Note a batch's duration."""
        self.batch_seconds = max(seconds, 0.9 * self.batch_seconds)

    def save_took(self, seconds: float) -> None:
        """Note that a checkpoint has just been written, and its duration."""
        self.saved_at = time.monotonic()
        self.saving_seconds = seconds

    def save_is_due(self) -> bool:
        """Whether the last checkpoint is older than `checkpoint_seconds`."""
        return time.monotonic() - self.saved_at > self.checkpoint_seconds

    def is_late(self, *, validation_estimate: float | None = None) -> bool:
        """Whether another step and a save would pass the limit.

        Args:
            validation_estimate: None where no validation comes before the next step; else its duration, if none has
                been measured yet.
        """
        if self.limit_seconds is None:
            return False
        needed = 1.0 + 2 * self.batch_seconds + 2 * self.saving_seconds
        if validation_estimate is not None:
            needed += 1.5 * (validation_estimate if self.validation_seconds is None else self.validation_seconds)
        return time.monotonic() - self.began + needed > self.limit_seconds
