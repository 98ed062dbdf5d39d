"""Models and data with any labels, and pictures of any size: figures, pages, comparison, what is left out."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_files import make_trained_workspace, tiny_model
from chromium import launch
from drawn_report import report as drawn_report
from rich.console import Console

from fer_deploy import Recognizer
from fer_deploy.bench.compare import compare_reports
from fer_deploy.bench.latency import QUICK
from fer_deploy.bench.pages.html import html_report
from fer_deploy.bench.pages.markdown import markdown_report
from fer_deploy.bench.pages.terminal import render_report
from fer_deploy.bench.quality import measure_quality
from fer_deploy.bench.report import (
    LEFT_OUT,
    OK,
    Report,
    classes,
    digits,
    from_json,
    label_list,
    load_report,
    report_text,
)
from fer_deploy.bench.run import BenchPlan, run_bench
from fer_deploy.bench.save import save_predictions
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import MeasurementError
from fer_deploy.faces.dataset import Dataset, Faces
from fer_deploy.faces.store import Pictures

TINY = replace(QUICK, samples=8, rounds=2, least=4, seconds=0.05, batches=(4,), batch_seconds=0.01)
MOODS = ("مسرور", "row", 'sad, "blue"')


def faces(count: int, seed: int, *, labels: int, size: tuple[int, int] | None) -> Faces:
    """Grey noise, each face of its own brightness; of mixed sizes without `size`."""
    random = np.random.default_rng(seed)
    pictures = []
    for number in range(count):
        shape = size or (40 + number % 3 * 20, 40 + number % 2 * 30)
        level = random.integers(20, 236)
        pictures.append(random.integers(level - 20, level + 20, shape, np.uint8))
    held = np.stack(pictures) if size else Pictures.ragged(pictures)
    return Faces(held, random.integers(0, labels, count), np.arange(count), classes=labels)


def dataset(labels: tuple[str, ...] = MOODS, size: tuple[int, int] | None = (64, 56)) -> Dataset:
    splits = [faces(count, seed, labels=len(labels), size=size) for seed, count in enumerate((30, 20, 40))]
    return Dataset.of("moods", splits[0], validation=splits[1], test=splits[2], official=False, labels=labels)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Files with the data's labels, with the same in another order, and with the seven."""
    exports = tmp_path / "exports"
    exports.mkdir()
    (exports / "mine.onnx").write_bytes(tiny_model(seed=1, name="mine", labels=MOODS))
    (exports / "turned.onnx").write_bytes(tiny_model(seed=1, name="turned", labels=MOODS[::-1]))
    (exports / "seven.onnx").write_bytes(tiny_model(seed=1, name="seven"))
    return tmp_path


def plan(workspace: Path, **changes: object) -> BenchPlan:
    defaults = {
        "engines": ("ort-cpu",), "latency": TINY, "dataset": dataset(), "probe": False, "workspace": workspace,
    }  # fmt: skip
    return BenchPlan(**{**defaults, **changes})


def test_other_labels_and_sizes_are_scored_on_unchanged_pictures(workspace: Path) -> None:
    data = dataset(size=None)
    result = run_bench(plan(workspace, dataset=data, latency=None))
    report = result.report
    assert report.labels == MOODS
    assert (report.data.heights, report.data.widths) == ((40, 80), (40, 70))
    mine = report.row("mine on ort-cpu")
    recognizer = Recognizer(workspace / "exports" / "mine.onnx")
    pictures = [np.repeat(data.test.pictures[i][..., None], 3, axis=2) for i in range(len(data.test))]
    predicted = recognizer.probabilities_of(pictures).argmax(axis=1)
    assert len(set(predicted.tolist())) > 1
    np.testing.assert_array_equal(report.answers(mine), predicted)
    np.testing.assert_array_equal(report.truth, data.test.labels)
    assert mine.quality.accuracy.value == pytest.approx((predicted == data.test.labels).mean())
    assert np.array(mine.quality.confusion).shape == (3, 3)
    assert len(mine.quality.recall) == 3


def test_labels_are_compared_by_name_not_by_place(workspace: Path) -> None:
    result = run_bench(plan(workspace, latency=None))
    mine, turned = (result.report.row(f"{name} on ort-cpu") for name in ("mine", "turned"))
    assert mine.quality.confusion == turned.quality.confusion
    assert mine.predictions == turned.predictions
    np.testing.assert_allclose(*(result.probabilities[row.label] for row in (mine, turned)), atol=1e-6)


