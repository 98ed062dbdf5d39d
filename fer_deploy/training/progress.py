"""How far a run is, and its weights so far: all that a checkpoint keeps beside the network and its updater."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import nn

from fer_deploy.errors import one_line
from fer_deploy.recipes import Stage
from fer_deploy.training.checkpoint import Checkpoint
from fer_deploy.training.optim import Updater
from fer_deploy.training.watcher import EpochRow

BestBy = Literal["accuracy", "loss", "macro-f1"]
"""A recipe's `best_by`."""

IN_WORDS: Mapping[BestBy, str] = {"accuracy": "accuracy", "loss": "loss", "macro-f1": "macro-F1"}
"""What chooses the best epoch, for messages."""

State = dict[str, torch.Tensor]
"""A network's weights and buffers by name."""

_NO_NUMBERS = ("best", "stage_best", "initialisation", "weights_sha256")
"""Fields that a checkpoint keeps outside its `progress` entry."""


@dataclass(eq=False)
class Progress:
    """A run's counters, and its best weights so far."""

    initialisation: str
    """Where the first weights came from."""
    stage: int = 0
    """Counted from 0."""
    epoch_in_stage: int = 0
    """Finished epochs of this stage."""
    batch: int = 0
    """Finished batches of this epoch."""
    epochs_run: int = 0
    images_seen: int = 0
    loss_sum: float = 0.0
    """Over this epoch's faces, as are `correct` and `faces`, each in this process alone."""
    correct: int = 0
    faces: int = 0
    epoch_seconds: float = 0.0
    """Training time of this epoch."""
    best_epoch: int = 0
    """Counted from 1; 0 before the first epoch's end."""
    epochs_without_better: int = 0
    seconds: float = 0.0
    """Training and validation time of the whole run."""
    started: str = ""
    """When the run began, in UTC."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The finished epochs, each a row of `history.csv`."""
    best: State = field(default_factory=dict)
    """The weights of `best_epoch`; empty before the first epoch's end."""
    stage_best: State = field(default_factory=dict)
    """The weights of this stage's best epoch; the same object as `best` if that is the best of all."""
    weights_sha256: str = ""
    """SHA-256 of the saved weights; empty before the first epoch's end."""

    def to_checkpoint(
        self, network: nn.Module, updater: Updater, *, batch_size: int, unlabelled_sha256: str
    ) -> Checkpoint:
        """The whole state of a run."""
        updates = updater.to_checkpoint()
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()} | dict(updates.tensors)
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        if self.stage_best is not self.best:
            tensors |= {f"stage_best.{name}": tensor for name, tensor in self.stage_best.items()}
        state = {
            "progress": {entry.name: getattr(self, entry.name) for entry in _number_fields()},
            **updates.state,
            "batch_size": batch_size,
            "initialisation": self.initialisation,
            "weights_sha256": self.weights_sha256,
            "unlabelled_sha256": unlabelled_sha256,
        }
        return Checkpoint(tensors, state)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Progress:
        """The progress that `to_checkpoint` kept.

        Raises:
            ValueError, KeyError, TypeError: the checkpoint is damaged.
        """
        state = checkpoint.state
        names = {entry.name for entry in _number_fields()}
        best = checkpoint.part("best")
        progress = cls(
            **{name: value for name, value in state["progress"].items() if name in names},
            best=best,
            stage_best=checkpoint.part("stage_best") or best,
            initialisation=state["initialisation"],
            weights_sha256=state["weights_sha256"],
        )
        _check_types(progress, "progress")
        for row in progress.rows:
            _check_types(EpochRow(**row), "a row of the history")
        if len(progress.rows) != progress.epochs_run or progress.best_epoch > progress.epochs_run:
            raise ValueError(f"{progress.epochs_run} epochs with {len(progress.rows)} rows of history")
        if bool(best) != bool(progress.best_epoch):
            raise ValueError("the best weights are missing")
        return progress

    def begin_stage(self, index: int) -> None:
        """Go to the start of a stage, counted from 0."""
        self.stage, self.epoch_in_stage, self.batch = index, 0, 0
        self.epochs_without_better = 0

    def stage_rows(self) -> list[dict[str, Any]]:
        """The finished epochs of this stage."""
        return [row for row in self.rows if row["stage"] == self.stage + 1]

    def end_epoch(self, row: EpochRow, weights: State, *, best_by: BestBy) -> bool:
        """Take an epoch's results, and its weights if they are the best so far; whether they are the best of all.

        Args:
            row: the epoch's results.
            weights: what was validated.
            best_by: the recipe's.
        """
        content = {entry.name: getattr(row, entry.name) for entry in fields(row)}
        score = _score(content, best_by)
        is_best = score > _best_score(self.rows, best_by)
        if score > _best_score(self.stage_rows(), best_by):
            self.epochs_without_better = 0
            self.stage_best = {name: tensor.detach().clone() for name, tensor in weights.items()}
        else:
            self.epochs_without_better += 1
        self.epochs_run += 1
        self.epoch_in_stage += 1
        if is_best:
            self.best_epoch = self.epochs_run
            self.best = self.stage_best
        self.rows.append(content)
        self.batch, self.faces, self.correct = 0, 0, 0
        self.loss_sum, self.epoch_seconds = 0.0, 0.0
        return is_best

    def goals_reached(self, stages: tuple[Stage, ...]) -> list[dict[str, Any]]:
        """For each stage that reached its goal: stage and epoch, counted from 1, the goal, and the accuracy there."""
        reached = []
        for number, stage in enumerate(stages, 1):
            rows = (row for row in self.rows if row["stage"] == number and row["validation_accuracy"] >= stage.goal)
            if stage.goal and (row := next(rows, None)):
                keys = ("stage", "epoch", "validation_accuracy")
                reached.append({**{key: row[key] for key in keys}, "goal": stage.goal})
        return reached

    def stage_end(self, stages: tuple[Stage, ...], *, best_by: BestBy = "accuracy") -> str | None:
        """Why this stage ends after the epochs so far; None if it has another epoch.

        The reason is empty when the stage has had all its epochs.
        """
        stage = stages[self.stage]
        for reached in self.goals_reached(stages):
            if reached["stage"] == self.stage + 1:
                return f"validation accuracy {reached['validation_accuracy']:.2%} reaches the goal of {stage.goal:.2%}"
        if self.epoch_in_stage >= stage.length:
            return ""
        if stage.patience and self.epochs_without_better >= stage.patience:
            return f"no better validation {IN_WORDS[best_by]} in {stage.patience} epochs"
        return None

    def epochs_planned(self, stages: tuple[Stage, ...]) -> int:
        """The most epochs that the whole run can have."""
        return self.epochs_run - self.epoch_in_stage + sum(stage.length for stage in stages[self.stage :])


