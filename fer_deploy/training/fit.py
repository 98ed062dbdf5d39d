"""Run a recipe's stages and write the run folder; after a kill at any moment, go on from the last saved step.

Every random draw is a function of the seed and of where it happens (stage, epoch, batch), so no generator's state has
to be saved: a run that was killed and resumed on the same machine's CPU ends with the same weights, bit for bit.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import nn

from fer_deploy import __version__
from fer_deploy.emotions import EMOTIONS
from fer_deploy.ensemble import fit_temperature
from fer_deploy.errors import DataError, RecipeError, RunError, TrainingError
from fer_deploy.faces import Dataset, Faces
from fer_deploy.faces.unlabelled import read_unlabelled
from fer_deploy.files import write_json
from fer_deploy.models import build_network, initialise, measure_cost
from fer_deploy.recipes import Augmentation, Recipe, Stage, recipe_from_dict, recipe_to_dict
from fer_deploy.training.augment import render
from fer_deploy.training.checkpoint import (
    Checkpoint,
    optimiser_tensors,
    read_checkpoint,
    restore_optimiser,
    write_checkpoint,
)
from fer_deploy.training.devices import (
    Processes,
    choose_device,
    describe_device,
    describe_failure,
    join_processes,
)
from fer_deploy.training.distill import Lesson, Teachers, draw_lesson, join_lessons
from fer_deploy.training.kernels import accelerate_network
from fer_deploy.training.losses import Mix, apply_mix, distillation_loss, draw_mix, loss_on_targets
from fer_deploy.training.optim import MovingAverage, Scheduler, make_optimiser
from fer_deploy.training.record import RUN_FORMAT, read_record
from fer_deploy.training.run import Run, load_half_precision, save_weights
from fer_deploy.training.stages import generator_at, seed_at, share_budget
from fer_deploy.training.targets import soft_labels

VALIDATION_BATCH = 512
PRECISE_BN_FACES = 4096
"""At most this many training faces, evenly spaced, give batch norm's figures at the end."""
CHECK_LOSS_EVERY = 20
"""Batches between looks at the loss on a GPU, where a look waits for the device; on the CPU every batch is seen."""
MOST_SKIPPED = 20
"""Losses in a row that may be infinite under a gradient scaler, which skips their steps and lowers its scale."""
CHECKPOINT_NAME = "checkpoint.safetensors"
UNHARMED = "what was saved before is whole: when that is mended, the same command goes on from there"


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
    """The whole epoch's, over all its parts where it was interrupted."""
    images_seen: int
    """Training faces shown since the run began."""


@dataclass(frozen=True)
class BatchReport:
    """Where training stands, after each batch."""

    stage: int
    epoch: int
    batch: int
    batches: int
    epochs_planned: int
    loss: float | None
    lr: float
    images_per_second: float


class Watcher(Protocol):
    """Who is told how training goes; every method may do nothing."""

    def started(self, recipe: Recipe, *, device: str, epochs_done: int) -> None:
        """Training begins or goes on."""

    def batch(self, report: BatchReport) -> None:
        """A batch is done."""

    def epoch(self, row: EpochRow, *, best: bool) -> None:
        """An epoch is done; `best` when none before was better on the validation faces, by what the recipe says."""

    def message(self, text: str) -> None:
        """Something worth a line."""


class Silent:
    """A watcher that says nothing."""

    def started(self, recipe: Recipe, *, device: str, epochs_done: int) -> None:
        """Nothing."""

    def batch(self, report: BatchReport) -> None:
        """Nothing."""

    def epoch(self, row: EpochRow, *, best: bool) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Settings:
    """What a run is given beside recipe and data."""

    seed: int = 0
    epochs: int | None = None
    """Budget of epochs over all stages, or None for the recipe's own."""
    device: str = "auto"
    restart: bool = False
    """Throw away what the folder holds; otherwise it is gone on with."""
    limit_seconds: float | None = None
    """Stop, saved, before this much time has passed."""
    checkpoint_seconds: float = 120.0
    """Longest time between two checkpoints, within epochs too."""


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended: `complete`, `already complete` before it, or `stopped` and to be gone on with."""

    status: Literal["complete", "already complete", "stopped"]
    folder: Path
    epochs_run: int

    def run(self) -> Run:
        """The run with its weights; of a stopped one, the best so far."""
        return Run.open(self.folder, partial=self.status == "stopped")


class _Stopped(Exception):  # noqa: N818
    """Training was asked to stop, and everything is saved."""


@dataclass
class _Progress:
    """The part of a run's state that is plain numbers."""

    stage: int = 0
    epoch_in_stage: int = 0
    batch: int = 0
    epochs_run: int = 0
    images_seen: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    faces: int = 0
    epoch_seconds: float = 0.0
    best_epoch: int = 0
    epochs_without_better: int = 0
    seconds: float = 0.0
    started: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)


