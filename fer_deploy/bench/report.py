"""The report as values, and as JSON with a versioned schema.

`report.schema.json` beside this file is the schema; a test checks every report against it. A figure that was not
measured in the run is null, or its name begins with `recorded_`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.bench.cost import ModelCost
from fer_deploy.bench.latency import BatchRate, Latency, Parts, Throughput
from fer_deploy.bench.quality import Accuracy, CalibrationBin, Quality, UnanimityBand
from fer_deploy.bench.schema import check_schema
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import MeasurementError, one_line
from fer_deploy.files import parse_json, read_json, shown, write_text
from fer_deploy.model.names import in_precision

FORMAT = "ferdeploy-bench"
VERSION = 1
"""The version of the schema: raised when a reader of the previous version would misread a report."""

OK = "ok"
"""The status of a row with figures."""

SIDE = 48
"""Height and width, in pixels, of the faces that latency is measured on: FER2013's."""

LEFT_OUT = "left out: "
"""How the status of a row begins that was not measured on purpose: its labels are not the data's."""

MANY_LABELS = 12
"""More labels than these are not listed in one line."""

PEER = "peer"
"""The engine of a row that another package computed in its own process."""


@dataclass(frozen=True)
class Load:
    """Opening the model in a fresh process.

    Attributes:
        load_ms: from the file to a ready session, after the engine's library was imported.
        first_ms: time of the first answer.
        peak_memory_bytes: the most memory that the process used, including libraries.
    """

    load_ms: float
    first_ms: float
    peak_memory_bytes: int | None


@dataclass(frozen=True)
class Row:
    """One model on one engine.

    Attributes:
        name, kind, precision: the model's.
        engine: one of engines.ENGINES, or `peer`.
        provider: the provider or device that computed; None where nothing was computed.
        status: "ok", or the reason why the row has no figures.
        note: how it was computed, where that needs explanation.
        quality: on the split of the report's data; None without data.
        agreement: share of faces with the same class as in the row with the label `agreement_with`.
        cost: counted, not timed.
        latency, throughput, load: None where not measured.
        latency_own_size: single calls on faces of the data's own size; None where that is 48x48 or not uniform.
        recorded_accuracy: the accuracy in the file's metadata; recorded_accuracy_split names the split.
        predictions: each face's class as `digits` writes it, in the order of the data's rows; None without data.
    """

    name: str
    kind: str
    precision: str
    engine: str
    provider: str | None = None
    status: str = OK
    note: str | None = None
    quality: Quality | None = None
    agreement: float | None = None
    agreement_with: str | None = None
    cost: ModelCost = field(default_factory=ModelCost)
    latency: Latency | None = None
    latency_own_size: Latency | None = None
    throughput: Throughput | None = None
    load: Load | None = None
    recorded_accuracy: float | None = None
    recorded_accuracy_split: str | None = None
    predictions: str | None = field(default=None, repr=False)

    @property
    def model(self) -> str:
        """Name and precision, as files are named: `B+E.int8`."""
        return in_precision(self.name, self.precision)

    @property
    def label(self) -> str:
        """Model and engine, which identify the row in its report: `B+E.int8 on ort-cpu`."""
        return f"{self.model} on {self.engine}"

    @property
    def gflops(self) -> float | None:
        """The counted GFLOPs, else the recorded ones."""
        return self.cost.gflops if self.cost.gflops is not None else self.cost.recorded_gflops

    @property
    def efficiency(self) -> float | None:
        """Accuracy over GFLOPs, both measured in this run."""
        if self.quality is None or not self.cost.gflops:
            return None
        return self.quality.accuracy.value / self.cost.gflops

    @property
    def face_ms(self) -> float | None:
        """Median time of one face, ms; None where it was not timed, or the file takes several faces per call."""
        return self.latency.p50 if self.latency is not None and self.latency.batch == 1 else None

    @property
    def device(self) -> str:
        """The kind of device: cpu, cuda, mps, or a provider's name. Times are compared within one kind."""
        return "cpu" if self.engine == PEER else self.engine.split("-")[1]


@dataclass(frozen=True)
class Pair:
    """McNemar's exact test between two rows' answers."""

    first: str
    second: str
    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class Data:
    """The scored faces: `rows` of the split's `rows_in_split` (fewer in a quick run).

    `labels` has each face's class as `digits` writes it, in the order of the rows' predictions: from both, every figure
    of quality except calibration can be computed again, and two reports can be compared face by face. `faces_sha256` is
    the hash of the pictures in that order; empty in older reports. `heights` and `widths` are the smallest and the
    largest of the scored pictures, in pixels.
    """

    name: str
    sha256: str
    split: str
    rows: int
    rows_in_split: int
    rows_deduplicated: int
    votes: bool
    labels: str = field(repr=False)
    faces_sha256: str = ""
    heights: tuple[int, int] = (SIDE, SIDE)
    widths: tuple[int, int] = (SIDE, SIDE)

    @property
    def size(self) -> str:
        """The pictures' size in pixels, height x width: `48x48`, or `96 to 210 x 96 to 240` where it varies."""
        sides = [f"{low}" if low == high else f"{low} to {high}" for low, high in (self.heights, self.widths)]
        return "x".join(sides) if all(side.isdigit() for side in sides) else " x ".join(sides)


