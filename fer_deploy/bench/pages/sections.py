"""The sections of a report; the Markdown, HTML and terminal pages only lay them out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from fer_deploy.bench.pages import SortKey
from fer_deploy.bench.pages.columns import (
    COLUMNS,
    NONE,
    RECORDED,
    RECORDED_MEANING,
    Column,
    filled,
    group_rows,
    has_recorded,
    measured,
    milliseconds,
    size,
    sort_rows,
    without_figures,
)
from fer_deploy.bench.report import MANY_LABELS, Report, Row, cost_front, label_list, latency_front
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import printable
from fer_deploy.study import STUDY_REFERENCE, STUDY_ROWS

COST_MARK, TIME_MARK = "●", "▲"
"""On the Pareto front of accuracy against GFLOPs, and against latency."""

MAXIMUM_MATRIX = 40
"""A confusion matrix of more labels is not drawn."""

LISTED_CONFUSIONS = 20
"""Of such a matrix, so many of the most frequent confusions are listed for each model."""

COST_MEANING = "no other model is as accurate for fewer GFLOPs"
TIME_MEANING = "none is as accurate in less time on the same kind of device"


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes:
        heading: one title per column.
        rows: one text per column in each row; NONE where there is no figure.
        numeric: one flag per column: whether it is aligned to the right.
    """

    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


