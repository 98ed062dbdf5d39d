"""When a stage ends: at its length, early without progress, or at its goal; and what the record then holds."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from small_recipe import SMALL

from fer_deploy.cli import cli
from fer_deploy.errors import RecipeError
from fer_deploy.faces import Dataset
from fer_deploy.recipes import Network, Optimiser, Recipe, Schedule, Stage, load_recipe, parse_recipe
from fer_deploy.training.fit import Outcome, Settings, train
from fer_deploy.training.optim import Scheduler, make_optimiser
from fer_deploy.training.stages import share_budget
from fer_deploy.training.watcher import EpochRow, Silent

CPU = Settings(device="cpu")
NETWORK = Network("plain", options={"widths": (4,), "depths": (1,), "stem_stride": 2})


class Notes(Silent):
    """Keeps the rates and messages of a run."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.messages: list[str] = []

    def epoch(self, row: EpochRow, *, best: bool) -> None:
        self.rates.append(row.lr)

    def message(self, text: str) -> None:
        self.messages.append(text)


def recipe_of(*stages: Stage) -> Recipe:
    return Recipe("ends", "a small network", NETWORK, stages)


def rows_of(outcome: Outcome) -> list[dict[str, str]]:
    return list(csv.DictReader((outcome.folder / "history.csv").open()))


def test_a_stage_ends_where_the_study_stopped_on_the_whole_schedule(tmp_path: Path, few_faces: Dataset) -> None:
    """Three of ten epochs; their rates are the first of the ten, not three that fall to the end."""
    stage = Stage(
        epochs=10, ran=3, batch_size=70, optimiser=Optimiser(lr=1e-2), schedule=Schedule("one-cycle", warm_up=0.5)
    )
    notes = Notes()
    outcome = train(recipe_of(stage, stage), few_faces, workspace=tmp_path, settings=CPU, watcher=notes)
    assert [row["stage"] for row in rows_of(outcome)] == ["1"] * 3 + ["2"] * 3
    assert outcome.run().record["epochs_planned"] == outcome.run().record["epochs_run"] == 6
    network = outcome.run().network()
    scheduler = Scheduler(
        make_optimiser(network, stage.optimiser, device=torch.device("cpu")), stage, total_steps=10 * 4
    )
    expected = []
    for _ in range(3):
        for _ in range(4):
            scheduler._optimiser.step()
            scheduler.after_step()
        expected.append(scheduler.lr)
    assert notes.rates == pytest.approx(expected * 2)
    assert notes.rates[0] < notes.rates[1] < notes.rates[2] < 1e-2  # still rising
    assert notes.messages == []


def test_a_budget_is_not_cut_by_the_length_that_the_study_had(tmp_path: Path, few_faces: Dataset) -> None:
    stages = (Stage(epochs=10, ran=2, batch_size=140), Stage(epochs=4, ran=1, batch_size=140))
    settings = dataclasses.replace(CPU, epochs=9)
    outcome = train(recipe_of(*stages), few_faces, workspace=tmp_path, settings=settings)
    assert [row["stage"] for row in rows_of(outcome)] == ["1"] * 6 + ["2"] * 3
    assert [stage.length for stage in share_budget(recipe_of(*stages), 3).stages] == [2, 1]