@dataclass(frozen=True)
class Report:
    """One run of the benchmark.

    Attributes:
        created: UTC, ISO 8601, to the second.
        ferdeploy_version: version of this package.
        machine: see machine.describe_machine.
        settings: how it was measured, as plain values.
        data: None when nothing was scored.
        rows: one per model and engine.
        labels: the scored classes by name, in the order of recall, confusion and predictions.
        pairs: McNemar's test between the models' answers, each on the first engine that has them.
        warnings: what a reader must know before quoting a figure.
    """

    created: str
    ferdeploy_version: str
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    data: Data | None
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...] = ()
    warnings: tuple[str, ...] = ()
    labels: tuple[str, ...] = EMOTIONS

    def row(self, label: str) -> Row | None:
        """The row with a label, or None."""
        return next((row for row in self.rows if row.label == label), None)

    def answers(self, row: Row) -> NDArray[np.int64] | None:
        """A row's predicted class of each face, int64 (n,); None without data."""
        return None if row.predictions is None else classes(row.predictions, of=len(self.labels))

    @property
    def truth(self) -> NDArray[np.int64] | None:
        """The class of each scored face, int64 (n,); None without data."""
        return None if self.data is None else classes(self.data.labels, of=len(self.labels))


def digits(values: NDArray[np.integer], *, of: int = len(EMOTIONS)) -> str:
    """Classes as text, each with as many digits as the last of the `of` classes needs.

    >>> digits(np.array([0, 6, 3])), digits(np.array([0, 11, 3]), of=12)
    ('063', '001103')
    """
    width = _width(of)
    return "".join(f"{value:0{width}d}" for value in values.tolist())


def classes(text: str, *, of: int = len(EMOTIONS)) -> NDArray[np.int64]:
    """The classes in a text that `digits` wrote, int64 (n,)."""
    figures = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - ord("0")
    width = _width(of)
    return figures.reshape(-1, width) @ 10 ** np.arange(width - 1, -1, -1)


def _width(count: int) -> int:
    """Digits of the number of the last of `count` classes."""
    return len(str(count - 1))


def label_list(labels: Sequence[str]) -> str:
    """Labels in words for an error or a page: all of them or, where they are many, the first ones and their number."""
    few = labels if len(labels) <= MANY_LABELS else [*labels[:MANY_LABELS], f"… ({len(labels)} in all)"]
    return one_line(", ".join(few), limit=300)


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain values, in the schema's shape. Labels and sizes of FER2013 are not written: older readers
    know no others."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "created": report.created,
        "ferdeploy_version": report.ferdeploy_version,
        "machine": dict(report.machine),
        "settings": dict(report.settings),
        **({} if report.labels == EMOTIONS else {"labels": list(report.labels)}),
        "data": _data_to_json(report.data) if report.data else None,
        "rows": [_row_to_json(row) for row in report.rows],
        "pairs": [dataclasses.asdict(pair) for pair in report.pairs],
        "warnings": list(report.warnings),
    }


def from_json(table: Any, *, source: str) -> Report:
    """A report from plain values.

    Raises:
        MeasurementError: not a report, another version, or a damaged one; `source` names it.
    """
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise MeasurementError(f"{source}: not a report of `ferdeploy bench`")
    if table.get("version") != VERSION:
        raise MeasurementError(
            f"{source}: report version {table.get('version')!r}, this ferdeploy reads {VERSION}: measure again"
        )
    try:
        check_schema(table, _schema())
        report = Report(
            created=table["created"],
            ferdeploy_version=table["ferdeploy_version"],
            machine=table["machine"],
            settings=table["settings"],
            data=_data_from_json(table["data"]) if table["data"] else None,
            rows=tuple(_row_from_json(row) for row in table["rows"]),
            pairs=tuple(Pair(**pair) for pair in table["pairs"]),
            warnings=tuple(table["warnings"]),
            labels=tuple(table.get("labels", EMOTIONS)),
        )
        _check_consistency(report)
    except ValueError as error:
        raise MeasurementError(f"{source}: damaged report: {one_line(error)}: measure again") from error
    return report


def report_text(report: Report) -> str:
    """The report as JSON, with each list of numbers on one line."""
    text = json.dumps(to_json(report), indent=2, ensure_ascii=False, allow_nan=False)
    return _NUMBERS.sub(lambda match: re.sub(r"\s+", "", match.group()).replace(",", ", "), text) + "\n"


