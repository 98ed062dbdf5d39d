"""Plans: members, names, and the weights of a fusion."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from trained_runs import train_network, write_run

from fer_deploy.ensemble import STUDY_SOURCE, search_weights, weighted_average
from fer_deploy.errors import ExportError, RunError
from fer_deploy.export.parity import PARITY_CASES, Reference
from fer_deploy.export.plan import plan_ensemble, plan_run
from fer_deploy.export.write import export_plan
from fer_deploy.faces import Dataset


def test_the_studys_weights_are_used_and_flagged(workspace: Path) -> None:
    plan = plan_ensemble(["B", "E"], workspace=workspace)
    assert (plan.name, plan.weights.values, plan.weights.source) == ("B+E", (0.45, 0.55), STUDY_SOURCE)
    assert plan_ensemble(["B", "E"], workspace=workspace, fusion="rrf").name == "B+E.rrf"
    assert plan_ensemble(["B", "B~mirror"], workspace=workspace).weights.source == "equal"


def test_weights_are_searched_on_validation_rows_alone(workspace: Path, dataset: Dataset) -> None:
    blind = Dataset(  # test rows that would poison any search that looked at them
        dataset.name, False, dataset.sha256, dataset.training, dataset.validation, dataset.test.take(np.arange(1))
    )
    plan = plan_ensemble(["B", "E"], workspace=workspace, data=blind, search=True)
    assert plan.weights.source == "searched on validation"
    alone = plan_ensemble(["B", "E"], workspace=workspace)
    members = Reference(alone.classifier(), dataset.validation).members(PARITY_CASES[0])
    labels = dataset.validation.labels

    def accuracy(weights: object) -> float:
        return float((weighted_average(members, weights).argmax(axis=1) == labels).mean())

    assert plan.weights.accuracy == pytest.approx(max(accuracy([i, 20 - i]) for i in range(21)))
    assert accuracy(plan.weights.values) == pytest.approx(plan.weights.accuracy)


def test_a_mirrored_member_shares_the_runs_weights(workspace: Path) -> None:
    first, second = plan_ensemble(["B", "B~mirror"], workspace=workspace).classifier().members
    assert first.network is second.network
    assert (first.mirrored, second.mirrored) == (False, True)


@pytest.mark.parametrize(
    ("names", "options", "error", "message"),
    [
        (["B"], {}, ExportError, "two members or more"),
        (["B", "B"], {}, ExportError, "each member once"),
        (["B", "E"], {"weights": [1.0]}, ExportError, "as many weights"),
        (["B", "E"], {"weights": [0.0, 0.0]}, ExportError, "not all zero"),
        (["B", "nobody"], {}, RunError, "no run here"),
        (["B", "../B"], {}, RunError, "not the name of a run"),
        (["B", ""], {}, RunError, "not the name of a run"),
    ],
)
def test_wrong_ensembles_are_named(
    workspace: Path, names: list[str], options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan_ensemble(names, workspace=workspace, **options)  # type: ignore[arg-type]


def test_an_unfinished_run_is_not_exported(dataset: Dataset, tmp_path: Path) -> None:
    run = write_run(tmp_path, "B", train_network(dataset, seed=0, epochs=0))
    record = json.loads((run.folder / "run.json").read_text()) | {"status": "training"}
    (run.folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="has not finished"):
        plan_run("B", workspace=tmp_path)


@pytest.mark.parametrize(
    ("names", "step"), [("B,E", 0.05), ("B,B~mirror,E,E~mirror", 0.05), ("B,B~mirror,E,E~mirror,C", 0.1)]
)
def test_the_weight_search_takes_wider_steps_from_five_members_on(
    names: str, step: float, workspace: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(workspace / "training", tmp_path / "training")
    write_run(tmp_path, "C", train_network(dataset, seed=2, epochs=0))
    members = names.split(",")
    labels = dataset.validation.labels
    generator = np.random.default_rng(7)
    answers = [generator.dirichlet(np.ones(7), len(labels)).astype(np.float32) for _ in members]
    monkeypatch.setattr(Reference, "members", lambda _self, _case: answers)
    plan = plan_ensemble(members, workspace=tmp_path, data=dataset, search=True)
    expected = {width: search_weights(answers, labels, step=width, source="").values for width in (0.05, 0.1)}
    assert expected[0.05] != expected[0.1]  # or the test could not fail
    assert plan.weights.values == expected[step]


@pytest.mark.parametrize(
    "text", ["Infinity", "NaN", "1e999", "1e300", "-1", "1e-300", "21", '"warm"', "[1.0]", "{}", "9" * 400]
)
def test_a_damaged_temperature_never_exports(text: str, workspace: Path, tmp_path: Path) -> None:
    """However it is written: an infinite one would make every answer uniform, and agree with PyTorch's."""
    shutil.copytree(workspace / "training" / "E", tmp_path / "training" / "E")
    path = tmp_path / "training" / "E" / "run.json"
    record = path.read_text()
    assert '"temperature": 1.5' in record
    path.write_text(record.replace('"temperature": 1.5', f'"temperature": {text}'))
    with pytest.raises(RunError, match=r"run\.json") as caught:
        export_plan(plan_run("E", workspace=tmp_path), folder=tmp_path / "exports")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "exports").exists()


@pytest.mark.parametrize("text", ["Infinity", "1e999", "-1", '"fast"', "null", "[]"])
def test_a_damaged_cost_never_exports(text: str, workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "training" / "E", tmp_path / "training" / "E")
    path = tmp_path / "training" / "E" / "run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"gflops": "GFLOPS"}).replace('"GFLOPS"', text))
    with pytest.raises(RunError, match=r"run\.json"):
        _ = plan_run("E", workspace=tmp_path).gflops
