"""The parts of training alone: clock, collected losses, a run's data, and progress to a checkpoint and back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from fer_deploy.faces import Dataset
from fer_deploy.models import build_network
from fer_deploy.recipes import Recipe, Stage
from fer_deploy.training.clock import RunClock
from fer_deploy.training.data import TrainingData
from fer_deploy.training.optim import Updater
from fer_deploy.training.progress import Progress
from fer_deploy.training.step import MOST_SKIPPED, Losses, LossNotFiniteError
from fer_deploy.training.watcher import EpochRow

CPU = torch.device("cpu")


def test_a_clock_keeps_time_for_a_step_a_save_and_a_validation() -> None:
    clock = RunClock(limit_seconds=100.0, began=time.monotonic() - 90.0)
    assert not clock.is_late()
    clock.batch_took(2.0)
    assert not clock.is_late()  # 1 + 2 * 2 + 2 * 0.5 of the ten seconds left
    assert clock.is_late(validation_estimate=5.0)
    clock.validation_seconds = 0.1  # measured: the estimate no longer counts
    assert not clock.is_late(validation_estimate=5.0)
    clock.save_took(4.0)
    assert clock.is_late()
    assert not RunClock().is_late(validation_estimate=1e9)


def test_losses_add_up_and_report_where_they_stop_being_numbers() -> None:
    progress, losses = Progress("default"), Losses()
    for number, value in enumerate((1.0, 2.0), 1):
        losses.add(torch.tensor(value), torch.tensor(3), batch=number, lr=0.1)
    losses.collect(progress, scaled=False)
    assert (progress.loss_sum, progress.correct, losses.unread) == (3.0, 6, [])
    losses.add(torch.tensor(float("nan")), torch.tensor(0), batch=3, lr=0.2)
    with pytest.raises(LossNotFiniteError) as caught:
        losses.collect(progress, scaled=False)
    assert (caught.value.batch, caught.value.lr) == (3, 0.2)


def test_a_scaler_may_skip_some_losses_in_a_row() -> None:
    progress, losses = Progress("default"), Losses()
    for _ in range(MOST_SKIPPED):
        losses.add(torch.tensor(float("inf")), torch.tensor(0), batch=1, lr=0.1)
    losses.collect(progress, scaled=True)
    assert progress.loss_sum == 0.0
    losses.add(torch.tensor(float("inf")), torch.tensor(0), batch=2, lr=0.1)
    with pytest.raises(LossNotFiniteError):
        losses.collect(progress, scaled=True)


def test_training_data_has_every_face_and_target(tmp_path: Path, small_recipe: Recipe, few_faces: Dataset) -> None:
    data = TrainingData.of(few_faces, small_recipe, workspace=tmp_path, device=CPU)
    assert len(data) == data.labelled == len(few_faces.training)
    assert torch.equal(data.targets.argmax(1), torch.from_numpy(few_faces.training.labels))
    assert torch.equal(data.targets.sum(1), torch.ones(len(data)))
    assert [faces.at(48).shape for faces in data.face_sets] == [(280, 48, 48)]
    assert (data.unlabelled_sha256, len(data.validation_images)) == ("", len(few_faces.validation))


@pytest.mark.parametrize("best_is_older", [False, True])
def test_progress_comes_back_from_a_checkpoint(best_is_older: bool) -> None:
    network = build_network("plain", widths=(4,), depths=(1,))
    updater = Updater.of(network, Stage(epochs=4, ema=0.9), batches=3, device=CPU)
    progress = Progress("default", started="2026-01-01T00:00:00Z")
    for epoch, accuracy in enumerate((0.5, 0.4 if best_is_older else 0.6), 1):
        row = EpochRow(epoch, 1, 1e-3, 1.0, 0.5, 1.0, accuracy, 100.0, 2.0, 60 * epoch)
        assert progress.end_epoch(row, updater.weights(), best_by="accuracy") == (epoch == 1 or not best_is_older)
    assert progress.best_epoch == (1 if best_is_older else 2)
    kept = progress.to_checkpoint(network, updater, batch_size=20, unlabelled_sha256="")
    back = Progress.from_checkpoint(kept)
    assert back.rows == progress.rows
    assert (back.epochs_run, back.best_epoch, back.epochs_without_better) == (
        2,
        progress.best_epoch,
        int(best_is_older),
    )
    assert back.best.keys() == progress.best.keys()
    assert all(torch.equal(back.best[name], tensor) for name, tensor in progress.best.items())
    assert (kept.state["batch_size"], back.started) == (20, progress.started)
