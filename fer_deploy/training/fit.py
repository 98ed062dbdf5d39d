"""Run a recipe's stages and write the run folder; after a kill at any moment, resume from the last checkpoint.

Every random draw is a function of the seed and of its place (stage, epoch, batch), so no generator's state has to be
saved: a run that was killed and resumed on the same machine's CPU ends with the same weights, bit for bit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from fer_deploy.ensemble import fit_temperature
from fer_deploy.errors import RunError, TrainingError
from fer_deploy.faces import Dataset
from fer_deploy.files import lock
from fer_deploy.models import measure_cost
from fer_deploy.recipes import Recipe, Stage
from fer_deploy.training.checkpoint import Checkpoint, damage_in_words, read_checkpoint
from fer_deploy.training.clock import RunClock
from fer_deploy.training.data import TrainingData
from fer_deploy.training.devices import (
    Processes,
    choose_device,
    describe_device,
    describe_failure,
    half_type,
    join_processes,
    launcher_number,
)
from fer_deploy.training.evaluate import agreement, logits_of, validate, with_precise_bn
from fer_deploy.training.kernels import accelerate_network
from fer_deploy.training.lesson import Lesson
from fer_deploy.training.optim import Updater
from fer_deploy.training.progress import Progress
from fer_deploy.training.record import fingerprint, is_complete
from fer_deploy.training.run import Run, first_weights, load_half_precision, make_network, mismatch
from fer_deploy.training.stages import seed_at, share_budget
from fer_deploy.training.step import BatchSizes, Losses, LossNotFiniteError, draw_epoch, take_step
from fer_deploy.training.teachers import Teachers
from fer_deploy.training.watcher import BatchReport, EpochRow, Silent, Watcher
from fer_deploy.training.writing import CHECKPOINT_NAME, RunWriter, now

UNHARMED = "the last checkpoint is intact: fix this and run the same command again to resume"


@dataclass(frozen=True)
class Settings:
    """What a run needs beside recipe and data."""

    seed: int = 0
    epochs: int | None = None
    """Budget of epochs over all stages; None is the recipe's own."""
    device: str = "auto"
    restart: bool = False
    """Discard the folder's run instead of resuming it."""
    limit_seconds: float | None = None
    """Stop, saved, before this much time has passed."""
    checkpoint_seconds: float = 120.0
    """Longest time between two checkpoints, within epochs too."""


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended: `already complete` means before it, `stopped` that it can be resumed."""

    status: Literal["complete", "already complete", "stopped"]
    folder: Path
    epochs_run: int

    def run(self) -> Run:
        """The run with its weights; the best ones so far if it was stopped."""
        return Run.open(self.folder, partial=self.status == "stopped")


def train(
    recipe: Recipe,
    dataset: Dataset,
    *,
    workspace: Path,
    name: str | None = None,
    settings: Settings | None = None,
    watcher: Watcher | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train a recipe on a data set's training faces, choosing the best epoch on its validation faces.

    Training faces whose pixels equal any validation or test face are left out. The test faces are never used.

    Args:
        recipe: what to train.
        dataset: the faces.
        workspace: the folder that holds `training/`; the run is `training/<name>`.
        name: the run's name, the recipe's by default.
        settings: seed, budget, device, limits.
        watcher: receives the run's progress.
        should_stop: called after each batch; if True, everything is saved and the call ends.

    Returns:
        How it ended.

    Raises:
        RunError: the folder holds another run (another recipe, data or seed) and `restart` is not set, or is damaged,
            or cannot be written (disk full, read-only); the last checkpoint is intact.
        TrainingError: the loss is no longer finite (the best weights so far are kept), or the device was lost.
        UnavailableError: the device or the initial weights are absent.
    """
    settings = settings or Settings()
    recipe = share_budget(recipe, settings.epochs)
    folder = workspace / "training" / (name or recipe.name)
    clock = RunClock(limit_seconds=settings.limit_seconds, checkpoint_seconds=settings.checkpoint_seconds)
    order = _Order(recipe, dataset, workspace, folder, settings, clock, watcher or Silent(), should_stop)
    with _failures_in_words(folder):
        if order.is_done():
            return order.already_complete()
        with _alone(folder):
            if order.is_done():  # another command has just trained it
                return order.already_complete()
            return _Training.prepare(order).run()


