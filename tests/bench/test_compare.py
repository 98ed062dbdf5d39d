"""Comparing two reports: what is a regression, and what is chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fer_deploy.bench.compare import Limits, compare_reports, comparison_lines, ratio_interval
from fer_deploy.bench.latency import Block, Latency, summarise
from fer_deploy.bench.quality import measure_quality
from fer_deploy.bench.report import Data, Report, Row, digits

COUNT = 2000
LABELS = np.random.default_rng(0).integers(0, 7, COUNT)


def latency(median_ms: float, *, seed: int, noise: float = 0.02) -> Latency:
    random = np.random.default_rng(seed)
    blocks = []
    for _ in range(20):
        samples = tuple(int(value) for value in median_ms * 1e6 * random.normal(1, noise, 10))
        blocks.append(Block(samples, sum(samples), None))
    return summarise(blocks, batch=1, threads=1)


def row(wrong: int, median_ms: float = 1.0, *, name: str = "B", seed: int = 1) -> Row:
    """A row that is wrong on the first `wrong` faces."""
    predicted = LABELS.copy()
    predicted[:wrong] = (predicted[:wrong] + 1) % 7
    quality = measure_quality(np.eye(7)[predicted], LABELS)
    return Row(
        name,
        "file",
        "fp32",
        "ort-cpu",
        quality=quality,
        predictions=digits(predicted),
        latency=latency(median_ms, seed=seed),
    )


def report(*rows: Row, **changes) -> Report:
    data = Data("FER2013", "0" * 64, "PrivateTest", COUNT, COUNT, COUNT, False, digits(LABELS))
    machine = {"processor": "p", "cores": 2, "accelerators": []}
    made = Report("2026-01-01T00:00:00+00:00", "0.1.0", machine, {"threads": 1}, data, rows)
    return replace(made, **changes)


def verdicts(old: Report, new: Report, **limits: float) -> dict[str, str]:
    comparison = compare_reports(old, new, limits=Limits(**limits))
    return {change.figure: change.verdict for change in comparison.changes}


@pytest.mark.parametrize(
    ("old_wrong", "new_wrong", "allowed", "expected"),
    [
        (600, 600, 0.005, "no change"),
        (600, 680, 0.005, "regression"),  # four points, p tiny
        (600, 603, 0.0, "no change"),  # three faces: chance
        (600, 609, 0.005, "no change"),  # certain (nine faces, none back), but within the limit
        (600, 609, 0.004, "regression"),
        (600, 500, 0.005, "improvement"),
    ],
)
def test_accuracy(old_wrong: int, new_wrong: int, allowed: float, expected: str) -> None:
    found = verdicts(report(row(old_wrong)), report(row(new_wrong)), accuracy_loss=allowed)
    assert found["accuracy"] == expected


@pytest.mark.parametrize(
    ("old_ms", "new_ms", "expected"),
    [(1.0, 1.0, "no change"), (1.0, 1.05, "no change"), (1.0, 1.3, "regression"), (1.3, 1.0, "improvement")],
)
def test_latency(old_ms: float, new_ms: float, expected: str) -> None:
    assert verdicts(report(row(0, old_ms)), report(row(0, new_ms, seed=2)))["p50 ms"] == expected


def test_a_slowdown_within_the_noise_is_no_regression() -> None:
    noisy = [replace(row(0), latency=latency(ms, seed=seed, noise=1.2)) for seed, ms in ((1, 1.0), (2, 1.12))]
    ratio, low, high = ratio_interval(noisy[0].latency, noisy[1].latency)
    assert low < 1 < high
    assert low <= ratio <= high
    assert verdicts(report(noisy[0]), report(noisy[1]))["p50 ms"] == "no change"


def test_the_interval_holds_the_true_ratio() -> None:
    held = 0
    for seed in range(20):
        _, low, high = ratio_interval(latency(1.0, seed=seed), latency(1.5, seed=seed + 100))
        held += low <= 1.5 <= high
    assert held >= 16


def test_other_faces_and_other_machines_are_not_compared() -> None:
    old = report(row(600))
    assert old.data is not None
    other = replace(old.data, sha256="1" * 64)
    comparison = compare_reports(
        old, report(row(900, 5.0), data=other, machine={"processor": "q", "cores": 2, "accelerators": []})
    )
    assert comparison.changes == ()
    assert any("scored different faces" in note for note in comparison.notes)
    assert any("different machines" in note for note in comparison.notes)
    assert not verdicts(old, report(row(600, 5.0), settings={"threads": 2})).get("p50 ms")


def test_gpu_times_are_compared_between_equal_gpus_alone() -> None:
    def on(gpu: str, milliseconds: float) -> Report:
        rows = replace(row(600, milliseconds), engine="torch-cuda"), row(600, milliseconds, name="E")
        made = report(*rows)
        return replace(made, machine={**made.machine, "accelerators": [gpu]})

    other = compare_reports(on("H100", 1.0), on("T4", 3.0))
    assert [change.label for change in other.changes if change.figure == "p50 ms"] == ["E on ort-cpu"]
    assert other.notes == ("times on GPUs are not compared: the reports come from different GPUs",)
    same = compare_reports(on("T4", 1.0), on("T4", 3.0))
    assert {change.label for change in same.regressions} == {"B on torch-cuda", "E on ort-cpu"}
    assert not same.notes


def test_answers_are_paired_only_where_the_faces_are_in_one_order() -> None:
    """Labels in the order of folders are the same whatever the order within them."""

    def of(faces: str) -> Report:
        made = report(row(600))
        assert made.data is not None
        return replace(made, data=replace(made.data, faces_sha256=faces))

    assert [change.figure for change in compare_reports(of("a" * 64), of("a" * 64)).changes] == ["accuracy", "p50 ms"]
    assert [change.figure for change in compare_reports(of(""), of("a" * 64)).changes] == ["accuracy", "p50 ms"]
    mixed = compare_reports(of("b" * 64), of("a" * 64))
    assert [change.figure for change in mixed.changes] == ["p50 ms"]
    assert "scored different faces" in mixed.notes[0]


def test_a_row_that_lost_its_figures_is_a_regression_and_a_missing_one_a_note() -> None:
    old = report(row(600), row(600, name="E"))
    comparison = compare_reports(old, report(replace(row(600), status="no file", quality=None, latency=None)))
    (lost,) = comparison.regressions
    assert (lost.label, lost.verdict, lost.evidence) == ("B on ort-cpu", "lost", "no file")
    assert comparison.notes == ("E on ort-cpu is in the old report alone",)
    gone = compare_reports(old, report(row(600)), engines=["ort-cpu"]).regressions
    assert [(change.label, change.verdict) for change in gone] == [("E on ort-cpu", "lost")]


def test_the_worst_changes_come_first() -> None:
    lines = comparison_lines(compare_reports(report(row(600)), report(row(700, 1.0))))
    assert lines[0].startswith("regression: B on ort-cpu, accuracy: 70.00 % -> 65.00 %")
    assert "100 faces lost, 0 gained" in lines[0]
