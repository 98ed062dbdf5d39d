"""The report's plots as SVG: accuracy against cost and time, confusion, calibration, distributions of times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_deploy.bench.pages.columns import milliseconds
from fer_deploy.bench.pages.drawing import (
    Label,
    Scale,
    hover,
    line,
    mark,
    number,
    path,
    place_labels,
    shortened,
    spread,
    svg,
    text,
    text_width,
    turned_text,
    upward_text,
)
from fer_deploy.bench.quality import CalibrationBin
from fer_deploy.bench.report import PEER, Report, Row, pareto_front
from fer_deploy.emotions import EMOTIONS
from fer_deploy.ensemble import MIRROR
from fer_deploy.study import STUDY_ROWS


@dataclass(frozen=True)
class Point:
    """One model of a scatter plot; `low` and `high` are the ends of its interval, None for recorded figures."""

    name: str
    key: str
    x: float
    accuracy: float
    low: float | None
    high: float | None
    series: int
    shape: str
    tip: str


SERIES: tuple[tuple[str, str], ...] = (
    ("ONNX Runtime", "circle"),
    ("PyTorch", "circle"),
    ("OpenVINO", "circle"),
    ("other packages", "square"),
    ("others' ONNX files", "square"),
    ("the study, recorded", "diamond"),
)
"""Name and shape of each series; its index is the number of its colour in drawing.STYLE."""

STUDY = len(SERIES) - 1


def series_of(row: Row) -> int:
    """The index of a row's series."""
    if row.engine == PEER:
        return 3
    if row.kind == "foreign":
        return 4
    return 1 if row.engine.startswith("torch-") else 2 if row.engine.startswith("openvino") else 0


def cost_plot(report: Report, *, standalone: bool = False) -> str:
    """Accuracy against GFLOPs, one point per model, with the study's recorded figures; empty without points."""
    points = []
    seen = set()
    for row in report.rows:
        if row.quality is None or row.gflops is None or row.model in seen:
            continue
        seen.add(row.model)
        points.append(_point(row, row.model, row.gflops, f"{row.gflops:.5f} GFLOPs"))
    if not points:
        return ""
    front = pareto_front((point.key, point.x, point.accuracy) for point in points)
    if report.data is not None and report.data.name == "FER2013":
        points += [
            Point(
                row.name, f"study {row.name}", row.gflops, row.accuracy, None, None, STUDY, SERIES[STUDY][1],
                f"the study's {row.name}: {row.accuracy:.2%} at {row.gflops:.5f} GFLOPs, recorded, not measured here",
            )
            for row in STUDY_ROWS
        ]  # fmt: skip
    return _scatter(
        points,
        front,
        title="Accuracy against GFLOPs",
        across="GFLOPs of one face (multiply-adds, fvcore)",
        standalone=standalone,
    )


def latency_plot(report: Report, *, device: str = "cpu", standalone: bool = False) -> str:
    """Accuracy against median single-face time on one kind of device; empty without points."""
    points = [
        _point(row, row.model, row.face_ms, f"median {milliseconds(row.face_ms)} ms on {row.engine}")
        for row in report.rows
        if row.device == device and row.quality is not None and row.face_ms is not None
    ]
    if not points:
        return ""
    front = pareto_front((point.key, point.x, point.accuracy) for point in points)
    threads = report.settings["threads"]
    across = f"median time of one face, ms ({device}, {threads} thread{'s' if threads != 1 else ''})"
    return _scatter(points, front, title="Accuracy against time", across=across, standalone=standalone)


def _point(row: Row, name: str, x: float, where: str) -> Point:
    assert row.quality is not None
    accuracy = row.quality.accuracy
    series = series_of(row)
    tip = f"{row.label}: {accuracy.value:.2%} (95 %: {accuracy.low:.2%} to {accuracy.high:.2%}), {where}"
    return Point(name, row.label, x, accuracy.value, accuracy.low, accuracy.high, series, SERIES[series][1], tip)