@dataclass(frozen=True, eq=False)
class _Order:
    """What `train` was called with."""

    recipe: Recipe
    dataset: Dataset
    workspace: Path
    folder: Path
    settings: Settings
    clock: RunClock
    watcher: Watcher
    should_stop: Callable[[], bool]

    def is_done(self) -> bool:
        """Whether the folder holds this very run, complete; RunError if it holds another one."""
        wanted = fingerprint(self.recipe, self.dataset, seed=self.settings.seed)
        return not self.settings.restart and is_complete(self.folder, wanted)

    def already_complete(self) -> Outcome:
        return Outcome("already complete", self.folder, int(Run.open(self.folder).record.get("epochs_run", 0)))

    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint to resume from, if there is one."""
        path = self.folder / CHECKPOINT_NAME
        if self.settings.restart or not (self.folder / "run.json").exists() or not os.path.lexists(path):
            return None
        return read_checkpoint(path)


@contextmanager
def _failures_in_words(folder: Path) -> Iterator[None]:
    """Turn failures of the disk and the device into errors of one line."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RunError(f"{error.filename or folder}: {reason}: {UNHARMED}") from error
    except RuntimeError as error:
        failure = describe_failure(error)
        if failure is None:
            raise
        raise TrainingError(f"{folder.name}: {failure}: {UNHARMED}") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the run's folder, so that no other command trains it at the same time."""
    if launcher_number("RANK", 0):  # the first of several processes holds the lock for all
        yield
        return
    with lock(folder.parent / f".{folder.name}.lock", wait=False) as locked:
        if not locked:
            raise RunError(f"{folder}: another command is training this run: wait until it ends, or stop it")
        yield


class _Stopped(Exception):  # noqa: N818
    """Training must stop, and everything is saved."""


@dataclass(frozen=True, eq=False)
class _StageRun:
    """A stage while it runs."""

    stage: Stage
    """The recipe's, its class weights as numbers."""
    index: int
    """Counted from 0."""
    sizes: BatchSizes
    updater: Updater
    trained: nn.Module
    """The network, or its distributed wrapper."""


