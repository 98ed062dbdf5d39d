"""A whole run: rows and figures, and the engines and files that cannot be measured."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from bench_files import tiny_model

from fer_deploy.bench import run as bench_run
from fer_deploy.bench.latency import QUICK, Parts
from fer_deploy.bench.report import OK, load_report, to_json
from fer_deploy.bench.run import BenchPlan, run_bench
from fer_deploy.bench.save import save_pages, save_predictions
from fer_deploy.faces.load import load_dataset

TINY = replace(QUICK, samples=8, rounds=2, least=4, seconds=0.05, batches=(4,), batch_seconds=0.01)


def plan(workspace: Path, **changes) -> BenchPlan:
    defaults = {
        "engines": ("ort-cpu",), "latency": TINY, "dataset": load_dataset("synthetic:300"), "probe": False,
        "workspace": workspace,
    }  # fmt: skip
    return BenchPlan(**{**defaults, **changes})


def test_every_row_has_its_figures(trained_workspace: Path) -> None:
    result = run_bench(plan(trained_workspace, engines=("ort-cpu", "torch-cpu")))
    report = result.report
    file, network = report.rows
    assert [row.label for row in report.rows] == ["small on ort-cpu", "small on torch-cpu"]
    assert [row.status for row in report.rows] == [OK, OK]
    # the file and the network say the same, and cost the same
    assert file.quality == network.quality or file.agreement == pytest.approx(1, abs=0.02)
    assert file.agreement_with == "small on torch-cpu"
    assert file.agreement >= 0.98
    assert network.agreement is None
    assert file.cost == network.cost
    assert file.cost.gflops > 0
    assert file.cost.torch_gflops > file.cost.gflops
    assert file.cost.bytes == (trained_workspace / "exports" / "small.onnx").stat().st_size
    assert file.efficiency == pytest.approx(file.quality.accuracy.value / file.cost.gflops)
    for row in report.rows:
        assert row.latency.n == 8
        assert row.latency.p50 <= row.latency.p90 <= max(row.latency.samples_ns) / 1e6
        assert row.throughput.images_per_s > 0
        assert len(row.predictions) == report.data.rows == len(result.probabilities[row.label])
    assert report.data.split == "test"
    assert any("do not apply to FER2013" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"status": "training"}, "has not finished"), ({"weights_sha256": "0" * 64}, "weights")],
)
def test_a_file_keeps_its_figures_when_its_run_cannot_be_counted(
    trained_workspace: Path, tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    shutil.copytree(trained_workspace, tmp_path, dirs_exist_ok=True)
    record = tmp_path / "training" / "small" / "run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
    report = run_bench(plan(tmp_path, engines=("ort-cpu", "ort-qnn"))).report
    row, absent = report.rows
    assert (row.status, row.quality is None, row.latency is None) == (OK, False, False)
    assert (row.cost.gflops, row.cost.recorded_gflops) == (None, 0.0004)
    assert row.cost.bytes == (tmp_path / "exports" / "small.onnx").stat().st_size
    assert re.search(f"GFLOPs not counted: .*{reason}", row.note)
    assert "here has no qnn, only " in absent.status
    assert absent.cost == row.cost


def test_accuracy_is_of_the_files_own_answers(workspace: Path) -> None:
    from fer_deploy import Recognizer

    dataset = load_dataset("synthetic:300")
    result = run_bench(plan(workspace, dataset=dataset, latency=None))
    faces = np.repeat(dataset.test.images[..., None], 3, axis=3)
    for row in result.report.rows:
        predicted = Recognizer(workspace / "exports" / f"{row.name}.onnx").probabilities(faces).argmax(axis=1)
        assert row.predictions == "".join(map(str, predicted))
        assert row.quality.accuracy.value == pytest.approx((predicted == dataset.test.labels).mean())
        assert row.quality.deduplicated.count == int(dataset.unseen_test.sum())
        assert row.latency is None
        assert row.throughput is None
    (pair,) = result.report.pairs
    assert {pair.first, pair.second} == {"one on ort-cpu", "two on ort-cpu"}
    right = [np.array(list(row.predictions), int) == dataset.test.labels for row in result.report.rows]
    assert pair.only_first == int((right[0] & ~right[1]).sum())


def test_a_file_trained_on_ferplus_is_timed_and_not_scored(workspace: Path) -> None:
    learned = tiny_model(seed=3, name="votes", accuracy="0.8", trained_on="FER2013 with FER+ labels")
    (workspace / "exports" / "votes.onnx").write_bytes(learned)
    report = run_bench(plan(workspace)).report
    votes = next(row for row in report.rows if row.name == "votes")
    assert (votes.status, votes.quality, votes.recorded_accuracy) == (OK, None, None)
    assert votes.latency.n == 8
    assert "FER+" in votes.note
    assert [(pair.first, pair.second) for pair in report.pairs] == [("one on ort-cpu", "two on ort-cpu")]


def test_without_data_accuracy_is_recorded_never_measured(workspace: Path) -> None:
    report = run_bench(plan(workspace, dataset=None)).report
    one = report.row("one on ort-cpu")
    assert (one.quality, one.agreement, one.predictions, one.efficiency) == (None, None, None, None)
    assert (one.recorded_accuracy, one.recorded_accuracy_split) == (0.61, "PrivateTest")
    assert (one.cost.gflops, one.cost.recorded_gflops) == (None, 0.0232)
    assert one.latency.n > 0
    assert report.data is None
    row = to_json(report)["rows"][0]
    assert row["accuracy"] is None
    assert row["recorded_accuracy"] == 0.61


def test_a_failing_model_is_a_row_and_the_others_are_measured(workspace: Path) -> None:
    (workspace / "exports" / "bad.onnx").write_bytes(b"no model")
    (workspace / "exports" / "logits.onnx").write_bytes(_unnormalised())
    report = run_bench(plan(workspace, engines=("ort-cpu", "ort-qnn", "torch-cpu"))).report
    status = {row.label: row.status for row in report.rows}
    assert status["one on ort-cpu"] == OK
    assert "bad.onnx" in status["bad on ort-cpu"]
    assert status["logits on ort-cpu"].startswith("the model: ")
    assert "here has no qnn, only " in status["one on ort-qnn"]
    assert "training/" in status["one on torch-cpu"]
    failed = [row for row in report.rows if row.status != OK]
    assert all(row.quality is None and row.latency is None and row.provider is None for row in failed)


@pytest.mark.parametrize("with_data", [True, False])
@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        ("batch mean", "instead of [3, 7]"),
        ("batch doubled", "instead of [3, 7]"),
        ("log", "a negative value"),
        ("nan", "values that are not finite"),
        ("times 50", "rows that do not sum to 1"),
    ],
)
def test_a_model_that_computes_no_probabilities_has_no_figures(
    workspace: Path, operator: str, reason: str, with_data: bool
) -> None:
    """The declared shapes are right, so that only running the file shows it; without data it would be timed."""
    (workspace / "exports" / "broken.onnx").write_bytes(_spoiled(operator))
    report = run_bench(plan(workspace, **({} if with_data else {"dataset": None}))).report
    status = {row.name: row.status for row in report.rows}
    broken = next(row for row in report.rows if row.name == "broken")
    assert status["one"] == status["two"] == OK
    assert broken.status.startswith("the model: computed no probabilities for ")
    assert (reason if not with_data else reason.partition("[3")[0]) in broken.status
    assert (broken.quality, broken.latency, broken.throughput, broken.predictions) == (None, None, None, None)


def _spoiled(operator: str) -> bytes:
    """A tiny model whose last node is followed by one that breaks its output."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(tiny_model(seed=5, name="broken"))
    model.graph.node[-1].output[0] = "right"
    axis = numpy_helper.from_array(np.array([0], np.int64), "first_axis")
    factor = numpy_helper.from_array(np.array(np.nan if operator == "nan" else 50, np.float32), "factor")
    model.graph.initializer.extend([axis, factor])
    kind, inputs, options = {
        "batch mean": ("ReduceMean", ["right", "first_axis"], {"keepdims": 1}),
        "batch doubled": ("Concat", ["right", "right"], {"axis": 0}),
        "log": ("Log", ["right"], {}),
    }.get(operator, ("Mul", ["right", "factor"], {}))
    model.graph.node.append(helper.make_node(kind, inputs, ["probabilities"], **options))
    return model.SerializeToString()