def _scatter(points: Sequence[Point], front: set[str], *, title: str, across: str, standalone: bool) -> str:
    width, height, left, right, top, bottom = 860, 494, 62, 840, 34, 424
    low, high = spread([point.x for point in points], logarithmic=True)
    horizontal = Scale(low, high, left, right, logarithmic=True)
    values = [value for point in points for value in (point.low, point.accuracy, point.high) if value is not None]
    low, high = spread([100 * value for value in values], logarithmic=False)
    vertical = Scale(max(0.0, low), min(100.0, high), bottom, top)
    parts = [text(left, 18, title, style="title")]
    for tick in horizontal.ticks():
        parts.append(line(horizontal.at(tick), top, horizontal.at(tick), bottom, "grid"))
        parts.append(text(horizontal.at(tick), bottom + 17, number(tick), anchor="middle"))
    for tick in vertical.ticks():
        parts.append(line(left, vertical.at(tick), right, vertical.at(tick), "grid"))
        parts.append(text(left - 8, vertical.at(tick) + 4, number(tick), anchor="end"))
    parts.append(path([(left, top), (left, bottom), (right, bottom)], "axis"))
    parts.append(text((left + right) / 2, bottom + 36, across, anchor="middle"))
    parts.append(turned_text(17, (top + bottom) / 2, "accuracy, %"))
    parts.append(_front_line(points, front, horizontal, vertical, right))
    points = sorted(points, key=lambda point: (point.key not in front, point.x))
    named: set[str] = set()
    labels = []
    for point in points:
        once = point.name if point.name not in named or point.series == STUDY else ""
        named.add(point.name)
        labels.append(Label(horizontal.at(point.x), vertical.at(point.accuracy * 100), _without_repeats(once)))
    places = place_labels(labels, left=left, right=right, top=top, bottom=bottom)
    for point, (x, y, anchor, name) in zip(points, places, strict=True):
        shapes = []
        across_at, up_at = horizontal.at(point.x), vertical.at(point.accuracy * 100)
        if point.low is not None and point.high is not None:
            ends = vertical.at(point.low * 100), vertical.at(point.high * 100)
            shapes.append(line(across_at, ends[0], across_at, ends[1], f"bar c{point.series}"))
        hollow = " hollow" if point.series == STUDY or point.key not in front else ""
        shapes.append(mark(across_at, up_at, f"c{point.series}{hollow}", shape=point.shape))
        if name:
            shapes.append(text(x, y, name, anchor=anchor, style="small"))
        parts.append(hover(shapes, point.tip, style="point", key=point.key))
    parts += _legend(sorted({point.series for point in points}), left, height - 8)
    return svg(width, height, parts, title=title, standalone=standalone)


def _without_repeats(name: str) -> str:
    """A fused model's name with a mirrored view abbreviated: `B+B~mirror` becomes `B+~mirror`."""
    members = name.split("+")
    return "+".join(
        MIRROR + member.partition(MIRROR)[2] if MIRROR in member and member.partition(MIRROR)[0] in members else member
        for member in members
    )


def _front_line(points: Sequence[Point], front: set[str], horizontal: Scale, vertical: Scale, right: float) -> str:
    """Steps through the front: the best accuracy at each cost."""
    best = sorted((point for point in points if point.key in front), key=lambda point: (point.x, point.accuracy))
    steps: list[tuple[float, float]] = []
    for point in best:
        x, y = horizontal.at(point.x), vertical.at(point.accuracy * 100)
        if steps:
            steps.append((x, steps[-1][1]))
        steps.append((x, y))
    steps.append((right, steps[-1][1]))
    return path(steps, "front")


def _legend(series: Sequence[int], left: float, y: float) -> list[str]:
    parts = []
    x = left + 6
    for index in series:
        name, shape = SERIES[index]
        parts.append(mark(x, y - 4, f"c{index}" + (" hollow" if index == STUDY else ""), shape=shape))
        parts.append(text(x + 10, y, name, style="small"))
        x += 10 + 5.6 * len(name) + 22
    parts.append(text(x, y, "filled: on the Pareto front (dashed)", style="small"))
    return parts


_LEAST_WIDTH = 308
"""Pixels that a title needs beside the names of the labels."""


def confusion_plot(row: Row, labels: Sequence[str] = EMOTIONS) -> str:
    """The confusion matrix: each label's faces by predicted class, in per cent of the label."""
    assert row.quality is not None
    names = [shortened(label) for label in labels]
    widest = max(map(text_width, names))
    cell = 44 if len(labels) <= 10 else 26
    # names that do not fit above their columns read upwards
    upright = widest > cell + 8 or len(labels) > 10
    left, top = max(66, widest + 14), 40 if not upright else 34 + widest
    side = cell * len(labels)
    parts = [
        text(left, 16, row.label, style="title"),
    ]
    for index, name in enumerate(names):
        middle = left + (index + 0.5) * cell
        if upright:
            parts.append(upward_text(middle + 4, top - 6, name, style="small"))
        else:
            parts.append(text(middle, top - 4, name, anchor="middle", style="small"))
        parts.append(text(left - 6, top + (index + 0.5) * cell + 4, name, anchor="end", style="small"))
    for at, counts in enumerate(row.quality.confusion):
        total = sum(counts)
        for column, count in enumerate(counts):
            share = count / total if total else 0.0
            x, y = left + column * cell, top + at * cell
            tip = f"{count} of {total} {labels[at]} faces were classified as {labels[column]}"
            place = f'x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}"'
            style = "small light" if share > 0.45 else "small"
            shapes = [
                f'<rect class="cell" {place} fill-opacity="{0.04 + 0.96 * share:.3f}"/>',
                text(x + cell / 2, y + cell / 2 + 4, f"{share * 100:.0f}", anchor="middle", style=style),
            ]
            parts.append(hover(shapes, tip))
    width = left + max(side, _LEAST_WIDTH) + 8
    return svg(width, top + side + 8, parts, title=f"Confusion matrix of {row.label}")


