"""The hook of training: what each watcher hears of a run, several at once, and TensorBoard's log."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_data import VALENCE, drawn_dataset
from training_helpers import stops_at

from fer_deploy.errors import UnavailableError
from fer_deploy.recipes import Recipe, Stage, parse_recipe
from fer_deploy.training import tensorboard
from fer_deploy.training.fit import Settings, train
from fer_deploy.training.watcher import BatchReport, EpochRow, Silent, Watchers

CPU = Settings(device="cpu")
RECIPE = """
name = "watched"
title = "two stages"
network = { name = "plain", options = { widths = [4], depths = [1], stem_stride = 2 } }
[[stage]]
epochs = 2
batch_size = 18
[[stage]]
epochs = 1
batch_size = 18
loss = { class_weights = "balanced" }
"""


class Calls(Silent):
    """Keeps the calls by name."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def started(self, recipe: Recipe, *, device: str, epochs_done: int) -> None:
        self.calls.append(f"started {recipe.name} after {epochs_done}")

    def stage(self, stage: Stage, *, number: int, count: int) -> None:
        self.calls.append(f"stage {number} of {count}: {len(stage.loss.class_weights)} weights")

    def batch(self, report: BatchReport) -> None:
        self.calls.append(f"batch {report.batch}")

    def epoch(self, row: EpochRow, *, best: bool) -> None:
        self.calls.append(f"epoch {row.epoch}")
        assert row.validation_macro_f1 is not None

    def ended(self, folder: Path, *, complete: bool) -> None:
        self.calls.append(f"ended {folder.name} {complete}")


def test_watchers_hear_of_each_stage_batch_epoch_and_end(tmp_path: Path) -> None:
    recipe, dataset = parse_recipe(RECIPE, source="watched.toml"), drawn_dataset(VALENCE)
    first, second = Calls(), Calls()
    should_stop = stops_at(5)
    for _ in range(2):
        watcher = Watchers(first, second)
        train(recipe, dataset, workspace=tmp_path, settings=CPU, watcher=watcher, should_stop=should_stop)
    assert first.calls == second.calls == [
        "started watched after 0", "stage 1 of 2: 3 weights", "batch 1", "batch 2", "epoch 1", "batch 1", "batch 2",
        "ended watched False",
        "started watched after 1", "stage 1 of 2: 3 weights", "epoch 2", "stage 2 of 2: 3 weights", "batch 1",
        "batch 2", "epoch 3", "ended watched True",
    ]  # fmt: skip


def test_tensorboard_has_each_epoch_once_after_a_stop(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe, dataset = parse_recipe(RECIPE, source="watched.toml"), drawn_dataset(VALENCE)
    folder, should_stop = tmp_path / "training/watched", stops_at(5)
    for _ in range(2):
        log = tensorboard.TensorBoardLog(folder)
        train(recipe, dataset, workspace=tmp_path, settings=CPU, watcher=log, should_stop=should_stop)
    read = events.EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    tags = read.Tags()
    assert set(tags["scalars"]) == {
        "loss/training", "loss/validation", "accuracy/training", "accuracy/validation", "macro-f1/validation",
        "learning rate", "images per second",
    }  # fmt: skip
    for name in tags["scalars"]:
        assert [event.step for event in read.Scalars(name)] == [1, 2, 3]
    assert tags["images"] == ["curves"]


def test_without_tensorboard_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        UnavailableError, match=r"^--log tensorboard: .* not installed: pip install 'fer-deploy\[tensor"
    ):
        tensorboard.event_writer()
