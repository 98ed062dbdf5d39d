"""The report in a terminal: a table of at most 120 columns, grouped by engine, the Pareto fronts marked."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fer_deploy.bench.pages.columns import (
    COLUMNS,
    RECORDED,
    Column,
    SortKey,
    filled,
    group_rows,
    has_recorded,
    measured,
    sort_rows,
    without_figures,
)
from fer_deploy.bench.report import Report, Row, cost_front, latency_front

WIDTH = 120
"""The widest that the table gets, and the width that is assumed where there is no terminal."""

COST_MARK, TIME_MARK = "●", "▲"
"""On the Pareto front of accuracy against GFLOPs, and against latency."""


MARKS = 2
"""Characters that the marks take."""

GAP = 1
"""Blanks after a column; the box adds one between two."""

BETWEEN = GAP + 1


def render_report(report: Report, *, width: int = WIDTH, by: SortKey = "accuracy") -> RenderableType:
    """The table, what has no figures and why, the warnings, and a legend."""
    rows = measured(report)
    parts: list[RenderableType] = [Text(_heading(report), style="bold")]
    if rows:
        parts.append(_table(report, rows, width=min(width, WIDTH), by=by))
    parts += [Text.assemble((f"{which}: ", "bold"), (why, "yellow")) for which, why in without_figures(report)]
    parts += [Text(f"! {warning}", style="yellow") for warning in report.warnings]
    if rows:
        parts.append(Text(_legend(report, rows), style="dim"))
    return Group(*parts)


def _table(report: Report, rows: Sequence[Row], *, width: int, by: SortKey) -> Table:
    on_cost, on_time = cost_front(report), latency_front(report)
    columns = fitting([column for column in filled(COLUMNS, rows) if column.title != "engine"], rows, width=width)
    table = Table(box=SIMPLE_HEAD, padding=(0, GAP, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("", width=MARKS, no_wrap=True)
    for column in columns:
        table.add_column(column.title, justify="right" if column.numeric else "left", no_wrap=True)
    for engine, group in group_rows(rows).items():
        table.add_row("", Text(engine, style="bold"))
        for row in sort_rows(group, by=by):
            mark = (COST_MARK if row.label in on_cost else " ") + (TIME_MARK if row.label in on_time else " ")
            table.add_row(mark, *(Text(column.cell(row)) for column in columns))
        table.add_section()
    return table


def fitting(columns: Sequence[Column], rows: Sequence[Row], *, width: int) -> list[Column]:
    """The columns that fit `width` characters; the ones of the highest weight are dropped first."""
    kept = list(columns)
    while MARKS + sum(_needs(column, rows) + BETWEEN for column in kept) > width:
        heaviest = max(kept, key=lambda column: column.weight)
        if heaviest.weight == 0:
            break
        kept.remove(heaviest)
    return kept


def _needs(column: Column, rows: Sequence[Row]) -> int:
    engines = [len(row.engine) for row in rows] if column.title == "model" else []
    return max(len(column.title), *(len(column.cell(row)) for row in rows), *engines)


def _heading(report: Report) -> str:
    data = report.data
    scored = f"{data.name} {data.split}, {data.rows:,} faces" if data else "no data: accuracy as recorded"
    machine = report.machine
    threads = report.settings["threads"]
    return (
        f"{scored}; {machine['processor']}, {threads} thread{'s' if threads != 1 else ''} of {machine['cores']} cores"
    )


def _legend(report: Report, rows: Sequence[Row]) -> str:
    marks = []
    if cost_front(report):
        marks.append(f"{COST_MARK} no model is as accurate for fewer GFLOPs")
    if latency_front(report):
        marks.append(f"{TIME_MARK} none is as accurate in less time")
    if has_recorded(rows):
        marks.append(f"{RECORDED} as the file says, not measured here")
    return "; ".join(marks)