def save_report(report: Report, path: Path) -> None:
    """Write the report as JSON."""
    write_text(path, report_text(report))


def load_report(path: Path) -> Report:
    """Read a report; MeasurementError where it is missing or damaged."""
    table = read_json(path, what="report", error=MeasurementError)
    return from_json(table, source=shown(path))


def pareto_front(points: Iterable[tuple[str, float, float]]) -> set[str]:
    """The labels of the points (label, cost, accuracy) that no other point beats.

    A point beats another if it costs no more, is no less accurate, and is better in one of the two.

    >>> sorted(pareto_front([("a", 1, 0.6), ("b", 2, 0.7), ("c", 3, 0.65), ("d", 2, 0.7)]))
    ['a', 'b', 'd']
    """
    points = list(points)
    return {
        label
        for label, cost, accuracy in points
        if not any(
            other_cost <= cost and other_accuracy >= accuracy and (other_cost, other_accuracy) != (cost, accuracy)
            for _, other_cost, other_accuracy in points
        )
    }


def cost_front(report: Report) -> set[str]:
    """Labels of the rows on the Pareto front of accuracy against GFLOPs."""
    return pareto_front(
        (row.label, row.gflops, row.quality.accuracy.value)
        for row in report.rows
        if row.quality is not None and row.gflops is not None
    )


def latency_front(report: Report) -> set[str]:
    """Labels of the rows on the Pareto front of accuracy against one face's median time, within each kind of device."""
    front: set[str] = set()
    for device in {row.device for row in report.rows}:
        front |= pareto_front(
            (row.label, row.face_ms, row.quality.accuracy.value)
            for row in report.rows
            if row.device == device and row.quality is not None and row.face_ms is not None
        )
    return front


def _schema() -> dict[str, Any]:
    name = "report.schema.json"
    schema: dict[str, Any] = parse_json((resources.files(__package__) / name).read_bytes(), source=name, what="schema")
    return schema


def _check_consistency(report: Report) -> None:
    """Check what a schema cannot: that parts of a report agree with each other; ValueError where they do not."""
    if len(set(report.labels)) != len(report.labels):
        raise ValueError("labels: one occurs twice")
    if report.data:
        _check_classes(report.data.labels, report, "data.labels", "labels")
    names: set[str] = set()
    for row in report.rows:
        if row.label in names:
            raise ValueError(f"rows: {row.label} occurs twice")
        names.add(row.label)
        if row.predictions is not None:
            _check_classes(row.predictions, report, f"rows: {row.label}", "predictions")
        if row.quality:
            _check_quality(row.quality, len(report.labels), row.label)
        for latency in (row.latency, row.latency_own_size):
            if latency and (len(latency.samples_ns) != latency.n or latency.n % latency.rounds):
                raise ValueError(f"rows: {row.label}: its samples are not n in equal rounds")


def _check_classes(text: str, report: Report, where: str, what: str) -> None:
    """Check that a text of digits has a class of the report for each of its faces."""
    faces = report.data.rows if report.data else None
    count, remainder = divmod(len(text), _width(len(report.labels)))
    if remainder or count != faces:
        raise ValueError(f"{where}: {len(text)} digits of {what} for {faces} faces")
    if (largest := int(classes(text, of=len(report.labels)).max())) >= len(report.labels):
        raise ValueError(f"{where}: class {largest}, and there are {len(report.labels)} labels")


def _check_quality(quality: Quality, count: int, label: str) -> None:
    """Check that a row has a recall and a line of the confusion matrix for each of `count` labels."""
    lengths = {len(quality.recall), len(quality.confusion), *map(len, quality.confusion)}
    if lengths != {count}:
        raise ValueError(f"rows: {label}: recall and confusion are not of {count} labels")


_NUMBERS = re.compile(r"\[\s*(?:-?[\d.eE+-]+|null)(?:,\s*(?:-?[\d.eE+-]+|null))*\s*\]")


def _data_to_json(data: Data) -> dict[str, Any]:
    table = dataclasses.asdict(data)
    if data.heights == data.widths == (SIDE, SIDE):
        del table["heights"], table["widths"]
    return table


def _data_from_json(table: Mapping[str, Any]) -> Data:
    sides: dict[str, Any] = {key: tuple(table[key]) for key in ("heights", "widths") if key in table}
    return Data(**{**table, **sides})


