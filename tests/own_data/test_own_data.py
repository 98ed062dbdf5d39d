"""The whole road with data of one's own: four drawn data sets, each from its files to every use of the model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from drawn_data import EIGHT, THREE, encoded, faces_of, folder_tree, hub_parquet, numbered_tree, table_of_paths
from serve.conftest import running

from fer_deploy import Recognizer
from fer_deploy.cli import cli
from fer_deploy.emotions import EMOTIONS
from fer_deploy.model.contract import read_model_file

RECIPE = """
name = "mine"
title = "a tiny network"
[network]
name = "plain"
input_size = {size}
options = {{ widths = [4, 8, 16], depths = [1, 1, 1], stem_stride = 2 }}
[[stage]]
epochs = 2
batch_size = 16
optimiser = {{ lr = 1e-2 }}
"""


@dataclass(frozen=True)
class Case:
    """One data set, and what must come out of it."""

    draw: Callable[[Path], Path]
    labels: tuple[str, ...]
    input_size: int
    options: tuple[str, ...] = ()


CASES = {
    "eight labels in a tree of large colour faces": Case(folder_tree, EIGHT, 96),
    "three labels in a CSV of paths": Case(table_of_paths, THREE, 48),
    "folders numbered like RAF-DB": Case(numbered_tree, EMOTIONS, 64, ("--labels", "raf-db")),
    "a parquet of Hugging Face": Case(hub_parquet, EMOTIONS, 48),
}


@dataclass(frozen=True)
class Road:
    """A workspace in which one case was trained and exported."""

    case: Case
    workspace: Path
    data: tuple[str, ...]
    """The options that name the data."""

    @property
    def model(self) -> Path:
        return self.workspace / "exports" / "mine.onnx"

    def run(self, *words: object) -> Result:
        done = CliRunner().invoke(cli, [*map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Compiling the kernels takes longer than these trainings."""
    before = os.environ.get("FERDEPLOY_KERNELS")
    os.environ["FERDEPLOY_KERNELS"] = "0"
    yield
    if before is None:
        del os.environ["FERDEPLOY_KERNELS"]
    else:
        os.environ["FERDEPLOY_KERNELS"] = before


@pytest.fixture(scope="module", params=list(CASES), ids=lambda name: name.replace(" ", "-"))
def road(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _quick: None) -> Road:
    case = CASES[request.param]
    workspace = tmp_path_factory.mktemp("road")
    path = case.draw(workspace / "input")
    road = Road(case, workspace, ("--data", str(path), *case.options))
    (workspace / "mine.toml").write_text(RECIPE.format(size=case.input_size), encoding="utf-8")
    at = ("--workspace", workspace, "--device", "cpu")
    road.run("train", workspace / "mine.toml", *road.data, *at)
    road.run("export", "mine", "--data", path, "--workspace", workspace)  # the run knows its label map
    return road


def test_the_data_is_shown(road: Road) -> None:
    shown = json.loads(road.run("data", *road.data, "--json").output)
    assert tuple(shown["labels"]) == road.case.labels
    assert shown["problems"] == []


def test_the_run_records_the_data(road: Road) -> None:
    record = json.loads((road.workspace / "training/mine/run.json").read_text(encoding="utf-8"))["data"]
    assert tuple(record.get("labels", EMOTIONS)) == road.case.labels
    assert record["summary"]["pictures"] > 30


def test_the_file_states_the_labels_and_nothing_about_fer2013(road: Road) -> None:
    _, contract = read_model_file(road.model)
    assert contract.labels == road.case.labels
    assert "FER2013" not in json.dumps(dict(contract.metadata))
    assert "FER2013" not in (road.workspace / "exports/manifest.json").read_text(encoding="utf-8")


def test_it_is_proven(road: Road) -> None:
    done = road.run("verify", road.model, *road.data, "--workspace", road.workspace, "--strict")
    assert "proven: every check passed" in done.output


def test_it_is_measured(road: Road) -> None:
    road.run("bench", "mine", *road.data, "--workspace", road.workspace, "--quick", "--engine", "ort-cpu")
    report = json.loads((road.workspace / "benchmarks/report.json").read_text(encoding="utf-8"))
    (row,) = report["rows"]
    assert row["status"] == "ok"
    assert 0 <= row["accuracy"] <= 1
    for page in ("report.md", "report.html"):
        text = (road.workspace / "benchmarks" / page).read_text(encoding="utf-8")
        assert all(label in text for label in road.case.labels)


def test_it_reads_pictures(road: Road, tmp_path: Path) -> None:
    faces = faces_of(road.case.labels[0], 2, side=120, seed=7)
    for number, face in enumerate(faces):
        (tmp_path / f"{number}.png").write_bytes(encoded(face))
    done = road.run("predict", tmp_path, "--crops", "--json", "--model", road.model)
    rows = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    assert len(rows) == 2
    recognizer = Recognizer(road.model)
    assert recognizer.labels == road.case.labels
    for row, face in zip(rows, faces, strict=True):
        answer = recognizer.predict(face)
        assert row["label"] == answer.label
        assert tuple(answer.probabilities) == road.case.labels
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-4)


def test_it_serves(road: Road) -> None:
    (face,) = faces_of(road.case.labels[-1], 1, side=80, seed=8)
    recognizer = Recognizer(road.model, threads=1)
    with running(recognizer) as service:
        answer, body = service.ask("POST", "/v1/face", encoded(face), {"Content-Type": "image/png"})
        assert answer.status == 200, body
    found = json.loads(body)
    assert found["label"] == recognizer.predict(face).label
    assert set(found["probabilities"]) == set(road.case.labels)


def test_it_scores_a_folder(road: Road, tmp_path: Path, local_ray: None) -> None:
    from pyarrow import parquet

    (tmp_path / "in").mkdir()
    faces = faces_of(road.case.labels[0], 3, side=64, seed=9)
    for number, face in enumerate(faces):
        (tmp_path / "in" / f"{number}.png").write_bytes(encoded(face))
    road.run("score", tmp_path / "in", tmp_path / "out", "--model", road.model, "--workers", 1)
    table = parquet.read_table(next((tmp_path / "out").glob("part-*.parquet")))
    answers = [answer.label for answer in Recognizer(road.model).predict(list(faces))]
    assert table.column("label").to_pylist() == answers
    shares = sum(np.asarray(table.column(label)) for label in road.case.labels)
    np.testing.assert_allclose(shares, 1, atol=1e-4)


def test_runs_of_other_labels_are_not_fused(road: Road) -> None:
    if road.case.labels == EMOTIONS:
        pytest.skip("these are the seven")
    other = road.workspace / "training" / "seven"
    if not other.exists():
        done = CliRunner().invoke(
            cli,
            ["train", str(road.workspace / "mine.toml"), "--name", "seven", "--data", "synthetic:70", "--epochs", "1",
             "--device", "cpu", "--workspace", str(road.workspace)],
        )  # fmt: skip
        assert done.exit_code == 0, done.output
    done = CliRunner().invoke(cli, ["export", "--ensemble", "mine,seven", "--workspace", str(road.workspace)])
    assert done.exit_code == 1
    assert all(label in done.output for label in (*road.case.labels, *EMOTIONS))