def train(
    recipe: Recipe,
    dataset: Dataset,
    *,
    workspace: Path,
    name: str | None = None,
    settings: Settings | None = None,
    watcher: Watcher | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Train a recipe on a data set's training faces, choosing the best epoch on its validation faces.

    Training faces whose pixels equal any validation or test face are left out. The test faces are never looked at.

    Args:
        recipe: what to train.
        dataset: the faces.
        workspace: the folder that holds `training/`; the run is `training/<name>`.
        name: the run's name, the recipe's by default.
        settings: seed, budget, device, limits.
        watcher: is told how training goes.
        should_stop: is asked after each batch; True saves everything and ends the call.

    Returns:
        How it ended.

    Raises:
        RunError: the folder holds another run (another recipe, data or seed) and `restart` was not said, is damaged,
            or cannot be written (disk full, read-only); what was saved before is whole.
        TrainingError: the loss is no longer finite (the best weights so far are kept), or the device was lost.
        UnavailableError: the device or the initial weights asked for are absent.
    """
    settings = settings or Settings()
    recipe = share_budget(recipe, settings.epochs)
    folder = workspace / "training" / (name or recipe.name)
    return _Training(
        recipe, dataset, folder, workspace, settings, watcher or Silent(), should_stop or (lambda: False)
    ).run()


class _Training:
    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        folder: Path,
        workspace: Path,
        settings: Settings,
        watcher: Watcher,
        should_stop: Callable[[], bool],
    ) -> None:
        self.recipe = recipe
        self.dataset = dataset
        self.folder = folder
        self.workspace = workspace
        self.settings = settings
        self.watcher = watcher
        self.should_stop = should_stop
        self.began = time.monotonic()
        self.saved_at = self.began
        self.saving_seconds = 0.5
        self.validation_seconds: float | None = None
        self.batch_seconds = 0.0
        self.bad_in_a_row = 0
        self.progress = _Progress(started=_now())
        self.best: dict[str, torch.Tensor] = {}
        self.stage_best: dict[str, torch.Tensor] = {}
        self.weights_sha256 = ""
        self.initialisation = ""
        self.pending: list[_Pending] = []

    # -- the run ------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        try:
            return self._run()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise RunError(f"{error.filename or self.folder}: {reason}: {UNHARMED}") from error
        except RuntimeError as error:
            failure = describe_failure(error)
            if failure is None:
                raise
            raise TrainingError(f"{self.folder.name}: {failure}: {UNHARMED}") from error

    def _run(self) -> Outcome:
        if self._is_complete():
            return self._already_complete()
        with self._alone():
            return self._already_complete() if self._is_complete() else self._train()

    def _already_complete(self) -> Outcome:
        return Outcome("already complete", self.folder, int(Run.open(self.folder).record["epochs_run"]))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the run's folder, so that no other command trains it at the same time."""
        if int(os.environ.get("RANK", "0")):
            yield
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder.parent / f".{self.folder.name}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise RunError(f"{self.folder}: another command is training this run: let it go on, or end it") from error
        try:
            yield
        finally:
            lock.release()

    def _train(self) -> Outcome:
        path = self.folder / CHECKPOINT_NAME
        begin = self.settings.restart or not (self.folder / "run.json").exists() or not path.exists()
        checkpoint = None if begin else read_checkpoint(path)
        self.device = choose_device(self.settings.device)
        self.processes: Processes = join_processes(self.device)
        self._load_data()
        self._prepare_network(checkpoint)
        if self.processes.writes:
            self._clear_away()
        if checkpoint is None:
            self._write_record("training")
        self.watcher.started(self.recipe, device=describe_device(self.device), epochs_done=self.progress.epochs_run)
        try:
            for stage_index in range(self.progress.stage, len(self.recipe.stages)):
                self._run_stage(stage_index, checkpoint)
                checkpoint = None
        except _Stopped:
            return Outcome("stopped", self.folder, self.progress.epochs_run)
        self._finish()
        return Outcome("complete", self.folder, self.progress.epochs_run)

    def _clear_away(self) -> None:
        """Remove what a kill left, and of a run that begins anew all that was there before."""
        for left_by_a_kill in self.folder.glob(".*.partial"):
            left_by_a_kill.unlink(missing_ok=True)
        if self.settings.restart:
            for old in (CHECKPOINT_NAME, "run.json", "history.csv", "weights.safetensors"):
                (self.folder / old).unlink(missing_ok=True)

    def _is_complete(self) -> bool:
        """Whether the folder holds this very run, complete; RunError where it holds another one."""
        record_path = self.folder / "run.json"
        if self.settings.restart or not record_path.exists():
            return False
        try:
            record = read_record(record_path)
        except RunError as error:
            raise RunError(f"{error}; --restart replaces it") from error
        before, now = record.get("fingerprint"), self._fingerprint()
        for content in (before, now):
            if isinstance(content, dict) and isinstance(content.get("recipe"), dict):
                with suppress(RecipeError):  # a key that is newer than the run has its default
                    content["recipe"] = recipe_to_dict(recipe_from_dict(content["recipe"], source=str(record_path)))
                content["recipe"].pop("title", None)  # it says what a recipe is and changes nothing
        difference = _first_difference(before, now)
        if difference:
            raise RunError(
                f"{self.folder}: holds a run with another {difference}: go on with the same one, give this run "
                "another name with --name, or replace it with --restart"
            )
        return bool(record.get("status") == "complete")

    def _fingerprint(self) -> dict[str, Any]:
        """What must be the same for a run to be gone on with."""
        return {"recipe": recipe_to_dict(self.recipe), "data": self.dataset.sha256, "seed": self.settings.seed}

    def _load_data(self) -> None:
        training, validation = self.dataset.clean_training, self.dataset.validation
        self.targets, kept = soft_labels(training, self.recipe.labels)
        self.validation_targets, validation_kept = soft_labels(validation, self.recipe.labels)
        self.training_faces: Faces = training.take(kept)
        self.validation_faces: Faces = validation.take(validation_kept)
        if not len(self.training_faces) or not len(self.validation_faces):
            what, given = "learn from", self.dataset.training
            if len(self.training_faces):
                what, given = "choose the best epoch by", validation
            raise DataError(
                f"{self.dataset.name}: of {len(given):,} faces none is left to {what}: each equals one of a later "
                "split, or has no label: check how the data was split"
            )
        self.images = torch.from_numpy(np.ascontiguousarray(self.training_faces.images)).to(self.device)
        self.taught_about = [(self.images, self.training_faces.images_sha256)]
        self.unlabelled_sha256 = ""
        if self.recipe.distillation is not None and self.recipe.distillation.unlabelled:
            further = read_unlabelled(self.workspace / self.recipe.distillation.unlabelled, self.dataset)
            self.unlabelled_sha256 = hashlib.sha256(further.data).hexdigest()
            self.taught_about.append((torch.from_numpy(further).to(self.device), self.unlabelled_sha256))
            self.images = torch.cat([images for images, _ in self.taught_about])
            self.targets = torch.cat([self.targets, self.targets.new_zeros(len(further), len(EMOTIONS))])
        self.targets = self.targets.to(self.device)
        self.validation_images = torch.from_numpy(np.ascontiguousarray(self.validation_faces.images)).to(self.device)
        self.validation_targets = self.validation_targets.to(self.device)

    def _prepare_network(self, checkpoint: Checkpoint | None) -> None:
        specification = self.recipe.network
        torch.manual_seed(seed_at(self.settings.seed, "initialisation"))
        options: dict[str, Any] = dict(specification.options)
        network = build_network(specification.name, **options)
        cost = measure_cost(network, size=specification.input_size)
        self.gflops, self.parameters = cost.gflops, cost.parameters
        if checkpoint is None:
            self.initialisation = initialise(network, self.recipe.initialisation, name=specification.name)
        else:
            network.load_state_dict(checkpoint.part("network"))
            self._restore(checkpoint)
        network = network.to(self.device)
        if self.device.type in ("cpu", "cuda"):
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,unused-ignore]
        self.network: nn.Module = accelerate_network(network, self.device)
        self.teachers: Teachers | None = None
        if self.recipe.distillation is not None:
            precision = half_type(self.recipe.stages[0], self.device) or torch.float32
            self.teachers = Teachers(
                self.recipe.distillation, workspace=self.workspace, device=self.device, precision=precision
            )

    def _restore(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        if state.get("unlabelled_sha256", "") != self.unlabelled_sha256:
            raise RunError(f"{self.folder}: began with other unlabelled faces: go on with the same, or --restart")
        known = {entry.name for entry in fields(_Progress)}
        self.progress = _Progress(**{key: value for key, value in state["progress"].items() if key in known})
        self.best = checkpoint.part("best")
        self.stage_best = checkpoint.part("stage_best") or self.best
        self.initialisation = state["initialisation"]
        self.weights_sha256 = state["weights_sha256"]
        if self.processes.writes:
            self._write_history()

    def _run_stage(self, index: int, checkpoint: Checkpoint | None) -> None:
        stage, progress = self.recipe.stages[index], self.progress
        count = len(self.images)
        size = min(stage.batch_size, count)
        size -= size % self.processes.count
        if not size:
            raise RunError(f"{self.folder}: {self.processes.count} processes can't share a batch of {stage.batch_size}")
        before = size if checkpoint is None else checkpoint.state.get("batch_size", size)
        if before != size:
            raise RunError(
                f"{self.folder}: has taken steps of {before} faces, and {self.processes.count} processes would take "
                f"{size}: go on with a number of processes that divides {before}, or --restart"
            )
        batches = max(1, count // size)
        if checkpoint is None:
            if index > 0:
                self.network.load_state_dict(self.stage_best)
            progress.stage, progress.epoch_in_stage, progress.batch = index, 0, 0
            progress.epochs_without_better = 0
        optimiser = make_optimiser(self.network, stage.optimiser, device=self.device)
        scheduler = Scheduler(optimiser, stage, total_steps=stage.epochs * batches)
        average = MovingAverage(self.network, stage.ema) if stage.ema else None
        scaler = make_scaler(stage, self.device)
        if checkpoint is not None:
            restore_optimiser(optimiser, checkpoint.part("optimiser"))
            scheduler.restore(checkpoint.state["scheduler"])
            if average is not None:
                for name, tensor in checkpoint.part("average").items():
                    average.tensors[name].copy_(tensor)
                average.steps = int(checkpoint.state["average_steps"])
            if scaler.is_enabled() and checkpoint.state["scaler"]:  # empty where a device without one wrote it
                scaler.load_state_dict(checkpoint.state["scaler"])
        self.parts = _StageParts(stage, index, optimiser, scheduler, average, scaler, size, batches)
        trained: nn.Module = self.network
        if self.processes.count > 1:
            trained = nn.parallel.DistributedDataParallel(self.network)
        while progress.epoch_in_stage < stage.length:
            if stage.patience and progress.epochs_without_better >= stage.patience:
                self.watcher.message(
                    f"stage {index + 1} ends: no better validation accuracy in {stage.patience} epochs"
                )
                break
            self._run_epoch(trained)
        progress.stage, progress.epoch_in_stage = index + 1, 0

    def _run_epoch(self, trained: nn.Module) -> None:
        parts, progress, seed = self.parts, self.progress, self.settings.seed
        stage, augmentation = parts.stage, self.recipe.augmentation_of(parts.stage)
        count = len(self.images)
        place = (seed, parts.index, progress.epoch_in_stage)
        order = torch.randperm(count, generator=generator_at(*place, "order"))
        lesson, soft_targets = self._taught(augmentation)
        if lesson is None:
            drawing = generator_at(*place, "views")
            lesson = draw_lesson(augmentation, count, generator=drawing).to(self.device)
        order = order.to(self.device)
        mixes = generator_at(*place, "mixing")
        drawn = [draw_mix(stage.mixing, generator=mixes) for _ in range(parts.batches)]
        trained.train()
        since = time.monotonic()
        shown, began = 0, since
        for batch in range(progress.batch, parts.batches):
            chosen = _shard(order[batch * parts.size : (batch + 1) * parts.size], self.processes)
            faces, targets, teacher = self._shown(lesson, chosen, augmentation, soft_targets, drawn[batch])
            torch.manual_seed(seed_at(*place, batch, self.processes.rank))  # dropout and stochastic depth
            loss, logits = self._step(trained, faces, targets, teacher)
            right = (logits.argmax(1) == targets.argmax(1)).sum()
            progress.batch = batch + 1
            self.pending.append(_Pending(loss * len(chosen), right, progress.batch, parts.scheduler.lr))
            progress.faces += len(chosen)
            progress.images_seen += len(chosen) * self.processes.count
            shown += len(chosen) * self.processes.count
            if self.device.type == "cpu" or len(self.pending) == CHECK_LOSS_EVERY or batch + 1 == parts.batches:
                self._collect()
            now = time.monotonic()
            progress.epoch_seconds += now - since
            progress.seconds += now - since
            self.batch_seconds = max(now - since, 0.9 * self.batch_seconds)
            since = now
            mean = progress.loss_sum / progress.faces if progress.faces else None
            self.watcher.batch(
                BatchReport(
                    parts.index + 1,
                    progress.epochs_run + 1,
                    batch + 1,
                    parts.batches,
                    self._epochs_planned(),
                    mean,
                    parts.scheduler.lr,
                    shown / max(now - began, 1e-9),
                )
            )
            self._save_or_stop()
        self._close_epoch(parts.batches * parts.size)

    def _taught(self, augmentation: Augmentation) -> tuple[Lesson | None, torch.Tensor | None]:
        """What the teachers have this epoch show, and what they say of it; see `Teachers.for_epoch`."""
        if self.teachers is None:
            return None, None
        lessons, answers = [], []
        for images, sha256 in self.taught_about:
            lesson, answer = self.teachers.for_epoch(
                images,
                augmentation,
                epoch=self.progress.epochs_run,
                faces_sha256=sha256,
                told=self.watcher.message,
                between=self._stop_while_asking,
            )
            if answer is None:
                return lesson, None
            lessons.append(lesson)
            answers.append(answer)
        shown = [lesson for lesson in lessons if lesson is not None]
        return join_lessons(shown) if shown else None, torch.cat(answers)

    def _shown(
        self,
        lesson: Lesson,
        chosen: torch.Tensor,
        augmentation: Augmentation,
        soft_targets: torch.Tensor | None,
        mix: Mix | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """A batch's faces as the network sees them, their targets, and what the teachers say of them, if any do."""
        own = lesson.mix_targets(self.targets, chosen)
        if self.unlabelled_sha256 and soft_targets is not None:
            nobodys = chosen >= len(self.training_faces)
            own = torch.where(nobodys[:, None], soft_targets[chosen], own)

        def show(size: int) -> torch.Tensor:
            faces = lesson.show(self.images, chosen, augmentation, size=size)
            return faces if mix is None else apply_mix(faces, own, mix)[0]

        faces = lesson.show(self.images, chosen, augmentation, size=self.recipe.network.input_size)
        teacher = None
        if soft_targets is not None:
            teacher = soft_targets[chosen] if mix is None else apply_mix(faces, soft_targets[chosen], mix)[1]
        elif self.teachers is not None:
            teacher = self.teachers.answer(show)
        return (faces, own, teacher) if mix is None else (*apply_mix(faces, own, mix), teacher)

    def _step(
        self, trained: nn.Module, faces: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts = self.parts
        half = half_type(parts.stage, self.device)
        with torch.autocast(self.device.type, half or torch.bfloat16, enabled=half is not None):
            logits = trained(faces.contiguous(memory_format=torch.channels_last))
        logits = logits.float()
        loss = loss_on_targets(logits, targets, parts.stage.loss)
        if teacher is not None and self.recipe.distillation is not None:
            weight = self.recipe.distillation.weight
            loss = (1 - weight) * loss + weight * distillation_loss(logits, teacher, self.recipe.distillation)
        parts.optimiser.zero_grad(set_to_none=True)
        parts.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if parts.stage.clip:
            parts.scaler.unscale_(parts.optimiser)
            nn.utils.clip_grad_norm_(self.network.parameters(), parts.stage.clip)
        if self.device.type == "cpu" and not parts.scaler.is_enabled() and not bool(torch.isfinite(loss.detach())):
            return loss.detach(), logits.detach()  # the step is not taken; _collect says where
        parts.scaler.step(parts.optimiser)
        parts.scaler.update()
        parts.scheduler.after_step()
        if parts.average is not None:
            parts.average.update()
        return loss.detach(), logits.detach()

    def _collect(self) -> None:
        """Add up the losses of the batches since the last look, and see that they are numbers."""
        if not self.pending:
            return
        progress = self.progress
        pending, self.pending = self.pending, []
        values = torch.stack([each.loss for each in pending]).cpu().double()
        progress.correct += int(torch.stack([each.right for each in pending]).sum())
        finite = torch.isfinite(values)
        borne = MOST_SKIPPED if self.parts.scaler.is_enabled() else 0
        wrong = None
        for each, right in zip(pending, finite.tolist(), strict=True):
            self.bad_in_a_row = 0 if right else self.bad_in_a_row + 1
            if self.bad_in_a_row > borne and wrong is None:
                wrong = each
        if wrong is not None:
            kept = "no epoch was finished"
            if self.best:
                kept = f"the best weights so far (epoch {progress.best_epoch}) are kept"
                if self.processes.writes:
                    self.weights_sha256 = save_weights(self.folder, self.best)
                    self._write_record("training")
            raise TrainingError(
                f"{self.folder.name}: the loss is not finite in epoch {progress.epochs_run + 1}, "
                f"batch {wrong.batch}, at learning rate {wrong.lr:.3g}; {kept}: "
                "lower the rate or the stage's clip, and --restart"
            )
        progress.loss_sum += float(values[finite].sum())

    def _score(self, loss: float, accuracy: float) -> float:
        """What chooses the best epoch, higher is better; a loss that is not a number is never the best."""
        if self.recipe.best_by == "accuracy":
            return accuracy
        return -math.inf if math.isnan(loss) else -loss

    def _best_score(self, rows: list[dict[str, Any]]) -> float:
        scores = (self._score(row["validation_loss"], row["validation_accuracy"]) for row in rows)
        return max(scores, default=-math.inf)

    def _close_epoch(self, shown: int) -> None:
        parts, progress = self.parts, self.progress
        trained_seconds = progress.epoch_seconds
        since = time.monotonic()
        state = parts.average.tensors if parts.average is not None else self.network.state_dict()
        loss, accuracy = self.processes.as_first(self._validate(state), self.device)
        self.validation_seconds = time.monotonic() - since
        parts.scheduler.after_epoch(accuracy)
        summed = torch.tensor([progress.loss_sum, progress.correct, progress.faces], dtype=torch.float64)
        if self.processes.count > 1:
            summed = self.processes.total(summed.to(self.device, torch.float32)).double().cpu()
        loss_sum, correct, faces = summed.tolist()
        progress.epochs_run += 1
        progress.epoch_in_stage += 1
        score = self._score(loss, accuracy)
        better = score > self._best_score(progress.rows)
        if score > self._best_score([row for row in progress.rows if row["stage"] == parts.index + 1]):
            progress.epochs_without_better = 0
            self.stage_best = _copied(state)
        else:
            progress.epochs_without_better += 1
        if better:
            progress.best_epoch = progress.epochs_run
            self.best = self.stage_best
        spent = time.monotonic() - since
        progress.seconds += spent
        row = EpochRow(
            epoch=progress.epochs_run,
            stage=parts.index + 1,
            lr=parts.scheduler.lr,
            training_loss=loss_sum / faces,
            training_accuracy=correct / faces,
            validation_loss=loss,
            validation_accuracy=accuracy,
            images_per_second=shown / trained_seconds if trained_seconds else 0.0,
            seconds=trained_seconds + spent,
            images_seen=progress.images_seen,
        )
        progress.rows.append(asdict(row))
        progress.batch, progress.faces, progress.correct = 0, 0, 0
        progress.loss_sum, progress.epoch_seconds = 0.0, 0.0
        if self.processes.writes:
            if better:
                self.weights_sha256 = save_weights(self.folder, self.best)
            self._save()
            self._write_history()
            self._write_record("training")
        self.watcher.epoch(row, best=better)
        last = parts.index + 1 == len(self.recipe.stages) and progress.epoch_in_stage >= parts.stage.length
        if not last:
            self._save_or_stop(saved=True)

    @torch.no_grad()
    def _validate(self, state: Mapping[str, torch.Tensor]) -> tuple[float, float]:
        """Loss and accuracy of a state on the validation faces, as they are."""
        own = None
        if self.parts.average is not None:
            own = _copied(self.network.state_dict())
            self.network.load_state_dict(dict(state))
        logits = self._logits(self.validation_images)
        if own is not None:
            self.network.load_state_dict(own)
        loss = torch.nn.functional.cross_entropy(logits, self.validation_targets)
        right = (logits.argmax(1) == self.validation_targets.argmax(1)).sum()
        return float(loss), int(right) / len(logits)

    @torch.no_grad()
    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        self.network.eval()
        return torch.cat([self.network(faces).float() for faces in self._as_they_are(images)])

    def _as_they_are(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        """Faces as the network reads them when nothing is changed, batch by batch."""
        for part in torch.split(images, VALIDATION_BATCH):
            faces = render(part, None, self.recipe.augmentation, size=self.recipe.network.input_size)
            yield faces.contiguous(memory_format=torch.channels_last)

    def _finish(self) -> None:
        """Round the best weights, validate what they have become, fit the temperature, and close the record."""
        if not self.processes.writes:
            return
        if self.recipe.precise_bn:
            self.best = self._with_precise_bn(self.best)
        self.weights_sha256 = save_weights(self.folder, self.best)
        self.network.load_state_dict(load_half_precision(self.folder / "weights.safetensors"))
        logits = self._logits(self.validation_images).cpu().double()
        truth = self.validation_targets.argmax(1).cpu()
        accuracy = int((logits.argmax(1) == truth).sum()) / len(truth)
        temperature = fit_temperature(logits.numpy(), truth.numpy())
        self._write_record("complete", rounded_accuracy=accuracy, temperature=temperature)
        (self.folder / CHECKPOINT_NAME).unlink(missing_ok=True)

    @torch.no_grad()
    def _with_precise_bn(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The state with the recipe's share of its batch norms' running figures taken from faces as they are."""
        specification, share = self.recipe.network, self.recipe.precise_bn
        options: dict[str, Any] = dict(specification.options)
        network = build_network(specification.name, **options).to(self.device)
        network.load_state_dict(dict(state))
        network.eval()
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
                module.reset_running_stats()
                module.momentum = None  # the mean over all batches
        named = self.images[: len(self.training_faces)]
        chosen = named[:: -(-len(named) // PRECISE_BN_FACES)]
        for faces in self._as_they_are(chosen):
            network(faces)
        measured = network.state_dict()
        return {
            name: tensor.lerp(measured[name], share) if name.endswith(("running_mean", "running_var")) else tensor
            for name, tensor in state.items()
        }

    # -- what is written ----------------------------------------------------------------------------------------

    def _save_or_stop(self, *, saved: bool = False) -> None:
        """Save when it is due; end, saved, when asked to or when what comes next would pass the limit of time.

        Args:
            saved: nothing has happened since the last checkpoint.
        """
        limit, now = self.settings.limit_seconds, time.monotonic()
        late = limit is not None and now - self.began + self._seconds_needed() > limit
        stop = self.processes.agree(late or self.should_stop(), self.device)
        due = now - self.saved_at > self.settings.checkpoint_seconds
        if self.processes.writes and not saved and (due or stop):
            self._save()
        if stop:
            raise _Stopped

    def _stop_while_asking(self) -> None:
        """Between batches of the teachers: a process alone may end there, several go on to where all agree."""
        if self.processes.count == 1:
            self._save_or_stop(saved=True)

    def _seconds_needed(self) -> float:
        """What must be left of the time to take another step, and validate after an epoch's last one, and save."""
        needed = 1.0 + 2 * self.batch_seconds + 2 * self.saving_seconds
        parts, progress = self.parts, self.progress
        if progress.batch >= parts.batches:
            validation = self.validation_seconds
            if validation is None:  # the first: without a way back it is no slower than training
                trained = max(progress.faces * self.processes.count, 1)
                validation = progress.epoch_seconds / trained * len(self.validation_faces)
            needed += 1.5 * validation
        return needed

    def _save(self) -> None:
        self._collect()
        began = time.monotonic()
        parts = self.parts
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"optimiser.{name}": tensor for name, tensor in optimiser_tensors(parts.optimiser).items()}
        if parts.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in parts.average.tensors.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        if self.stage_best is not self.best:
            tensors |= {f"stage_best.{name}": tensor for name, tensor in self.stage_best.items()}
        state = {
            "progress": asdict(self.progress),
            "scheduler": parts.scheduler.state(),
            "average_steps": parts.average.steps if parts.average is not None else 0,
            "scaler": parts.scaler.state_dict(),
            "batch_size": parts.size,
            "initialisation": self.initialisation,
            "weights_sha256": self.weights_sha256,
            "unlabelled_sha256": self.unlabelled_sha256,
        }
        write_checkpoint(self.folder / CHECKPOINT_NAME, Checkpoint(tensors, state))
        self.saved_at = time.monotonic()
        self.saving_seconds = self.saved_at - began

    def _write_history(self) -> None:
        """Bring history.csv up to the rows known; it only ever grows, whatever was killed when."""
        path = self.folder / "history.csv"
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, [entry.name for entry in fields(EpochRow)], lineterminator="\n")
        writer.writeheader()
        for row in self.progress.rows:
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
        wanted = buffer.getvalue().encode()
        have = path.read_bytes() if path.exists() else b""
        if not wanted.startswith(have):
            raise RunError(f"{path}: was changed since it was written: put it back, or train again with --restart")
        with path.open("ab") as file:
            file.write(wanted[len(have) :])
            file.flush()
            os.fsync(file.fileno())

    def _write_record(
        self, status: str, *, rounded_accuracy: float | None = None, temperature: float | None = None
    ) -> None:
        if not self.processes.writes:
            return
        progress, faces = self.progress, self.dataset
        best = None
        if progress.best_epoch:
            row = progress.rows[progress.best_epoch - 1]
            accuracy = rounded_accuracy if rounded_accuracy is not None else row["validation_accuracy"]
            best = {"stage": row["stage"], "epoch": row["epoch"], "validation_accuracy": accuracy}
        record = {
            "format": RUN_FORMAT,
            "name": self.folder.name,
            "status": status,
            "title": self.recipe.title,
            "best": best,
            "temperature": temperature,
            "weights_sha256": self.weights_sha256,
            "parameters": self.parameters,
            "gflops": self.gflops,
            "epochs_run": progress.epochs_run,
            "epochs_planned": self._epochs_planned(),
            "images_seen": progress.images_seen,
            "initialisation": self.initialisation,
            "seed": self.settings.seed,
            "data": {
                "name": faces.name,
                "official": faces.official,
                "sha256": faces.sha256,
                "training_rows": len(self.training_faces),
                "copies_left_out": int(faces.copies.sum()),
                "validation_rows": len(self.validation_faces),
                **self._unlabelled_data(),
            },
            "started": progress.started,
            "finished": _now() if status == "complete" else None,
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
            "fingerprint": self._fingerprint(),
        }
        write_json(self.folder / "run.json", record)

    def _unlabelled_data(self) -> dict[str, Any]:
        """What the record says of faces without labels, where there are any."""
        if not self.unlabelled_sha256:
            return {}
        count = len(self.images) - len(self.training_faces)
        return {"unlabelled_faces": count, "unlabelled_sha256": self.unlabelled_sha256}

    def _epochs_planned(self) -> int:
        done = self.progress.epochs_run - self.progress.epoch_in_stage
        return done + sum(stage.length for stage in self.recipe.stages[self.progress.stage :])


@dataclass(frozen=True, eq=False)
class _Pending:
    """A batch whose loss has not been looked at: the loss of all its faces, how many were right, and where it was."""

    loss: torch.Tensor
    right: torch.Tensor
    batch: int
    lr: float


@dataclass(frozen=True, eq=False)
class _StageParts:
    stage: Stage
    index: int
    optimiser: torch.optim.Optimizer
    scheduler: Scheduler
    average: MovingAverage | None
    scaler: torch.amp.GradScaler
    size: int
    batches: int


def make_scaler(stage: Stage, device: torch.device) -> torch.amp.GradScaler:
    """The gradient scaler of a stage: PyTorch's for float16 on CUDA, one that does nothing elsewhere."""
    return torch.amp.GradScaler(device.type, enabled=stage.precision == "float16" and device.type == "cuda")


def half_type(stage: Stage, device: torch.device) -> torch.dtype | None:
    """The half-precision type that a stage's forward pass uses on a device; None is float32.

    bfloat16 on a processor without AMX or AVX-512 BF16 would be emulated, several times slower than float32.
    """
    if stage.precision == "float16" and device.type == "cuda":
        return torch.float16
    if stage.precision == "bfloat16":
        names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        native = any(getattr(torch.cpu, name, lambda: False)() for name in names)
        if device.type == "cuda" or (device.type == "cpu" and native):
            return torch.bfloat16
    return None


def _shard(chosen: torch.Tensor, processes: Processes) -> torch.Tensor:
    """This process's part of a batch: a run of its first half and the mirror image: MixUp's pairs stay together."""
    if processes.count == 1:
        return chosen
    each = len(chosen) // processes.count
    half = each // 2
    start = processes.rank * half
    mirrored = len(chosen) - start
    parts = [chosen[start : start + half], chosen[mirrored - half : mirrored]]
    if each % 2:
        middle = processes.count * half + processes.rank
        parts.insert(1, chosen[middle : middle + 1])
    return torch.cat(parts)


def _copied(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _first_difference(old: Any, new: Any, where: str = "") -> str:
    """The first key at which two nested values differ, in words; empty when they do not."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*new, *(key for key in old if key not in new)]:
            found = _first_difference(old.get(key), new.get(key), f"{where}{key}.")
            if found:
                return found
        return ""
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        for place, (left, right) in enumerate(zip(old, new, strict=True)):
            found = _first_difference(left, right, f"{where}{place}.")
            if found:
                return found
        return ""
    if old == new:
        return ""
    return f"{where.rstrip('.')} ({_short(old)} there, {_short(new)} here)"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:18] + "…"