@pytest.mark.parametrize("labels", [MOODS, EMOTIONS, ("happy", "sad"), tuple(f"c{i}" for i in range(30))])
def test_models_with_other_labels_are_left_out_with_both_lists(workspace: Path, labels: tuple[str, ...]) -> None:
    report = run_bench(
        plan(workspace, dataset=dataset(labels), latency=None, peers=("fer",)[: labels != EMOTIONS])
    ).report
    for row in report.rows:
        same = {"mine": MOODS, "turned": MOODS, "seven": EMOTIONS}.get(row.name, EMOTIONS)
        if set(same) == set(labels):
            assert row.status == OK
        else:
            assert row.status.startswith(LEFT_OUT)
            assert label_list(labels)[:30] in row.status
            assert "\n" not in row.status
            assert row.quality is None
            assert row.latency is None


@pytest.mark.parametrize("size", [None, (96, 96)])
def test_the_run_and_its_file_agree_on_pictures_of_any_size(tmp_path: Path, size: tuple[int, int] | None) -> None:
    workspace = make_trained_workspace(tmp_path, MOODS)
    engines = ("ort-cpu", "torch-cpu")
    result = run_bench(plan(workspace, engines=engines, dataset=dataset(size=size)))
    file, network = result.report.rows
    assert (file.status, network.status) == (OK, OK)
    assert file.agreement == 1
    np.testing.assert_allclose(*(result.probabilities[row.label] for row in (file, network)), atol=1e-4)
    assert (file.latency_own_size is None, network.latency_own_size is None) == (size is None, size is None)
    (workspace / "exports" / "small.onnx").unlink()
    (run,) = run_bench(plan(workspace, names=("small",), engines=("torch-cpu",), latency=None)).report.rows
    assert (run.kind, run.status) == ("run", OK)
    (other,) = run_bench(
        plan(workspace, names=("small",), engines=("torch-cpu",), latency=None, dataset=dataset(EMOTIONS))
    ).report.rows
    assert other.status.startswith(LEFT_OUT)


@pytest.mark.parametrize(("size", "data_size"), [((96, 64), (96, 64)), ((96, 64), (48, 48)), ((48, 48), (96, 64))])
def test_files_for_one_size_are_measured_on_it_and_left_out_elsewhere(
    tmp_path: Path, size: tuple[int, int], data_size: tuple[int, int]
) -> None:
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "fixed.onnx").write_bytes(tiny_model(name="fixed", labels=MOODS, size=size))
    (row,) = run_bench(plan(tmp_path, dataset=dataset(size=data_size), probe=True)).report.rows
    if size != data_size:
        taken, given = ("x".join(map(str, sides)) for sides in (size, data_size))
        assert row.status == f"{LEFT_OUT}the file takes faces of {taken} only, and the data has {given}"
        return
    assert row.status == OK
    assert row.latency is None
    assert row.latency_own_size.n == 8
    assert row.load.load_ms > 0
    assert "not timed on faces of 48x48: it takes 96x64 only" in row.note
    (untimed,) = run_bench(plan(tmp_path, dataset=None)).report.rows
    assert (untimed.status, untimed.latency) == (OK, None)


def test_without_data_every_model_is_timed_whatever_its_labels(workspace: Path) -> None:
    report = run_bench(plan(workspace, dataset=None)).report
    assert [row.status for row in report.rows] == [OK] * 3
    assert report.labels == EMOTIONS


@pytest.mark.parametrize(("size", "has_own"), [((48, 48), False), ((64, 56), True), (None, False)])
def test_times_are_on_48x48_and_on_the_datas_own_size(
    workspace: Path, size: tuple[int, int] | None, has_own: bool
) -> None:
    report = run_bench(plan(workspace, names=("mine",), dataset=dataset(size=size))).report
    (row,) = report.rows
    assert row.latency.n == 8
    assert (row.latency_own_size is not None) == has_own
    assert ("64x56" in markdown_report(report)) == has_own
    assert ("own size ms" in markdown_report(report)) == has_own
    again = read_again(report)
    assert again == report


def test_probabilities_csv_keeps_labels_apart_from_columns(workspace: Path, tmp_path: Path) -> None:
    result = run_bench(plan(workspace, names=("mine",), latency=None))
    (path,) = save_predictions(result, tmp_path)
    lines = list(csv.reader(io.StringIO(path.read_text("utf-8"))))
    assert lines[0] == ["row", "label", "predicted", "مسرور", "probability_row", 'sad, "blue"']
    assert all(len(line) == 6 and sum(map(float, line[3:])) == pytest.approx(1, abs=1e-4) for line in lines[1:])
    assert {line[2] for line in lines[1:]} <= set(MOODS)