def _row_to_json(row: Row) -> dict[str, Any]:
    quality, cost, latency, own_size = row.quality, row.cost, row.latency, row.latency_own_size
    accuracy = quality.accuracy if quality else None
    unseen = quality.deduplicated if quality else None
    return {
        "name": row.name,
        "kind": row.kind,
        "engine": row.engine,
        "provider": row.provider,
        "precision": row.precision,
        "status": row.status,
        "note": row.note,
        "accuracy": accuracy and accuracy.value,
        "accuracy_ci95": accuracy and [accuracy.low, accuracy.high],
        "accuracy_rows": accuracy and accuracy.count,
        "accuracy_deduplicated": unseen and unseen.value,
        "accuracy_deduplicated_ci95": unseen and [unseen.low, unseen.high],
        "accuracy_deduplicated_rows": unseen and unseen.count,
        "macro_f1": quality and quality.macro_f1,
        "ece": quality and quality.calibration_error,
        "recall": quality and list(quality.recall),
        "confusion": quality and [list(line) for line in quality.confusion],
        "reliability": quality and [dataclasses.asdict(group) for group in quality.reliability],
        "unanimity": quality
        and (None if quality.unanimity is None else [dataclasses.asdict(band) for band in quality.unanimity]),
        "top1_agreement": row.agreement,
        "top1_agreement_with": row.agreement_with,
        "gflops": cost.gflops,
        "torch_gflops": cost.torch_gflops,
        "uncounted": list(cost.uncounted),
        "efficiency": row.efficiency,
        "params": cost.params,
        "activations": cost.activations,
        "bytes": cost.bytes,
        "latency_ms": latency and dataclasses.asdict(latency),
        **({"latency_own_size_ms": dataclasses.asdict(own_size)} if own_size else {}),
        "throughput": row.throughput and dataclasses.asdict(row.throughput),
        "load": row.load and dataclasses.asdict(row.load),
        "recorded_gflops": cost.recorded_gflops,
        "recorded_accuracy": row.recorded_accuracy,
        "recorded_accuracy_split": row.recorded_accuracy_split,
        "predictions": row.predictions,
    }


def _row_from_json(table: Mapping[str, Any]) -> Row:
    return Row(
        name=table["name"],
        kind=table["kind"],
        precision=table["precision"],
        engine=table["engine"],
        provider=table["provider"],
        status=table["status"],
        note=table["note"],
        quality=_quality_from_json(table),
        agreement=table["top1_agreement"],
        agreement_with=table["top1_agreement_with"],
        cost=ModelCost(
            gflops=table["gflops"],
            torch_gflops=table["torch_gflops"],
            params=table["params"],
            activations=table["activations"],
            uncounted=tuple(table["uncounted"]),
            bytes=table["bytes"],
            recorded_gflops=table["recorded_gflops"],
        ),
        latency=_latency_from_json(table["latency_ms"]),
        latency_own_size=_latency_from_json(table.get("latency_own_size_ms")),
        throughput=_throughput_from_json(table["throughput"]),
        load=Load(**table["load"]) if table["load"] else None,
        recorded_accuracy=table["recorded_accuracy"],
        recorded_accuracy_split=table["recorded_accuracy_split"],
        predictions=table["predictions"],
    )


def _quality_from_json(table: Mapping[str, Any]) -> Quality | None:
    if table["accuracy"] is None:
        return None
    for key in ("accuracy_ci95", "accuracy_rows", "macro_f1", "ece", "recall", "confusion", "reliability"):
        if table[key] is None:
            raise ValueError(f"rows: {table['name']}: {key} is missing, but there is an accuracy")
    if table["accuracy_deduplicated"] is not None and table["accuracy_deduplicated_ci95"] is None:
        raise ValueError(f"rows: {table['name']}: accuracy_deduplicated_ci95 is missing")

    def accuracy(key: str) -> Accuracy | None:
        if table[key] is None:
            return None
        low, high = table[f"{key}_ci95"]
        return Accuracy(table[key], low, high, table[f"{key}_rows"])

    whole = accuracy("accuracy")
    assert whole is not None
    return Quality(
        accuracy=whole,
        deduplicated=accuracy("accuracy_deduplicated"),
        macro_f1=table["macro_f1"],
        recall=tuple(table["recall"]),
        confusion=tuple(tuple(line) for line in table["confusion"]),
        calibration_error=table["ece"],
        reliability=tuple(CalibrationBin(**group) for group in table["reliability"]),
        unanimity=None if table["unanimity"] is None else tuple(UnanimityBand(**band) for band in table["unanimity"]),
    )


def _latency_from_json(table: Mapping[str, Any] | None) -> Latency | None:
    if table is None:
        return None
    parts = Parts(**table["parts"]) if table["parts"] else None
    return Latency(**{**table, "parts": parts, "samples_ns": tuple(table["samples_ns"])})


def _throughput_from_json(table: Mapping[str, Any] | None) -> Throughput | None:
    if table is None:
        return None
    return Throughput(table["batch"], table["images_per_s"], tuple(BatchRate(**rate) for rate in table["tried"]))
