"""Writes a run's folder: run.json, history.csv, weights and checkpoint, each whole or not at all."""

from __future__ import annotations

import csv
import io
import os
import platform
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_deploy import __version__
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import RunError, printable
from fer_deploy.faces import Dataset
from fer_deploy.files import open_regular, write_json
from fer_deploy.models.cost import Cost
from fer_deploy.recipes import Recipe, recipe_to_dict
from fer_deploy.training.checkpoint import Checkpoint, write_checkpoint
from fer_deploy.training.data import TrainingData, summary_of
from fer_deploy.training.devices import Processes, describe_device
from fer_deploy.training.losses import balanced_weights
from fer_deploy.training.progress import Progress
from fer_deploy.training.record import RUN_FORMAT, fingerprint
from fer_deploy.training.run import save_weights
from fer_deploy.training.watcher import EpochRow

CHECKPOINT_NAME = "checkpoint.safetensors"


@dataclass(frozen=True, eq=False)
class RunWriter:
    """Writes the folder of one run. In all processes but the first, its methods do nothing."""

    folder: Path
    recipe: Recipe
    dataset: Dataset
    data: TrainingData
    seed: int
    cost: Cost
    device: torch.device
    processes: Processes

    def clear(self, *, restart: bool) -> None:
        """Remove the partial files that a kill left and, to `restart`, the old run too."""
        if not self.processes.writes:
            return
        for partial in self.folder.glob(".*.partial"):
            partial.unlink(missing_ok=True)
        if restart:
            for name in (CHECKPOINT_NAME, "run.json", "history.csv", "weights.safetensors"):
                (self.folder / name).unlink(missing_ok=True)

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint."""
        if self.processes.writes:
            write_checkpoint(self.folder / CHECKPOINT_NAME, checkpoint)

    def save_best(self, progress: Progress) -> None:
        """Write the best weights so far, rounded to half precision, and note their SHA-256."""
        if self.processes.writes:
            progress.weights_sha256 = save_weights(self.folder, progress.best)

    def write_history(self, progress: Progress) -> None:
        """Append to history.csv the epochs that it does not have yet. It only ever grows, whenever a kill comes.

        Raises:
            RunError: the file is not the beginning of this run's history.
        """
        if not self.processes.writes:
            return
        path = self.folder / "history.csv"
        buffer = io.StringIO()
        columns = [entry.name for entry in fields(EpochRow)]
        if self.recipe.best_by != "macro-f1":
            columns.remove("validation_macro_f1")
        writer = csv.DictWriter(buffer, columns, lineterminator="\n")
        writer.writeheader()
        for row in progress.rows:
            values = ((name, row[name]) for name in columns)
            writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in values})
        wanted = buffer.getvalue().encode()
        present = b""
        if path.exists():
            with open_regular(path, what="history", error=RunError) as file:
                present = file.read(len(wanted) + 1)
        if not wanted.startswith(present):
            raise RunError(f"{path}: was changed by something else: restore it, or train again with --restart")
        with path.open("ab") as output:
            output.write(wanted[len(present) :])
            output.flush()
            os.fsync(output.fileno())

    def write_record(
        self, progress: Progress, *, rounded: tuple[float, float] | None = None, temperature: float | None = None
    ) -> None:
        """Write run.json.

        Args:
            progress: the run's.
            rounded: accuracy and macro-F1 of the final weights on the validation faces, 0 to 1; given when the run is
                complete.
            temperature: divides the final weights' logits; likewise.
        """
        if not self.processes.writes:
            return
        complete = rounded is not None
        record: dict[str, Any] = {
            "format": RUN_FORMAT,
            "name": self.folder.name,
            "status": "complete" if complete else "training",
            "title": self.recipe.title,
            "best": self._best(progress, rounded),
            "temperature": temperature,
            "weights_sha256": progress.weights_sha256,
            "parameters": self.cost.parameters,
            "gflops": self.cost.gflops,
            "epochs_run": progress.epochs_run,
            "epochs_planned": progress.epochs_planned(self.recipe.stages),
            "images_seen": progress.images_seen,
            "initialisation": printable(progress.initialisation),
            "seed": self.seed,
            "data": self._data(),
            "started": progress.started,
            "finished": now() if complete else None,
            "seconds": round(progress.seconds, 1),
            "machine": {
                "device": describe_device(self.device),
                "processes": self.processes.count,
                "system": platform.system(),
            },
            "versions": {
                "ferdeploy": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "recipe": recipe_to_dict(self.recipe),
            "fingerprint": fingerprint(self.recipe, self.dataset, seed=self.seed),
        }
        if goals := progress.goals_reached(self.recipe.stages):
            record["goals_reached"] = goals
        write_json(self.folder / "run.json", record)

    def _best(self, progress: Progress, rounded: tuple[float, float] | None) -> dict[str, Any] | None:
        """The record's best epoch; None before the first epoch's end."""
        if not progress.best_epoch:
            return None
        row = progress.rows[progress.best_epoch - 1]
        accuracy, macro_f1 = rounded or (row["validation_accuracy"], row.get("validation_macro_f1"))
        best = {"stage": row["stage"], "epoch": row["epoch"], "validation_accuracy": accuracy}
        return {**best, "validation_macro_f1": macro_f1} if self.recipe.best_by == "macro-f1" else best

    def _data(self) -> dict[str, Any]:
        """The record's facts about the faces; what plain FER2013 has by default is left out."""
        facts = {
            "name": printable(self.dataset.name),
            "official": self.dataset.official,
            "sha256": self.dataset.sha256,
            "training_rows": self.data.labelled,
            "copies_left_out": int(self.dataset.copies.sum()),
            "validation_rows": len(self.data.validation_images),
        }
        if self.data.labels != EMOTIONS:
            facts["labels"] = list(self.data.labels)
        for name, value in (("label_map", self.dataset.label_map), ("split", self.dataset.drawn)):
            if value is not None:
                facts[name] = dict(value)
        if any(stage.loss.class_weights == "balanced" for stage in self.recipe.stages):
            facts["class_weights"] = list(balanced_weights(self.data.counts))
        facts["summary"] = summary_of(self.dataset).to_dict()
        if self.data.unlabelled_sha256:
            facts["unlabelled_faces"] = len(self.data) - self.data.labelled
            facts["unlabelled_sha256"] = self.data.unlabelled_sha256
        return facts


def now() -> str:
    """The time in UTC, to the second, as run.json has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
