"""Training as a whole: it learns, chooses the best epoch, survives bad losses and uses the right faces."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_helpers import BadLoss

from fer_deploy.errors import DataError, TrainingError, UnavailableError
from fer_deploy.faces import Dataset, Faces
from fer_deploy.faces.synthetic import synthetic_dataset
from fer_deploy.recipes import (
    Augmentation,
    Network,
    Optimiser,
    Recipe,
    Schedule,
    Stage,
    apply_settings,
)
from fer_deploy.training import fit, optim, step
from fer_deploy.training.devices import choose_device
from fer_deploy.training.fit import Settings, train
from fer_deploy.training.run import Run
from fer_deploy.training.watcher import BatchReport, Silent

CPU = Settings(device="cpu")


def test_training_learns(tmp_path: Path) -> None:
    stage = Stage(epochs=6, batch_size=16, optimiser=Optimiser(lr=2e-2), schedule=Schedule(name="one-cycle"))
    options = {"widths": (8, 16, 32, 32), "depths": (1, 1, 1, 1), "stem_stride": 2, "dropout": 0.0}
    recipe = Recipe("learner", "a small network", Network("plain", options=options), (stage,))
    outcome = train(recipe, synthetic_dataset(1400), workspace=tmp_path, settings=CPU)
    assert outcome.run().validation_accuracy > 0.8  # one in seven by chance


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_best(
    tmp_path: Path, few_faces: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = (
        Stage(epochs=1, batch_size=64, optimiser=Optimiser(lr=1e-4)),
        Stage(epochs=3, batch_size=64, optimiser=Optimiser(name="sgd", lr=10.0, betas=(0.99, 0.9))),
    )
    recipe = Recipe(
        "wild", "far too fast", Network("plain", options={"widths": (4,), "depths": (2,), "branches": False}), stages
    )

    monkeypatch.setattr(step, "loss_on_targets", BadLoss(280 // 64 + 3, float("nan")))
    with pytest.raises(TrainingError) as caught:
        train(recipe, few_faces, workspace=tmp_path, settings=CPU)
    assert "the loss became NaN or infinite (epoch 2, batch 3, learning rate 10)" in str(caught.value)
    assert "the best weights so far (epoch 1) are kept" in str(caught.value)
    run = Run.open(tmp_path / "training/wild", partial=True)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in run.network().state_dict().values())


def test_the_scaler_skips_a_bad_step_and_training_continues(
    tmp_path: Path, few_faces: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's gradient scaler, on the CPU, in the real loop: a step whose gradients overflow changes no weight."""
    scalers, weights = [], []

    def scaler(stage: Stage, device: torch.device) -> torch.amp.GradScaler:
        scalers.append(torch.amp.GradScaler(device.type, init_scale=1024.0))
        return scalers[-1]

    class Weights(Silent):
        def batch(self, report: BatchReport) -> None:
            weights.append((scalers[-1].get_scale(), [tensor.clone() for tensor in network[0].parameters()]))

    network: list[torch.nn.Module] = []
    built = fit.accelerate_network

    def keep(made: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        network[:] = [built(made, device)]
        return network[0]

    monkeypatch.setattr(optim, "make_scaler", scaler)
    monkeypatch.setattr(fit, "accelerate_network", keep)
    monkeypatch.setattr(step, "loss_on_targets", BadLoss(3, float("inf")))
    stage = Stage(epochs=2, batch_size=64, clip=1.0, optimiser=Optimiser(lr=1e-2))
    recipe = Recipe("scaled", "skips", Network("plain", options={"widths": (4,), "depths": (1,)}), (stage,))
    outcome = train(recipe, few_faces, workspace=tmp_path, settings=CPU, watcher=Weights())
    assert outcome.status == "complete"
    assert [scale for scale, _ in weights] == [1024.0] * 2 + [512.0] * 6

    def moved(step: int) -> bool:
        return any(not torch.equal(old, new) for old, new in zip(weights[step - 1][1], weights[step][1], strict=True))

    assert [moved(step) for step in range(1, 8)] == [True, False, True, True, True, True, True]
    rows = list(csv.DictReader((outcome.folder / "history.csv").open()))
    assert all(0 < float(row["training_loss"]) < 5 for row in rows)
    monkeypatch.setattr(step, "loss_on_targets", lambda logits, targets, loss: logits.sum() * float("inf"))
    hopeless = apply_settings(dataclasses.replace(recipe, name="hopeless"), ["stage.0.epochs=9"])
    with pytest.raises(TrainingError, match=r"became NaN or infinite \(epoch 6, batch 1, .*\(epoch 1\) are kept"):
        train(hopeless, few_faces, workspace=tmp_path, settings=CPU)


def test_patience_ends_a_stage(tmp_path: Path, few_faces: Dataset) -> None:
    stage = Stage(epochs=50, patience=2, batch_size=64, optimiser=Optimiser(name="sgd", lr=1e-9))
    recipe = Recipe("still", "does not move", Network("plain", options={"widths": (4,), "depths": (1,)}), (stage,))
    outcome = train(recipe, few_faces, workspace=tmp_path, settings=CPU)
    rows = list(csv.DictReader((outcome.folder / "history.csv").open()))
    best = max(range(len(rows)), key=lambda i: float(rows[i]["validation_accuracy"]))
    assert len(rows) == best + 1 + 2 < 50
    asked = iter(range(1, 1000))  # after each of four batches, and after the epoch: here after the last one
    again = dataclasses.replace(recipe, name="again")
    stopped = train(
        again, few_faces, workspace=tmp_path, settings=CPU, should_stop=lambda: next(asked) == 5 * len(rows)
    )
    assert (stopped.status, stopped.epochs_run) == ("stopped", len(rows))
    gone_on = train(again, few_faces, workspace=tmp_path, settings=CPU)
    assert (gone_on.status, gone_on.epochs_run) == ("complete", len(rows))


def test_data_without_a_training_face_is_refused(tmp_path: Path, small_recipe: Recipe, few_faces: Dataset) -> None:
    same = dataclasses.replace(few_faces, training=few_faces.validation)
    with pytest.raises(DataError, match=r"none of \d+ faces is left to learn from"):
        train(small_recipe, same, workspace=tmp_path, settings=CPU)
    assert not (tmp_path / "training/small").exists()


def test_precise_batch_norm_is_measured_on_unchanged_faces(tmp_path: Path, few_faces: Dataset) -> None:
    """The first batch norm's figures become those of the stem's answers to plain training faces; nothing else moves."""
    stage = Stage(epochs=2, batch_size=40, optimiser=Optimiser(lr=4e-3))
    turning = Augmentation(rotation=40, cutout=1.0, fill="edge")
    recipe = Recipe("bn", "batch norm", Network("plain", options={"widths": (4,), "depths": (1,)}), (stage,))
    recipe = dataclasses.replace(recipe, augmentation=turning)

    def trained(share: float) -> dict[str, torch.Tensor]:
        wanted = dataclasses.replace(recipe, name=f"bn{share}", precise_bn=share)
        run = train(wanted, few_faces, workspace=tmp_path, settings=CPU).run()
        return {name: tensor.float() for name, tensor in load_file(run.folder / "weights.safetensors").items()}

    never, half, wholly = trained(0.0), trained(0.5), trained(1.0)
    figures = [name for name in never if name.endswith(("running_mean", "running_var"))]
    for name, before in never.items():
        if name in figures:
            assert torch.allclose(half[name], (before + wholly[name]) / 2, rtol=4e-3, atol=1e-4)
        else:
            assert torch.equal(before, wholly[name])
    assert any(not torch.allclose(never[name], wholly[name], rtol=0.02) for name in figures)
    network = Run.open(tmp_path / "training/bn1.0").network().eval()
    stem = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network((torch.from_numpy(few_faces.training.images).float().unsqueeze(1) - 127.5) / 127.5)
    assert stem.running_mean is not None
    assert stem.running_var is not None
    assert torch.allclose(stem.running_mean, seen[0].mean((0, 2, 3)), rtol=4e-3, atol=1e-3)
    assert torch.allclose(stem.running_var, seen[0].var((0, 2, 3)), rtol=4e-3, atol=1e-3)


def test_ferplus_trains_on_votes_and_needs_them(tmp_path: Path, few_faces: Dataset, small_recipe: Recipe) -> None:
    recipe = dataclasses.replace(small_recipe, name="plus", labels="ferplus", stages=small_recipe.stages[1:])
    with pytest.raises(DataError, match=r"fer2013new.csv"):
        train(recipe, few_faces, workspace=tmp_path, settings=CPU)
    order = [4, 5, 6, 1, 3, 2, 0]  # where anger, disgust, fear, happiness, sadness, surprise, neutral stand in FER+

    def vote(faces: Faces) -> Faces:
        votes = np.zeros((len(faces), 10), np.uint8)
        votes[np.arange(len(faces)), [order[label] for label in faces.labels]] = 8
        votes[:, 7] = 1
        votes[0], votes[1, 8] = 0, 9  # one without votes, one mostly unknown
        return dataclasses.replace(faces, votes=votes)

    voted = dataclasses.replace(few_faces, training=vote(few_faces.training), validation=vote(few_faces.validation))
    record = train(recipe, voted, workspace=tmp_path, settings=CPU).run().record
    assert record["data"]["training_rows"] == len(few_faces.training) - 2
    assert record["recipe"]["labels"] == "ferplus"


def test_copies_of_later_faces_are_left_out(tmp_path: Path, few_faces: Dataset, small_recipe: Recipe) -> None:
    images = few_faces.training.images.copy()
    images[:5] = few_faces.test.images[:5]
    copied = dataclasses.replace(few_faces, training=dataclasses.replace(few_faces.training, pictures=images))
    recipe = dataclasses.replace(small_recipe, stages=small_recipe.stages[1:])
    record = train(recipe, copied, workspace=tmp_path, settings=CPU).run().record
    assert record["data"]["copies_left_out"] == 5
    assert record["data"]["training_rows"] == len(images) - 5


def test_an_absent_device_is_refused() -> None:
    absent = "cuda" if not torch.cuda.is_available() else "mps"
    with pytest.raises(UnavailableError, match="use --device cpu"):
        choose_device(absent)


def test_the_recipe_decides_what_chooses_the_best_epoch(
    tmp_path: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    """On the same course, the epoch of the highest accuracy or of the least loss: here they are not the same."""
    chosen = {}
    for best_by in ("accuracy", "loss"):
        recipe = apply_settings(small_recipe, [f"best_by={best_by}"])
        run = train(recipe, few_faces, workspace=tmp_path, settings=CPU, name=best_by).run()
        with (run.folder / "history.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        accuracies = [float(row["validation_accuracy"]) for row in rows]
        losses = [-float(row["validation_loss"]) for row in rows]
        by = accuracies if best_by == "accuracy" else losses
        chosen[best_by] = run.record["best"]["epoch"]
        assert chosen[best_by] == 1 + by.index(max(by))
    assert chosen["accuracy"] != chosen["loss"]
