"""The columns of the main table: a heading, a meaning, and how a row's figure is written.

The terminal, report.md, report.html and the README all use this one list, so a figure looks the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fer_deploy.bench.pages import SORT_KEYS, SortKey
from fer_deploy.bench.report import OK, Report, Row
from fer_deploy.errors import MeasurementError

NONE = "–"
"""Shown in place of a figure that was not measured."""

RECORDED = "*"
"""Marks a figure that the file records and this run did not measure."""

RECORDED_MEANING = "as recorded in the file, not measured in this run"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        title: its heading, short.
        meaning: what it holds, for the legend under the table.
        cell: gives a row's text; NONE where there is no figure.
        numeric: whether it is aligned to the right.
        weight: where the page is too narrow, columns of the highest weight are dropped first.
        figure: gives a row's figure for sorting; None sorts by the text.
    """

    title: str
    meaning: str
    cell: Callable[[Row], str]
    numeric: bool = True
    weight: int = 0
    figure: Callable[[Row], float | None] | None = None


def accuracy_cell(row: Row) -> str:
    """Accuracy in per cent with half of its interval, `67.6 ±1.5`; a recorded one is marked."""
    if row.quality is not None:
        accuracy = row.quality.accuracy
        return f"{accuracy.value * 100:.2f} ±{(accuracy.high - accuracy.low) * 50:.1f}"
    if row.recorded_accuracy is not None:
        return f"{row.recorded_accuracy * 100:.2f}{RECORDED}"
    return NONE


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{value * 100:.2f}"


def gflops_cell(row: Row) -> str:
    """GFLOPs to four decimals, which tell models apart; a recorded figure is marked."""
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


def _own_size_figure(row: Row) -> float | None:
    return row.latency_own_size.p50 if row.latency_own_size else None


def _latency_cell(name: str) -> Callable[[Row], str]:
    """A time in milliseconds; for a file that takes several faces per call with their number: `12.3 for 8`."""

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
    Column("engine", "what computed the answers", lambda row: row.engine, numeric=False),
    Column(
        "accuracy %",
        "on every face of the split, ± half of the 95 % interval (Wilson)",
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
        "own size ms",
        "median time of one face of the data's own size",
        lambda row: milliseconds(_own_size_figure(row)),
        weight=1,
        figure=_own_size_figure,
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
        "99th percentile, ms; only from 1,000 samples on",
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
        "share of faces with the same answer as PyTorch (where that was not run, as the fp32 file)",
        _agreement,
        weight=4,
        figure=_agreement_figure,
    ),
)


def measured(report: Report) -> list[Row]:
    """The rows that have figures."""
    return [row for row in report.rows if row.status == OK]


def without_figures(report: Report) -> list[tuple[str, str]]:
    """Rows without figures as (which, reason); rows with the same engine and reason are one entry."""
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
    """Rows by a key, best first; rows without the figure come last, and ties are in order of their labels."""

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
        raise MeasurementError(f"cannot sort by {by!r}: use {', '.join(SORT_KEYS)}")

    def key(row: Row) -> tuple[bool, float, str]:
        figure = value(row)
        return figure is None, figure or 0.0, row.label

    return sorted(rows, key=key)


def group_rows(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by engine, in the order of the engines' first rows."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.engine, []).append(row)
    return groups


def filled(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """The columns in which at least one row has a figure."""
    return [column for column in columns if any(column.cell(row) != NONE for row in rows)]


def has_recorded(rows: Sequence[Row]) -> bool:
    """Whether a table of these rows shows recorded figures, so that it needs the mark's meaning."""
    return any(RECORDED in column.cell(row) for column in COLUMNS for row in rows)
