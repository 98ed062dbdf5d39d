"""What a training run reports while it runs, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fer_deploy.recipes import Recipe


@dataclass(frozen=True)
class EpochRow:
    """One line of `history.csv`; accuracies and losses are means over faces."""

    epoch: int
    """Counted from 1 over all stages."""
    stage: int
    """Counted from 1."""
    lr: float
    """Learning rate at the epoch's last step."""
    training_loss: float
    training_accuracy: float
    """On augmented faces, against each target's largest class."""
    validation_loss: float
    validation_accuracy: float
    images_per_second: float
    """Training alone, without validation."""
    seconds: float
    """Duration of the whole epoch. An interrupted epoch counts all its parts."""
    images_seen: int
    """Training faces shown since the run began."""


@dataclass(frozen=True)
class BatchReport:
    """How far training is, after each batch."""

    stage: int
    """Counted from 1."""
    epoch: int
    """Counted from 1 over all stages."""
    batch: int
    """Counted from 1 within the epoch."""
    batches: int
    """Batches of each epoch of this stage."""
    epochs_planned: int
    """Most epochs over all stages."""
    loss: float | None
    """Mean over the epoch's faces so far; None until the first look at it."""
    lr: float
    """Learning rate of the next step."""
    images_per_second: float
    """Since this epoch began or resumed."""


class Watcher(Protocol):
    """Receives the progress of a run."""

    def started(self, recipe: Recipe, *, device: str, epochs_done: int) -> None:
        """Training begins or, after `epochs_done` epochs, resumes."""

    def batch(self, report: BatchReport) -> None:
        """A batch is done."""

    def epoch(self, row: EpochRow, *, best: bool) -> None:
        """An epoch is done; `best` if it is the best so far on the validation faces, by the recipe's `best_by`."""

    def message(self, text: str) -> None:
        """A message of one line."""


class Silent:
    """A watcher that ignores everything."""

    def started(self, recipe: Recipe, *, device: str, epochs_done: int) -> None:
        """Nothing."""

    def batch(self, report: BatchReport) -> None:
        """Nothing."""

    def epoch(self, row: EpochRow, *, best: bool) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""