def _number_fields() -> list[Any]:
    return [entry for entry in fields(Progress) if entry.name not in _NO_NUMBERS]


_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,)}


def _check_types(values: Progress | EpochRow, what: str) -> None:
    """Check that fields of int, float and str hold such values, and no negative counts: ValueError if not.

    Losses may be NaN or infinite: a run may have had such an epoch under a gradient scaler.
    """
    for entry in fields(values):
        value: Any = getattr(values, entry.name)
        kinds = _TYPES.get(str(entry.type), (object,))
        is_negative = isinstance(value, int) and value < 0
        if not isinstance(value, kinds) or isinstance(value, bool) or is_negative:
            raise ValueError(f"{what}: {entry.name} is {one_line(repr(value), limit=40)}")


def _score(row: dict[str, Any], best_by: BestBy) -> float:
    """What chooses the best epoch, higher is better; a loss of NaN is never the best."""
    if best_by == "loss":
        loss: float = row["validation_loss"]
        return -math.inf if math.isnan(loss) else -loss
    score = row["validation_accuracy" if best_by == "accuracy" else "validation_macro_f1"]
    return -math.inf if score is None else float(score)


def _best_score(rows: list[dict[str, Any]], best_by: BestBy) -> float:
    return max((_score(row, best_by) for row in rows), default=-math.inf)
