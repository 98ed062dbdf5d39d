"""The hook for everything that follows a training run: a display, a notebook, a logger.

Subclass `Silent`, override what you need, and give the object to `fer_deploy.training.fit.train` as its `watcher`:

    class Printer(Silent):
        def epoch(self, row: EpochRow, *, best: bool) -> None:
            print(row.epoch, row.validation_accuracy, "best" if best else "")

    train(recipe, dataset, workspace=Path(), watcher=Printer())

`Watchers` combines several. The methods are called in the training process and thread, between its steps, so that slow
ones slow the training down. What they raise ends the run; its last checkpoint remains, as after any other error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fer_deploy.recipes import Recipe, Stage


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
    validation_macro_f1: float | None = None
    """The mean F1 score of the classes, 0 to 1; in `history.csv` only where it chooses the best epoch. None: the epoch
    was trained by a version that did not compute it."""


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

    def preparing(self, what: str, done: int, total: int) -> None:
        """Before training: `done` of `total` pictures are resized; `what` has words for it."""

    def started(self, recipe: Recipe, *, device: str, epochs_done: int) -> None:
        """Training begins or, after `epochs_done` epochs, resumes."""

    def stage(self, stage: Stage, *, number: int, count: int) -> None:
        """Stage `number`, from 1, of `count` begins or resumes. Its class weights are numbers, one for each class."""

    def batch(self, report: BatchReport) -> None:
        """A batch is done."""

    def epoch(self, row: EpochRow, *, best: bool) -> None:
        """An epoch is done; `best` if it is the best so far on the validation faces, by the recipe's `best_by`.

        The run's folder is up to date: checkpoint, history and record.
        """

    def message(self, text: str) -> None:
        """A message of one line."""

    def ended(self, folder: Path, *, complete: bool) -> None:
        """The call ends, with the run complete or stopped, and its folder is up to date. Not called after an error."""


class Silent:
    """A watcher that ignores everything; the base of others."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """Nothing."""

    def started(self, recipe: Recipe, *, device: str, epochs_done: int) -> None:
        """Nothing."""

    def stage(self, stage: Stage, *, number: int, count: int) -> None:
        """Nothing."""

    def batch(self, report: BatchReport) -> None:
        """Nothing."""

    def epoch(self, row: EpochRow, *, best: bool) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def ended(self, folder: Path, *, complete: bool) -> None:
        """Nothing."""


class Watchers:
    """Several watchers as one: each call goes to all of them, in order."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def preparing(self, what: str, done: int, total: int) -> None:
        """To all."""
        for watcher in self._watchers:
            watcher.preparing(what, done, total)

    def started(self, recipe: Recipe, *, device: str, epochs_done: int) -> None:
        """To all."""
        for watcher in self._watchers:
            watcher.started(recipe, device=device, epochs_done=epochs_done)

    def stage(self, stage: Stage, *, number: int, count: int) -> None:
        """To all."""
        for watcher in self._watchers:
            watcher.stage(stage, number=number, count=count)

    def batch(self, report: BatchReport) -> None:
        """To all."""
        for watcher in self._watchers:
            watcher.batch(report)

    def epoch(self, row: EpochRow, *, best: bool) -> None:
        """To all."""
        for watcher in self._watchers:
            watcher.epoch(row, best=best)

    def message(self, text: str) -> None:
        """To all."""
        for watcher in self._watchers:
            watcher.message(text)

    def ended(self, folder: Path, *, complete: bool) -> None:
        """To all."""
        for watcher in self._watchers:
            watcher.ended(folder, complete=complete)
