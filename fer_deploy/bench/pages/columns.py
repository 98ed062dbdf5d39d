"""What the tables show: one column a figure, its heading, and how a row's figure is written.

The terminal's table, report.md, report.html and the README's are made from this one list, so that a figure is written
in one way everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fer_deploy.bench.report import OK, Report, Row
from fer_deploy.errors import MeasurementError

SortKey = Literal["accuracy", "gflops", "efficiency", "latency", "name"]
SORT_KEYS: tuple[SortKey, ...] = ("accuracy", "gflops", "efficiency", "latency", "name")

NONE = "–"
"""What stands for a figure that was not measured."""

RECORDED = "*"
"""What marks a figure that the file says of itself and this run did not measure."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        title: its heading, short.
        meaning: what it is, for the legend under the table.
        cell: a row's text; NONE where there is no figure.
        numeric: whether it is aligned to the right.
        weight: columns of the highest weight are dropped first where the page is too narrow.
        figure: a row's figure itself, for sorting; None where the text is what is sorted.
    """

    title: str
    meaning: str
    cell: Callable[[Row], str]
    numeric: bool = True
    weight: int = 0
    figure: Callable[[Row], float | None] | None = None


RECORDED_MEANING = "as the file says of itself, not measured in this run"


def accuracy_cell(row: Row) -> str:
    """Accuracy in per cent with half of its interval, `67.6 ±1.5`; what the file says of itself is marked."""
    if row.quality is not None:
        accuracy = row.quality.accuracy
        return f"{accuracy.value * 100:.2f} ±{(accuracy.high - accuracy.low) * 50:.1f}"
    if row.recorded_accuracy is not None:
        return f"{row.recorded_accuracy * 100:.2f}{RECORDED}"
    return NONE


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{value * 100:.2f}"


def gflops_cell(row: Row) -> str:
    """GFLOPs with as many decimals as tell models apart; what the file says of itself is marked."""
    if row.gflops is None:
        return NONE
    return f"{row.gflops:.4f}" + ("" if row.cost.gflops is not None else RECORDED)


def milliseconds(value: float | None) -> str:
    """A time to three figures, in milliseconds."""
    if value is None:
        return NONE
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def count(value: float | None) -> str:
    """A count to three figures with a letter: `4.01M`.

    >>> count(4_014_658), count(346_123), count(7), count(None)
    ('4.01M', '346k', '7', '–')
    """
    if value is None:
        return NONE
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            scaled = value / unit
            return (
                f"{scaled:.2f}{letter}"
                if scaled < 10
                else f"{scaled:.1f}{letter}"
                if scaled < 100
                else f"{scaled:.0f}{letter}"
            )
    return f"{value:.0f}"


def size(value: int | None) -> str:
    """A number of bytes as kB or MB, powers of ten: `16.5 MB`."""
    if value is None:
        return NONE
    return f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"


def _latency_cell(name: str) -> Callable[[Row], str]:
    """A time in milliseconds; where the file takes several faces a call, with how many: `12.3 for 8`."""

    def cell(row: Row) -> str:
        value = milliseconds(_of_latency(name)(row))
        return (
            value
            if value == NONE or row.latency is None or row.latency.batch == 1
            else f"{value} for {row.latency.batch}"
        )

    return cell


def _calibration(row: Row) -> str:
    return f"{row.quality.calibration_error:.3f}" if row.quality else NONE


def _efficiency(row: Row) -> str:
    return f"{row.efficiency:.1f}" if row.efficiency else NONE


def _agreement(row: Row) -> str:
    return NONE if row.agreement is None else f"{row.agreement * 100:.1f}"


def _accuracy_figure(row: Row) -> float | None:
    return row.quality.accuracy.value if row.quality else row.recorded_accuracy


def _unseen_figure(row: Row) -> float | None:
    return row.quality.deduplicated.value if row.quality and row.quality.deduplicated else None


def _of_quality(name: str) -> Callable[[Row], float | None]:
    return lambda row: getattr(row.quality, name) if row.quality else None


def _of_latency(name: str) -> Callable[[Row], float | None]:
    return lambda row: getattr(row.latency, name) if row.latency else None


def _of_cost(name: str) -> Callable[[Row], float | None]:
    return lambda row: getattr(row.cost, name)


def _rate_figure(row: Row) -> float | None:
    return row.throughput.images_per_s if row.throughput else None


def _agreement_figure(row: Row) -> float | None:
    return row.agreement


COLUMNS: tuple[Column, ...] = (
    Column("model", "name and precision of the file", lambda row: row.model, numeric=False),
    Column("engine", "what computed it", lambda row: row.engine, numeric=False),
    Column(
        "accuracy %",
        "on every face of the split, with half of the 95 % interval (Wilson)",
        accuracy_cell,
        figure=_accuracy_figure,
    ),
    Column(
        "unseen %",
        "accuracy on the faces whose pixels occur in no other split",
        lambda row: _percent(_unseen_figure(row)),
        weight=1,
        figure=_unseen_figure,
    ),
    Column(
        "F1 %",
        "macro-F1",
        lambda row: _percent(_of_quality("macro_f1")(row)),
        weight=3,
        figure=_of_quality("macro_f1"),
    ),
    Column("ECE", "expected calibration error", _calibration, weight=4, figure=_of_quality("calibration_error")),
    Column(
        "GFLOPs",
        "multiply-adds of one 48x48 face, fvcore's count, in units of 1e9",
        gflops_cell,
        figure=lambda row: row.gflops,
    ),
    Column("eff.", "efficiency: accuracy / GFLOPs", _efficiency, weight=2, figure=lambda row: row.efficiency),
    Column("params", "parameters", lambda row: count(row.cost.params), weight=5, figure=_of_cost("params")),
    Column("bytes", "size of the file", lambda row: size(row.cost.bytes), weight=3, figure=_of_cost("bytes")),
    Column(
        "p50 ms",
        "median time of one face",
        _latency_cell("p50"),
        figure=_of_latency("p50"),
    ),
    Column(
        "p90",
        "90th percentile, ms",
        _latency_cell("p90"),
        weight=4,
        figure=_of_latency("p90"),
    ),
    Column(
        "p99",
        "99th percentile, ms; stated from 1,000 samples on",
        _latency_cell("p99"),
        weight=3,
        figure=_of_latency("p99"),
    ),
    Column(
        "faces/s",
        "in batches, at the best batch size",
        lambda row: count(_rate_figure(row)),
        weight=2,
        figure=_rate_figure,
    ),
    Column(
        "agree %",
        "faces named alike by this row and by PyTorch (where that was not run, by the fp32 file)",
        _agreement,
        weight=4,
        figure=_agreement_figure,
    ),
)


def measured(report: Report) -> list[Row]:
    """The rows that have figures."""
    return [row for row in report.rows if row.status == OK]


def without_figures(report: Report) -> list[tuple[str, str]]:
    """What has no figures and why: (which, reason), rows of one engine and reason put together."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in report.rows:
        if row.status != OK:
            groups.setdefault((row.engine, row.status), []).append(row)
    lines = []
    for (engine, status), rows in groups.items():
        which = rows[0].label if len(rows) == 1 else f"{len(rows)} models on {engine}"
        lines.append((which, status))
    return lines


def sort_rows(rows: Iterable[Row], *, by: SortKey = "accuracy") -> list[Row]:
    """Rows by a key, best first; those without the figure come last, and ties keep a fixed order."""

    def value(row: Row) -> float | None:
        if by == "accuracy":
            return -row.quality.accuracy.value if row.quality else None
        if by == "gflops":
            return row.gflops
        if by == "efficiency":
            return -row.efficiency if row.efficiency else None
        if by == "latency":
            return row.face_ms
        return 0.0

    if by not in SORT_KEYS:
        raise MeasurementError(f"cannot sort by {by!r}; there are {', '.join(SORT_KEYS)}")

    def key(row: Row) -> tuple[bool, float, str]:
        figure = value(row)
        return figure is None, figure or 0.0, row.label

    return sorted(rows, key=key)


def group_rows(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by engine, in the order in which the engines occur."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.engine, []).append(row)
    return groups


def filled(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """The columns in which at least one row has a figure."""
    return [column for column in columns if any(column.cell(row) != NONE for row in rows)]


def has_recorded(rows: Sequence[Row]) -> bool:
    """Whether a figure of these rows is one that a file says of itself: a table of them must then say so."""
    return any(RECORDED in column.cell(row) for column in COLUMNS for row in rows)