@pytest.mark.parametrize("stop", [False, True])
def test_a_stage_ends_at_its_goal(stop: bool, tmp_path: Path, few_faces: Dataset) -> None:
    """After the first epoch that reaches it, in a run that was stopped right there too; the next stage follows."""
    stage = Stage(epochs=8, batch_size=32, optimiser=Optimiser(lr=4e-3))
    every = train(recipe_of(stage), few_faces, workspace=tmp_path, name="every", settings=CPU)
    accuracies = [float(row["validation_accuracy"]) for row in rows_of(every)]
    goal = sorted(set(accuracies))[1]
    first = next(place for place, accuracy in enumerate(accuracies, 1) if accuracy >= goal)
    assert 1 <= first < 8
    recipe = recipe_of(dataclasses.replace(stage, goal=goal), Stage(epochs=2, batch_size=64, goal=1.0))
    calls = iter([False] * (first * 9 - 1) + [stop])  # eight batches an epoch, and a call after each and the epoch
    notes = Notes()
    outcome = train(
        recipe, few_faces, workspace=tmp_path, settings=CPU, watcher=notes, should_stop=lambda: next(calls, False)
    )
    if stop:
        assert (outcome.status, outcome.epochs_run) == ("stopped", first)
        outcome = train(recipe, few_faces, workspace=tmp_path, settings=CPU, watcher=notes)
    assert [row["stage"] for row in rows_of(outcome)] == ["1"] * first + ["2"] * 2
    accuracy = accuracies[first - 1]
    assert notes.messages == [f"stage 1 ends: validation accuracy {accuracy:.2%} reaches the goal of {goal:.2%}"]
    record = outcome.run().record
    assert record["goals_reached"] == [
        {"stage": 1, "epoch": first, "validation_accuracy": pytest.approx(accuracy, abs=1e-6), "goal": goal}
    ]
    assert "goals_reached" not in every.run().record
    assert record["epochs_planned"] == record["epochs_run"] == first + 2


def test_a_goal_is_a_share() -> None:
    with pytest.raises(RecipeError, match=r"goal: must lie in \[0, 1\], got 70"):
        parse_recipe(SMALL + "goal = 70.0\n", source="x.toml")


def test_a_run_recorded_before_goals_is_the_same_run(tmp_path: Path, few_faces: Dataset) -> None:
    recipe = recipe_of(Stage(epochs=1, batch_size=140))
    outcome = train(recipe, few_faces, workspace=tmp_path, settings=CPU)
    path = outcome.folder / "run.json"
    record = json.loads(path.read_text())
    for content in (record["recipe"], record["fingerprint"]["recipe"]):
        del content["stage"][0]["goal"]
    path.write_text(json.dumps(record))
    assert train(recipe, few_faces, workspace=tmp_path, settings=CPU).status == "already complete"
    other = recipe_of(dataclasses.replace(recipe.stages[0], goal=0.5))
    with pytest.raises(Exception, match=r"differs in recipe\.stage\.0\.goal"):
        train(other, few_faces, workspace=tmp_path, settings=CPU)


def test_without_a_name_b_and_e_are_trained_and_left_alone_once_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study's two recipes on a tiny network: an empty workspace gets both, and the same command keeps them."""

    def small(name: str, *, workspace: Path | None = None) -> Recipe:
        recipe = load_recipe(name, workspace=workspace)
        stages = tuple(dataclasses.replace(stage, epochs=2, ran=1, batch_size=128) for stage in recipe.stages)
        return dataclasses.replace(recipe, network=NETWORK, initialisation="default", stages=stages)

    monkeypatch.setattr("fer_deploy.training.plan.load_recipe", small)
    words = ["train", "--data", "synthetic:280", "--workspace", str(tmp_path), "--device", "cpu", "--threads", "1"]
    first = CliRunner().invoke(cli, words, env={"COLUMNS": "200"})
    assert first.exit_code == 0, first.output
    assert sorted(path.parent.name for path in tmp_path.glob("training/*/run.json")) == ["B", "E"]
    for name in ("B", "E"):
        rows = list(csv.DictReader((tmp_path / f"training/{name}/history.csv").open()))
        assert len(rows) == len(load_recipe(name).stages)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = CliRunner().invoke(cli, words, env={"COLUMNS": "200"})
    assert (again.exit_code, again.output.count("is already complete")) == (0, 2)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    monkeypatch.setattr("fer_deploy.training.plan.load_recipe", load_recipe)
    refused = CliRunner().invoke(cli, words, env={"COLUMNS": "200"})
    assert refused.exit_code == 1  # the study's own recipes are other runs
    assert refused.output.count("holds a run that differs in recipe") == 2