@pytest.mark.parametrize("count", [2, 7, 10, 11, 100, 101, 1000])
def test_any_number_of_classes_as_digits(count: int) -> None:
    values = np.random.default_rng(count).integers(0, count, 50)
    values[0] = count - 1
    np.testing.assert_array_equal(classes(digits(values, of=count), of=count), values)


def report_with(count: int) -> Report:
    """The drawn report, its rows with other answers for so many labels."""
    random = np.random.default_rng(count)
    names = tuple(f"كلمة {i} <b>|" for i in range(count))
    base = drawn_report()
    truth = random.integers(0, count, base.data.rows)
    truth[: min(count, len(truth))] = np.arange(min(count, len(truth)))
    rows = []
    for row in base.rows:
        if row.quality is not None:
            probabilities = random.dirichlet(np.ones(count), len(truth))
            answers = probabilities.argmax(axis=1)
            row = replace(row, quality=measure_quality(probabilities, truth), predictions=digits(answers, of=count))
        rows.append(row)
    data = replace(base.data, labels=digits(truth, of=count), votes=False)
    return replace(base, labels=names, rows=tuple(rows), data=data)


def read_again(report: Report) -> Report:
    """The report as it is read from its file."""
    return from_json(json.loads(report_text(report)), source="x")


@pytest.mark.parametrize("count", [2, 3, 8, 12, 13, 30, 60])
def test_pages_show_any_number_of_labels(count: int) -> None:
    report = read_again(report_with(count))
    page, text = html_report(report), markdown_report(report)
    assert "<b>" not in page.split("</style>")[1].replace("<body>", "")
    cells = page.count('class="cell"')
    scored = len({row.model for row in report.rows if row.quality})
    assert cells == (scored * count**2 if count <= 40 else 0)
    recall = text.split("## Recall of each class, %")[1].split("##")[0]
    lines = [line for line in recall.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + (scored if count <= 12 else count)
    assert ("The most frequent confusions" in text) == (count > 40)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render_report(report))
    assert max(map(len, console.export_text().splitlines())) <= 120


def test_reports_with_other_labels_are_not_compared() -> None:
    three, seven = report_with(3), drawn_report()
    with pytest.raises(MeasurementError, match=r"other labels, angry, disgust.* the data has كلمة 0") as error:
        compare_reports(seven, three)
    assert "\n" not in str(error.value)
    assert compare_reports(three, three).changes
    assert compare_reports(replace(seven, data=None), three).changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a", "b"]}, "labels"),
        ({"labels": ["a", "a", "b"]}, "labels: one occurs twice"),
        ({"labels": ["a", "b", "c", "d"]}, "recall and confusion are not of 4 labels"),
        ({"labels": ["a"]}, "labels: 1 entries, 2 to 1000 are allowed"),
        ({"labels": "abc"}, "labels: 'abc' is not array"),
    ],
)
def test_a_report_whose_labels_do_not_fit_is_damaged(change: dict[str, object], message: str) -> None:
    table = json.loads(report_text(report_with(3))) | change
    with pytest.raises(MeasurementError, match=message):
        from_json(table, source="x")


def test_a_report_that_states_no_labels_has_the_seven() -> None:
    table = json.loads(report_text(drawn_report()))
    assert "labels" not in table
    assert "heights" not in table["data"]
    assert from_json(table, source="x").labels == EMOTIONS


def test_every_column_is_in_view_on_a_page_of_1200_pixels(tmp_path: Path) -> None:
    """Tables may scroll on narrower pages; then the first column stays in view."""
    published = load_report(Path(__file__).parents[2] / "benchmarks" / "report.json")
    own_size = replace(published, rows=tuple(replace(row, latency_own_size=row.latency) for row in published.rows))
    with launch() as browser:
        for number, report in enumerate((published, own_size, report_with(12), report_with(30))):
            path = tmp_path / f"{number}.html"
            path.write_text(html_report(report), encoding="utf-8")
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            page.goto(path.as_uri())
            hidden = "(all) => all.filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.innerText.slice(0, 80))"
            assert page.locator(".wide").evaluate_all(hidden) == []
            page.set_viewport_size({"width": 500, "height": 900})
            page.locator(".wide").first.evaluate("(e) => { e.scrollLeft = 300; }")
            assert page.locator("#rows tbody td").first.bounding_box()["x"] < 40
            page.close()