@dataclass(frozen=True, eq=False)
class _Training:
    """The loop over stages and epochs."""

    order: _Order
    data: TrainingData
    network: nn.Module
    teachers: Teachers | None
    device: torch.device
    processes: Processes
    writer: RunWriter
    progress: Progress
    losses: Losses
    checkpoint: Checkpoint | None
    """What to resume from."""

    @classmethod
    def prepare(cls, order: _Order) -> _Training:
        """Load data, network and teachers; nothing is written."""
        recipe, checkpoint = order.recipe, order.checkpoint()
        device = choose_device(order.settings.device)
        processes = join_processes(device)
        data = TrainingData.of(
            order.dataset,
            recipe,
            workspace=order.workspace,
            device=device,
            message=order.watcher.message,
            progress=order.watcher.preparing,
        )
        torch.manual_seed(seed_at(order.settings.seed, "initialisation"))
        network = make_network(recipe.network, classes=len(data.labels))
        cost = measure_cost(network, size=recipe.network.input_size)
        if checkpoint is None:
            initialisation = first_weights(network, recipe, data.labels, workspace=order.workspace)
            progress = Progress(initialisation, started=now())
        else:
            with damage_in_words(order.folder / CHECKPOINT_NAME):
                saved = checkpoint.part("network")
                progress = Progress.from_checkpoint(checkpoint)
                for weights in (saved, *filter(None, (progress.best, progress.stage_best))):
                    # Whether the network's own weights are finite is for the next loss to show.
                    if problem := mismatch(weights, network.state_dict(), finite=weights is not saved):
                        raise ValueError(problem)
                network.load_state_dict(saved)
                if progress.stage >= len(recipe.stages):
                    raise ValueError(f"it is in stage {progress.stage + 1} of {len(recipe.stages)}")
            if checkpoint.state.get("unlabelled_sha256", "") != data.unlabelled_sha256:
                raise RunError(
                    f"{order.folder}: began with other unlabelled faces: restore them, or begin again with --restart"
                )
        network = network.to(device)
        if device.type in ("cpu", "cuda"):
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,unused-ignore]
        network = accelerate_network(network, device)
        teachers = None
        if recipe.distillation is not None:
            half = half_type(recipe.stages[0].precision, device)
            teachers = Teachers(
                recipe.distillation, workspace=order.workspace, device=device, half=half, labels=data.labels
            )
        writer = RunWriter(
            folder=order.folder, recipe=recipe, dataset=order.dataset, data=data, seed=order.settings.seed, cost=cost,
            device=device, processes=processes,
        )  # fmt: skip
        return cls(order, data, network, teachers, device, processes, writer, progress, Losses(), checkpoint)

    def run(self) -> Outcome:
        """Train the rest of the run."""
        recipe, progress, checkpoint = self.order.recipe, self.progress, self.checkpoint
        self.writer.clear(restart=self.order.settings.restart)
        if checkpoint is None:
            self.writer.write_record(progress)
        else:
            self.writer.write_history(progress)  # a kill may have come between checkpoint and history
        self.order.watcher.started(recipe, device=describe_device(self.device), epochs_done=progress.epochs_run)
        try:
            for index in range(progress.stage, len(recipe.stages)):
                self._run_stage(index, checkpoint)
                checkpoint = None
        except _Stopped:
            self.order.watcher.ended(self.order.folder, complete=False)
            return Outcome("stopped", self.order.folder, progress.epochs_run)
        if self.processes.writes:
            self._finish()
        self.order.watcher.ended(self.order.folder, complete=True)
        return Outcome("complete", self.order.folder, progress.epochs_run)

    def _run_stage(self, index: int, checkpoint: Checkpoint | None) -> None:
        """Train a stage, from its checkpoint if there is one."""
        stages, progress = self.order.recipe.stages, self.progress
        stage = self.data.fitted(stages[index])
        sizes = self._batch_sizes(stage, checkpoint)
        if checkpoint is None:
            if index > 0:
                self.network.load_state_dict(progress.stage_best)
            progress.begin_stage(index)
        updater = Updater.of(self.network, stage, batches=sizes.count, device=self.device)
        if checkpoint is not None:
            with damage_in_words(self.order.folder / CHECKPOINT_NAME):
                updater.restore(checkpoint)
                if progress.batch > sizes.count:
                    raise ValueError(f"it is at batch {progress.batch} of {sizes.count}")
        trained = self.network
        if self.processes.count > 1:
            trained = nn.parallel.DistributedDataParallel(self.network)
        run = _StageRun(stage, index, sizes, updater, trained)
        self.order.watcher.stage(stage, number=index + 1, count=len(stages))
        while (end := progress.stage_end(stages, best_by=self.order.recipe.best_by)) is None:
            self._run_epoch(run)
        if end:
            self.order.watcher.message(f"stage {index + 1} ends: {end}")
        progress.stage, progress.epoch_in_stage = index + 1, 0

    def _batch_sizes(self, stage: Stage, checkpoint: Checkpoint | None) -> BatchSizes:
        folder, count = self.order.folder, self.processes.count
        size = min(stage.batch_size, len(self.data))
        size -= size % count
        if not size:
            raise RunError(f"{folder}: {count} processes can't share a batch of {stage.batch_size}")
        before = size if checkpoint is None else checkpoint.state.get("batch_size", size)
        if before != size:
            raise RunError(
                f"{folder}: was trained with {before} faces a step, and {count} processes would take {size}: resume "
                f"with a number of processes that divides {before}, or begin again with --restart"
            )
        return BatchSizes(size, max(1, len(self.data) // size))

    def _run_epoch(self, run: _StageRun) -> None:
        progress, clock, seed = self.progress, self.order.clock, self.order.settings.seed
        place = (seed, run.index, progress.epoch_in_stage)
        lesson, soft_targets = self._ask_teachers(run)
        epoch = draw_epoch(
            self.data, self.order.recipe, run.stage, place=place, sizes=run.sizes, processes=self.processes,
            teaching=(self.teachers, lesson, soft_targets),
        )  # fmt: skip
        run.trained.train()
        before = began = time.monotonic()
        first = progress.batch
        for number in range(first, run.sizes.count):
            batch = epoch.batch(number)
            torch.manual_seed(seed_at(*place, number, self.processes.rank))  # dropout and stochastic depth
            loss, correct = take_step(run.trained, batch, run.stage, self.order.recipe.distillation, run.updater)
            progress.batch = number + 1
            self.losses.add(loss * len(batch), correct, batch=progress.batch, lr=run.updater.scheduler.lr)
            progress.faces += len(batch)
            progress.images_seen += len(batch) * self.processes.count
            if progress.batch == run.sizes.count or self.losses.must_be_read(self.device):
                self._collect_losses(run)
            now_at = time.monotonic()
            progress.epoch_seconds += now_at - before
            progress.seconds += now_at - before
            clock.batch_took(now_at - before)
            before = now_at
            self._report_batch(run, faces=(progress.batch - first) * run.sizes.faces, seconds=now_at - began)
            self._save_or_stop(run)
        self._end_epoch(run)

    def _ask_teachers(self, run: _StageRun) -> tuple[Lesson | None, torch.Tensor | None]:
        """The next epoch's lesson and answers; see `Teachers.for_epoch`."""
        if self.teachers is None:
            return None, None

        def stop_alone() -> None:
            # Several processes may not stop here: each would have to, at the same batch. They stop at the next step.
            if self.processes.count == 1:
                self._save_or_stop(run, saved=True)

        return self.teachers.for_epoch(
            self.data.face_sets,
            self.order.recipe.augmentation_of(run.stage),
            epoch=self.progress.epochs_run,
            message=self.order.watcher.message,
            between_batches=stop_alone,
        )

    def _report_batch(self, run: _StageRun, *, faces: int, seconds: float) -> None:
        progress = self.progress
        self.order.watcher.batch(
            BatchReport(
                stage=run.index + 1,
                epoch=progress.epochs_run + 1,
                batch=progress.batch,
                batches=run.sizes.count,
                epochs_planned=progress.epochs_planned(self.order.recipe.stages),
                loss=progress.loss_sum / progress.faces if progress.faces else None,
                lr=run.updater.scheduler.lr,
                images_per_second=faces / max(seconds, 1e-9),
            )
        )

    def _collect_losses(self, run: _StageRun) -> None:
        """Read the losses; if they are no longer finite, keep the best weights and end."""
        progress = self.progress
        try:
            self.losses.collect(progress, scaled=run.updater.scaler.is_enabled())
        except LossNotFiniteError as error:
            kept = "no epoch was finished"
            if progress.best:
                kept = f"the best weights so far (epoch {progress.best_epoch}) are kept"
                self.writer.save_best(progress)
                self.writer.write_record(progress)
            raise TrainingError(
                f"{self.order.folder.name}: the loss became NaN or infinite (epoch {progress.epochs_run + 1}, batch "
                f"{error.batch}, learning rate {error.lr:.3g}); {kept}: lower this stage's lr or clip, then train with "
                "--restart"
            ) from None

    def _end_epoch(self, run: _StageRun) -> None:
        """Validate, keep the weights if they are the best, and save everything."""
        progress, clock, recipe = self.progress, self.order.clock, self.order.recipe
        trained_seconds, began = progress.epoch_seconds, time.monotonic()
        average = run.updater.average
        measured = validate(
            self.network, None if average is None else average.tensors, self.data, size=recipe.network.input_size
        )
        loss, accuracy, macro_f1 = self.processes.as_first(measured, self.device)
        clock.validation_seconds = time.monotonic() - began
        run.updater.scheduler.after_epoch(accuracy)
        sums = torch.tensor([progress.loss_sum, progress.correct, progress.faces], dtype=torch.float64)
        if self.processes.count > 1:
            sums = self.processes.total(sums.to(self.device, torch.float32)).double().cpu()
        loss_sum, correct, faces = sums.tolist()
        count, seconds = run.sizes.count * run.sizes.faces, time.monotonic() - began
        progress.seconds += seconds
        row = EpochRow(
            epoch=progress.epochs_run + 1,
            stage=run.index + 1,
            lr=run.updater.scheduler.lr,
            training_loss=loss_sum / faces,
            training_accuracy=correct / faces,
            validation_loss=loss,
            validation_accuracy=accuracy,
            images_per_second=count / trained_seconds if trained_seconds else 0.0,
            seconds=trained_seconds + seconds,
            images_seen=progress.images_seen,
            validation_macro_f1=macro_f1,
        )
        is_best = progress.end_epoch(row, run.updater.weights(), best_by=recipe.best_by)
        if is_best:
            self.writer.save_best(progress)
        if self.processes.writes:
            self._save(run)
        self.writer.write_history(progress)
        self.writer.write_record(progress)
        self.order.watcher.epoch(row, best=is_best)
        is_last = run.index + 1 == len(recipe.stages) and progress.epoch_in_stage >= run.stage.length
        if not is_last:
            self._save_or_stop(run, saved=True)

    def _save_or_stop(self, run: _StageRun, *, saved: bool = False) -> None:
        """Save if it is due; stop, saved, if the caller wants it or the next step would pass the time limit.

        Args:
            run: the stage.
            saved: nothing has happened since the last checkpoint.
        """
        progress, clock = self.progress, self.order.clock
        estimate = None
        if progress.batch >= run.sizes.count:
            # Until a validation was measured: without a backward pass it is no slower than training.
            trained = max(progress.faces * self.processes.count, 1)
            estimate = progress.epoch_seconds / trained * len(self.data.validation_images)
        late = clock.is_late(validation_estimate=estimate)
        stop = self.processes.agree(late or self.order.should_stop(), self.device)
        if self.processes.writes and not saved and (clock.save_is_due() or stop):
            self._save(run)
        if stop:
            raise _Stopped

    def _save(self, run: _StageRun) -> None:
        self._collect_losses(run)
        began = time.monotonic()
        self.writer.write_checkpoint(
            self.progress.to_checkpoint(
                self.network,
                run.updater,
                batch_size=run.sizes.faces,
                unlabelled_sha256=self.data.unlabelled_sha256,
            )
        )
        self.order.clock.save_took(time.monotonic() - began)

    def _finish(self) -> None:
        """Round the best weights, validate the rounded ones, fit the temperature, and complete the record."""
        recipe, progress = self.order.recipe, self.progress
        if recipe.precise_bn:
            progress.best = with_precise_bn(progress.best, recipe, self.data)
        self.writer.save_best(progress)
        self.network.load_state_dict(load_half_precision(self.order.folder / "weights.safetensors"))
        images = self.data.validation_images
        logits = logits_of(self.network, images, size=recipe.network.input_size).cpu().double()
        labels = self.data.validation_targets.argmax(1).cpu()
        temperature = fit_temperature(logits.numpy(), labels.numpy())
        self.writer.write_record(progress, rounded=agreement(logits, labels), temperature=temperature)
        (self.order.folder / CHECKPOINT_NAME).unlink(missing_ok=True)