def calibration_plot(row: Row) -> str:
    """The reliability diagram: accuracy by confidence; a calibrated classifier lies on the diagonal."""
    assert row.quality is not None
    left, top, side = 46, 30, 240
    bottom = top + side
    horizontal, vertical = Scale(0, 1, left, left + side), Scale(0, 1, bottom, top)
    parts = [
        text(6, 16, row.label, style="title"),
        text(left + 8, top + 16, f"ECE {row.quality.calibration_error:.3f}"),
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(line(left, vertical.at(tick), left + side, vertical.at(tick), "grid"))
        parts.append(text(left - 6, vertical.at(tick) + 4, number(tick), anchor="end", style="small"))
        parts.append(text(horizontal.at(tick), bottom + 15, number(tick), anchor="middle", style="small"))
    most = max(group.count for group in row.quality.reliability)
    parts += [_calibration_bar(group, most, horizontal, vertical) for group in row.quality.reliability if group.count]
    parts.append(line(left, bottom, left + side, top, "front"))
    parts.append(path([(left, top), (left, bottom), (left + side, bottom)], "axis"))
    parts.append(
        text(left + side / 2, bottom + 32, "confidence; width: share of the faces", anchor="middle", style="small")
    )
    parts.append(turned_text(14, (top + bottom) / 2, "accuracy"))
    return svg(left + side + 10, bottom + 40, parts, title=f"Calibration of {row.label}")


def _calibration_bar(group: CalibrationBin, most: int, horizontal: Scale, vertical: Scale) -> str:
    assert group.accuracy is not None
    assert group.confidence is not None
    full = horizontal.at(group.high) - horizontal.at(group.low) - 1
    width = max(1.5, full * math.sqrt(group.count / most))
    x = (horizontal.at(group.low) + horizontal.at(group.high) - width) / 2
    y = vertical.at(group.accuracy)
    shape = (
        f'<rect class="bar c0" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{vertical.at(0) - y:.1f}"/>'
        + mark(horizontal.at(group.confidence), y, "c1", size=2.6)
    )
    tip = f"{group.count} answers of mean confidence {group.confidence:.1%}: {group.accuracy:.1%} correct"
    return hover([shape], tip)


def distribution_plot(rows: Sequence[Row]) -> str:
    """Every sample of every row's single calls as a histogram on a common logarithmic axis; empty without times."""
    timed = [row for row in rows if row.latency is not None]
    if not timed:
        return ""
    left, right, top, step = 210, 840, 30, 40
    samples = {row.label: np.asarray(row.latency.samples_ns) / 1e6 for row in timed if row.latency}
    low, high = min(values.min() for values in samples.values()), max(values.max() for values in samples.values())
    horizontal = Scale(float(low) / 1.1, float(high) * 1.1, left, right, logarithmic=True)
    bottom = top + step * len(timed)
    parts = [text(left, 16, "Every single call, ms; ticks: 50th, 90th, 99th percentile", style="title")]
    for tick in horizontal.ticks():
        parts.append(line(horizontal.at(tick), top, horizontal.at(tick), bottom, "grid"))
        parts.append(text(horizontal.at(tick), bottom + 16, number(tick), anchor="middle", style="small"))
    edges = np.geomspace(horizontal.low, horizontal.high, 141)
    for index, row in enumerate(sorted(timed, key=lambda row: row.latency.p50 if row.latency else 0.0)):
        assert row.latency is not None
        base = top + step * (index + 1) - 4
        counts, _ = np.histogram(samples[row.label], bins=edges)
        heights = np.sqrt(counts / counts.max()) * (step - 10)  # the root makes single slow calls visible
        outline: list[tuple[float, float]] = [(left, base)]
        for place, rise in enumerate(heights):
            outline += [(horizontal.at(edges[place]), base - rise), (horizontal.at(edges[place + 1]), base - rise)]
        outline.append((right, base))
        latency = row.latency
        figures = [latency.p50, latency.p90, *([latency.p99] if latency.p99 else [])]
        shapes = [
            text(left - 8, base - 8, row.label, anchor="end", style="small"),
            path(outline, f"bar c{series_of(row)}", closed=True),
            *(line(horizontal.at(value), base - step + 12, horizontal.at(value), base, "tick") for value in figures),
        ]
        slowest = max(latency.samples_ns) / 1e6
        tip = (
            f"{row.label}: {latency.n} calls, median {milliseconds(latency.p50)} ms, slowest {milliseconds(slowest)} ms"
        )
        parts.append(hover(shapes, tip, style="point", key=row.label))
    return svg(860, bottom + 26, parts, title="Distribution of single-call times")
