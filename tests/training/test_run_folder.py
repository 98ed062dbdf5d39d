"""A run folder: what it records, who may use it, and what becomes of other or damaged content."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from training_helpers import sha256

from fer_deploy.errors import FerDeployError, RunError
from fer_deploy.faces import Dataset
from fer_deploy.faces.synthetic import synthetic_dataset
from fer_deploy.recipes import (
    Recipe,
    apply_settings,
)
from fer_deploy.training.curves import _best, draw_curves
from fer_deploy.training.fit import Settings, train
from fer_deploy.training.run import Run, list_runs
from fer_deploy.training.watcher import EpochRow

CPU = Settings(device="cpu")


def test_the_run_folder_records_the_run(finished: Path, small_recipe: Recipe, few_faces: Dataset) -> None:
    folder = finished / "training" / "small"
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["epochs_run"] == 7
    assert record["weights_sha256"] == sha256(folder / "weights.safetensors")
    assert record["data"]["sha256"] == few_faces.sha256
    assert record["images_seen"] == 4 * (280 // 32) * 32 + 3 * (280 // 16) * 16
    assert record["gflops"] > 0
    assert not (folder / "checkpoint.safetensors").exists()
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, 8)]
    assert [row["stage"] for row in rows] == ["1"] * 4 + ["2"] * 3
    assert set(rows[0]) == {entry.name for entry in dataclasses.fields(EpochRow)} - {"validation_macro_f1"}
    run = Run.open(folder)
    assert run.recipe == small_recipe
    assert [each.name for each in list_runs(finished)] == ["small"]
    assert record["best"]["epoch"] in range(1, 8)


def test_the_rounded_weights_have_the_recorded_accuracy(finished: Path, few_faces: Dataset) -> None:
    run = Run.open(finished / "training" / "small")
    network = run.network()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            assert torch.equal(tensor, tensor.half().float())
    faces = torch.from_numpy(few_faces.validation.images).float().unsqueeze(1).sub(127.5).div(127.5)
    with torch.no_grad():
        right = network(faces).argmax(1).numpy() == few_faces.validation.labels
    assert run.validation_accuracy == pytest.approx(right.mean())
    assert 0.05 < run.temperature < 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"recipe": "stage.0.optimiser.lr=1e-3"},
            r"differs in recipe.stage.0.optimiser.lr \(the folder's: 0.004, yours: 0.001\)",
        ),
        ({"seed": 1}, r"differs in seed \(the folder's: 0, yours: 1\)"),
        ({"data": 140}, "differs in data"),
    ],
)
def test_another_run_in_the_folder_is_refused(
    change: dict[str, object], message: str, finished: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:

    recipe = apply_settings(small_recipe, [str(change["recipe"])]) if "recipe" in change else small_recipe
    faces = synthetic_dataset(140) if "data" in change else few_faces
    settings = dataclasses.replace(CPU, seed=int(str(change.get("seed", 0))))
    with pytest.raises(RunError, match=message):
        train(recipe, faces, workspace=finished, settings=settings)


def test_damaged_files_get_one_line(tmp_path: Path, small_recipe: Recipe, few_faces: Dataset) -> None:
    calls = iter([False] * 10 + [True] * 1000)
    train(small_recipe, few_faces, workspace=tmp_path, settings=CPU, should_stop=lambda: next(calls))
    checkpoint = tmp_path / "training/small/checkpoint.safetensors"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=r"checkpoint is damaged .*--restart"):
        train(small_recipe, few_faces, workspace=tmp_path, settings=CPU)
    assert (
        train(small_recipe, few_faces, workspace=tmp_path, settings=dataclasses.replace(CPU, restart=True)).status
        == "complete"
    )
    weights = tmp_path / "training/small/weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RunError, match="does not match its record"):
        Run.open(tmp_path / "training/small").network()
    with pytest.raises(RunError, match="there is no run here: train it with `ferdeploy train B`"):
        Run.open(tmp_path / "training/B")
    with pytest.raises(RunError, match="there is no run here, and no variant has that name; runs: small"):
        Run.open(tmp_path / "training/none")


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("small", "ferdeploy train small"),
        ("mine", "ferdeploy train small --name mine"),
        ("small.seed3", "ferdeploy train small --seeds 1 --seed 3"),
        ("mine.seed3", "ferdeploy train small --name mine --seeds 1 --seed 3"),
    ],
)
def test_the_command_that_resumes_a_run_names_its_recipe(folder: str, command: str, tmp_path: Path) -> None:
    """A folder may be called otherwise than the variant in it."""
    path = tmp_path / folder
    path.mkdir()
    (path / "run.json").write_text(json.dumps({"format": 1, "status": "training", "recipe": {"name": "small"}}))
    with pytest.raises(RunError, match=f"resume it with `{command}`"):
        Run.open(path)


def test_one_command_at_a_time_trains_a_run(tmp_path: Path, small_recipe: Recipe, few_faces: Dataset) -> None:
    during: list[str] = []

    def ask() -> bool:
        if not during:
            with pytest.raises(RunError, match=r"training/small: another command is training this run") as refused:
                train(small_recipe, few_faces, workspace=tmp_path, settings=CPU)
            during.append(str(refused.value))
        return False

    assert train(small_recipe, few_faces, workspace=tmp_path, settings=CPU, should_stop=ask).status == "complete"
    assert during
    assert train(small_recipe, few_faces, workspace=tmp_path, settings=CPU).status == "already complete"


def test_a_restart_that_cannot_begin_keeps_the_old_run(
    tmp_path: Path, finished: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    shutil.copytree(finished / "training", tmp_path / "training")
    before = {path.name: sha256(path) for path in (tmp_path / "training/small").iterdir()}
    settings = dataclasses.replace(CPU, restart=True)
    for wrong in ({"initialisation": "typo.safetensors"}, {"labels": "ferplus"}):
        with pytest.raises(FerDeployError):
            train(dataclasses.replace(small_recipe, **wrong), few_faces, workspace=tmp_path, settings=settings)
        assert {path.name: sha256(path) for path in (tmp_path / "training/small").iterdir()} == before


def test_a_copied_run_has_its_folders_name(tmp_path: Path, finished: Path) -> None:
    shutil.copytree(finished / "training/small", tmp_path / "training/older")
    assert Run.open(tmp_path / "training/older").name == "older"
    assert [run.name for run in list_runs(tmp_path)] == ["older"]
    (tmp_path / "training/older/run.json").write_text("<<<<<<< HEAD")
    with pytest.raises(RunError, match=r"older/run.json: damaged run record: not JSON"):
        list_runs(tmp_path)


def test_a_run_older_than_a_key_of_the_schema_is_the_same_run(
    finished: Path, tmp_path: Path, small_recipe: Recipe, few_faces: Dataset
) -> None:
    shutil.copytree(finished / "training", tmp_path / "training")
    path = tmp_path / "training/small/run.json"
    record = json.loads(path.read_text())
    for stage in record["fingerprint"]["recipe"]["stage"]:
        del stage["patience"]
    record["fingerprint"]["recipe"]["study"] = {"accuracy": 0.5, "gflops": 0.1}  # earlier versions kept it there
    path.write_text(json.dumps(record))
    assert train(small_recipe, few_faces, workspace=tmp_path, settings=CPU).status == "already complete"
    record["fingerprint"]["recipe"]["stage"][0]["epochs"] = 99
    path.write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"differs in recipe.stage.0.epochs \(the folder's: 99, yours: 4\)"):
        train(small_recipe, few_faces, workspace=tmp_path, settings=CPU)


def test_curves_are_drawn(finished: Path) -> None:
    assert draw_curves(finished / "training/small").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RunError, match="no history"):
        draw_curves(finished)


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ('{"format": 1, "status": "complete", "best": {"epoch": 3}}', 2),
        ('{"format": 1, "status": "training", "best": null}', 1),  # nothing is kept yet: the most accurate
        ("damaged", 1),
    ],
)
def test_curves_mark_the_epoch_whose_weights_were_saved(tmp_path: Path, record: str, place: int) -> None:
    (tmp_path / "run.json").write_text(record)
    assert _best(tmp_path, [1, 2, 3], [0.5, 0.7, 0.6]) == place