@dataclass(frozen=True)
class ModelTable(Table):
    """The main table, with what a page needs to sort, filter and mark its rows.

    Attributes:
        columns: one per heading.
        models: the report's row behind each row of the table.
        marks: COST_MARK and TIME_MARK, or neither, for each row.
    """

    columns: tuple[Column, ...] = ()
    models: tuple[Row, ...] = ()
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """One part of a page: its notes, then its table, then its list, then its legend.

    Attributes:
        title: its heading.
        notes: sentences above the table.
        table: None where a list says everything.
        items: list entries, one sentence each.
        legend: pairs of a heading or mark and its meaning.
        is_warning: whether readers must see it before they quote a figure.
    """

    title: str
    notes: tuple[str, ...] = ()
    table: Table | None = None
    items: tuple[str, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()
    is_warning: bool = False


def sections(report: Report, *, by: SortKey = "accuracy") -> list[Section]:
    """Everything that the report has to show, in reading order; sections without content are left out."""
    rows = measured(report)
    scored = first_answers(rows)
    candidates = (
        Section("Before you quote a figure", items=report.warnings, is_warning=True),
        _models(report, rows, by),
        Section("Without figures", items=tuple(f"{which}: {why}" for which, why in without_figures(report))),
        Section("Recall of each class, %", table=_recall(scored, report.labels)),
        _confusions(scored, report.labels),
        _unanimity(scored),
        _pairs(report),
        Section("Loading, in a fresh process", table=_loading(rows)),
        Section("Where the time goes on a device", table=_device_times(rows)),
        Section("How it was computed", items=tuple(f"{row.label}: {row.note}" for row in rows if row.note)),
        Section("The study's published figures", notes=(STUDY_REFERENCE,), table=_study(report.labels)),
    )
    return [_printable(section) for section in candidates if section.items or (section.table and section.table.rows)]


def _printable(section: Section) -> Section:
    """The section without control characters: names and errors in a report may come from anywhere."""
    table = section.table
    if table:
        rows = tuple(tuple(map(printable, cells)) for cells in table.rows)
        table = replace(table, heading=tuple(map(printable, table.heading)), rows=rows)
    return replace(section, table=table, items=tuple(map(printable, section.items)))


def about(report: Report) -> list[str]:
    """What was measured, on what and how: one sentence per line."""
    machine, data = report.machine, report.data
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    features = ", ".join(machine["instructions"]) or machine["architecture"]
    lines = [
        f"measured {report.created} with ferdeploy {report.ferdeploy_version}",
        f"{machine['processor']}, {machine['cores']} cores ({features}), "
        f"{machine['system']}, Python {machine['python']}; {versions}",
    ]
    if machine["accelerators"]:
        lines.append(f"accelerators: {', '.join(machine['accelerators'])}")
    lines.append(f"{threads_text(report)} for every engine; batch 1 unless stated otherwise")
    if data:
        lines.append(
            f"scored on {data.name}, {data.split}: {data.rows:,} of {data.rows_in_split:,} faces; "
            f"{data.rows_deduplicated:,} of them occur in no other split (data SHA-256 {data.sha256[:12]}…)"
        )
        if data.size != "48x48":
            timed = ", and on faces of that size" if any(row.latency_own_size for row in report.rows) else ""
            lines.append(f"the pictures are {data.size} pixels, scored unchanged; times are on faces of 48x48{timed}")
        if report.labels != EMOTIONS:
            lines.append(f"labels: {label_list(report.labels)}")
    else:
        lines.append("nothing was scored: there was no data set")
    return list(map(printable, lines))


def threads_text(report: Report) -> str:
    """The number of threads in words: `1 thread`, `2 threads`."""
    threads = report.settings["threads"]
    return f"{threads} thread{'s' if threads != 1 else ''}"


def model_table(
    report: Report, rows: Sequence[Row], *, by: SortKey = "accuracy", columns: Sequence[Column] = COLUMNS
) -> ModelTable:
    """The main table: rows grouped by engine and sorted, columns without any figure left out."""
    kept = tuple(filled(columns, rows))
    on_cost, on_time = cost_front(report), latency_front(report)
    models = tuple(row for group in group_rows(rows).values() for row in sort_rows(group, by=by))
    return ModelTable(
        heading=tuple(column.title for column in kept),
        rows=tuple(tuple(column.cell(row) for column in kept) for row in models),
        numeric=tuple(column.numeric for column in kept),
        columns=kept,
        models=models,
        marks=tuple(COST_MARK * (row.label in on_cost) + TIME_MARK * (row.label in on_time) for row in models),
    )


def first_answers(rows: Iterable[Row]) -> list[Row]:
    """One scored row per model: the first engine's."""
    first: dict[str, Row] = {}
    for row in rows:
        if row.quality is not None:
            first.setdefault(row.model, row)
    return list(first.values())


def p_value(value: float) -> str:
    """A p-value as it is usually written."""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def _models(report: Report, rows: Sequence[Row], by: SortKey) -> Section:
    table = model_table(report, rows, by=by)
    legend = [(column.title, column.meaning) for column in table.columns]
    if cost_front(report):
        legend.append((COST_MARK, COST_MEANING))
    if latency_front(report):
        legend.append((TIME_MARK, TIME_MEANING))
    if has_recorded(rows):
        legend.append((RECORDED, RECORDED_MEANING))
    return Section("Accuracy, cost, time", table=table, legend=tuple(legend))


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> Table:
    """A table whose first `text_columns` columns are text and the others figures."""
    numeric = tuple(index >= text_columns for index in range(len(heading)))
    return Table(tuple(heading), tuple(map(tuple, rows)), numeric)


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{value * 100:.1f}"


def _recall(rows: Sequence[Row], labels: Sequence[str]) -> Table:
    """One column per class, or one line per class where they are many."""
    scored = [(row.model, row.quality) for row in rows if row.quality]
    recalls = [[_percent(share) for share in quality.recall] for _, quality in scored]
    if len(labels) <= MANY_LABELS or not scored:
        return _table(["model", *labels], [[model, *line] for (model, _), line in zip(scored, recalls, strict=True)])
    counts = [sum(line) for line in scored[0][1].confusion]
    columns = zip(*recalls, strict=True)
    return _table(
        ["label", "faces", *(model for model, _ in scored)],
        [[label, str(count), *line] for label, count, line in zip(labels, counts, columns, strict=True)],
    )


def _confusions(rows: Sequence[Row], labels: Sequence[str]) -> Section:
    """The most frequent confusions of each model, where the matrix is too large to be drawn."""
    lines = []
    for row in rows if len(labels) > MAXIMUM_MATRIX else ():
        assert row.quality is not None
        counts = [
            (count, label, answer)
            for label, line in zip(labels, row.quality.confusion, strict=True)
            for answer, count in zip(labels, line, strict=True)
            if count and label != answer
        ]
        most = sorted(counts, key=lambda confusion: -confusion[0])[:LISTED_CONFUSIONS]
        lines += [[row.model, label, answer, str(count)] for count, label, answer in most]
    return Section(
        "The most frequent confusions",
        notes=(f"A matrix of {len(labels)} labels is too large to be drawn: report.json has it.",),
        table=_table(["model", "label", "answer", "faces"], lines, text_columns=3),
    )


def _unanimity(rows: Sequence[Row]) -> Section:
    bands = [(row.model, row.quality.unanimity) for row in rows if row.quality and row.quality.unanimity]
    heading = [f"{band.low:.0%} to {band.high:.0%} ({band.count} faces)" for band in bands[0][1]] if bands else []
    return Section(
        "Accuracy by agreement of the FER+ annotators, %",
        notes=("Columns: the share of the ten annotators who chose the most frequent answer.",),
        table=_table(
            ["model", *heading],
            [[name, *(_percent(band.accuracy) for band in accuracies)] for name, accuracies in bands],
        ),
    )


def _pairs(report: Report) -> Section:
    rows = [
        [pair.first, pair.second, str(pair.only_first), str(pair.only_second), p_value(pair.p_value)]
        for pair in sorted(report.pairs, key=lambda pair: pair.p_value)
    ]
    heading = ["first", "second", "only first correct", "only second correct", "p"]
    return Section(
        "Are two models different?",
        notes=("McNemar's exact test on the same faces.",),
        table=_table(heading, rows, text_columns=2),
    )


def _loading(rows: Sequence[Row]) -> Table:
    loads = [(row.label, row.load) for row in rows if row.load]
    return _table(
        ["model", "load ms", "first answer ms", "peak memory"],
        [
            [label, milliseconds(load.load_ms), milliseconds(load.first_ms), size(load.peak_memory_bytes)]
            for label, load in loads
        ],
    )


def _device_times(rows: Sequence[Row]) -> Table:
    times = [(row.label, row.latency.parts) for row in rows if row.latency and row.latency.parts]
    return _table(
        ["model", "upload ms", "compute ms", "download ms"],
        [[label, *map(milliseconds, (parts.upload_ms, parts.compute_ms, parts.download_ms))] for label, parts in times],
    )


def _study(labels: Sequence[str]) -> Table | None:
    """The study's table; None for other labels than the seven that it scores."""
    if tuple(labels) != EMOTIONS:
        return None
    heading = ("study's model", "accuracy %", "GFLOPs", "efficiency", "remark")
    rows = tuple(
        (row.name, f"{row.accuracy * 100:.2f}", f"{row.gflops:.5f}", f"{row.efficiency:.2f}", row.remark)
        for row in STUDY_ROWS
    )
    return Table(heading, rows, (False, True, True, True, False))