def _unnormalised() -> bytes:
    import onnx

    model = onnx.load_from_string(tiny_model(name="logits"))
    del model.graph.node[-1]
    model.graph.node[-1].output[0] = "probabilities"
    return model.SerializeToString()


def test_an_engine_that_does_not_wait_is_an_error_row(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fer_deploy.errors import MeasurementError

    class Hasty(bench_run.SessionStream):
        def check_clock(self, *, calls: int = 8) -> Parts:
            raise MeasurementError("single times leave out 90% of the wall time")

    monkeypatch.setattr(bench_run, "SessionStream", Hasty)
    report = run_bench(plan(workspace)).report
    assert all("wall time" in row.status and row.latency is None for row in report.rows)


def test_a_quick_run_scores_the_same_sample_each_time(workspace: Path) -> None:
    reports = [run_bench(plan(workspace, max_rows=20, latency=replace(TINY, seed=seed))).report for seed in (1, 1, 2)]
    answers = [report.rows[0].predictions for report in reports]
    assert reports[0].data.rows == 20
    assert reports[0].data.rows_in_split > 20
    assert answers[0] == answers[1] != answers[2]
    assert any("quick look" in warning for warning in reports[0].warnings)


def test_loading_is_measured_in_a_process_of_its_own(workspace: Path) -> None:
    report = run_bench(plan(workspace, names=("one",), dataset=None, probe=True)).report
    load = report.rows[0].load
    assert report.rows[0].status == OK
    assert load.load_ms > 0
    assert load.first_ms > 0
    assert load.peak_memory_bytes is None or 1e7 < load.peak_memory_bytes < 4e9


def test_the_report_matches_its_schema_and_loads_again(workspace: Path, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    (workspace / "exports" / "bad.onnx").write_bytes(b"no model")
    result = run_bench(plan(workspace, engines=("ort-cpu", "torch-cuda")))
    written = save_pages(result.report, tmp_path / "out") + save_predictions(result, tmp_path / "out" / "predictions")
    schema = json.loads((resources.files("fer_deploy.bench") / "report.schema.json").read_text("utf-8"))
    table = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(table)
    assert load_report(tmp_path / "out" / "report.json") == result.report
    names = {path.name for path in written}
    assert {"report.json", "report.md", "report.html", "one.ort-cpu.csv", "two.ort-cpu.csv"} == names
    lines = (tmp_path / "out" / "predictions" / "one.ort-cpu.csv").read_text("utf-8").splitlines()
    assert lines[0].startswith("row,label,predicted,angry")
    assert len(lines) == 1 + result.report.data.rows


def test_a_file_with_a_fixed_batch_notes_its_size(workspace: Path) -> None:
    (workspace / "exports" / "eight.onnx").write_bytes(tiny_model(seed=3, name="eight", batch=8))
    report = run_bench(plan(workspace, names=("one", "eight"))).report
    one, eight = report.rows
    assert (one.face_ms, eight.face_ms) == (one.latency.p50, None)
    assert (one.note, eight.note) == (None, "timed in calls of 8 faces, the file's fixed batch")


def test_two_files_of_one_name_are_two_models(workspace: Path, tmp_path: Path) -> None:
    (workspace / "other").mkdir()
    (workspace / "other" / "one.onnx").write_bytes(tiny_model(seed=2, name="one"))
    names = tuple(str(workspace / folder / "one.onnx") for folder in ("exports", "other"))
    result = run_bench(plan(workspace, names=names, latency=None))
    assert [row.label for row in result.report.rows] == ["exports/one on ort-cpu", "other/one on ort-cpu"]
    assert [row.agreement for row in result.report.rows] == [None, None]
    assert len(result.report.pairs) == 1
    written = save_pages(result.report, tmp_path / "out") + save_predictions(result, tmp_path / "out" / "predictions")
    assert [path.name for path in written[3:]] == ["exports~one.ort-cpu.csv", "other~one.ort-cpu.csv"]


def test_the_schema_refuses_a_figure_of_the_wrong_kind(workspace: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((resources.files("fer_deploy.bench") / "report.schema.json").read_text("utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    table = json.loads(json.dumps(to_json(run_bench(plan(workspace)).report)))
    validator.validate(table)
    for spoil in (
        lambda row: row.update(accuracy=1.2),
        lambda row: row.update(accuracy="0.6"),
        lambda row: row.pop("status"),
        lambda row: row.update(surprise=1),
        lambda row: row["latency_ms"].update(p50=-1),
        lambda row: row.update(predictions="01-9"),
    ):
        damaged = json.loads(json.dumps(table))
        spoil(damaged["rows"][0])
        assert not validator.is_valid(damaged)


def test_real_faces_are_scored_with_and_without_copies(workspace: Path, fer2013) -> None:
    report = run_bench(plan(workspace, dataset=fer2013, latency=None)).report
    data = report.data
    assert (data.name, data.split, data.rows, data.rows_deduplicated) == ("FER2013", "PrivateTest", 3589, 3275)
    assert report.rows[0].quality.deduplicated.count == 3275
    assert sum(map(sum, report.rows[0].quality.confusion)) == 3589
    assert [sum(line) for line in report.rows[0].quality.confusion] == [491, 55, 528, 879, 594, 416, 626]
