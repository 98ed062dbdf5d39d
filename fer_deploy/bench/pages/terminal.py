"""The report in a terminal: the main table in at most 120 columns, grouped by engine, with the Pareto fronts marked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fer_deploy.bench.pages import SortKey
from fer_deploy.bench.pages.columns import RECORDED, without_figures
from fer_deploy.bench.pages.sections import COST_MARK, TIME_MARK, ModelTable, sections, threads_text
from fer_deploy.bench.report import Report
from fer_deploy.errors import printable

WIDTH = 120
"""The widest that the table gets, and the width assumed where there is no terminal."""

MARKS_WIDTH = 2
"""Characters that the marks take."""

GAP = 1
"""Blanks after a column; the box adds one between two."""


def render_report(report: Report, *, width: int = WIDTH, by: SortKey = "accuracy") -> RenderableType:
    """The main table, what has no figures and why, the warnings, and the meaning of the marks."""
    parts: list[RenderableType] = [Text(_heading(report), style="bold")]
    legend = ""
    for section in sections(report, by=by):
        if isinstance(section.table, ModelTable):
            parts.append(_table(section.table, width=min(width, WIDTH)))
            marks = (COST_MARK, TIME_MARK, RECORDED)
            legend = "; ".join(f"{mark} {meaning}" for mark, meaning in section.legend if mark in marks)
    parts += [
        Text.assemble((f"{printable(which)}: ", "bold"), (printable(why), "yellow"))
        for which, why in without_figures(report)
    ]
    parts += [Text(f"! {printable(warning)}", style="yellow") for warning in report.warnings]
    return Group(*parts, *([Text(legend, style="dim")] if legend else []))


def _table(content: ModelTable, *, width: int) -> Table:
    kept = fitting(content, width=width)
    table = Table(box=SIMPLE_HEAD, padding=(0, GAP, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("", width=MARKS_WIDTH, no_wrap=True)
    for index in kept:
        table.add_column(content.heading[index], justify="right" if content.numeric[index] else "left", no_wrap=True)
    lines = zip(content.models, content.rows, content.marks, strict=True)
    for engine, group in groupby(lines, key=lambda line: line[0].engine):
        table.add_row("", Text(printable(engine), style="bold"))
        for _, cells, marks in group:
            # a fixed position per mark, so that equal marks align
            placed = "".join(mark if mark in marks else " " for mark in (COST_MARK, TIME_MARK))
            table.add_row(placed, *(Text(cells[index]) for index in kept))
        table.add_section()
    return table


def fitting(table: ModelTable, *, width: int) -> list[int]:
    """The indices of the columns that fit `width` characters; those of the highest weight are dropped first.

    The engine's column is never among them: rows are grouped by engine.
    """
    kept = [index for index, title in enumerate(table.heading) if title != "engine"]
    while MARKS_WIDTH + sum(_width(table, index) + GAP + 1 for index in kept) > width:
        heaviest = max(kept, key=lambda index: table.columns[index].weight)
        if table.columns[heaviest].weight == 0:
            break
        kept.remove(heaviest)
    return kept


def _width(table: ModelTable, index: int) -> int:
    engines: Sequence[str] = [row.engine for row in table.models] if table.heading[index] == "model" else []
    return max(map(len, (table.heading[index], *(cells[index] for cells in table.rows), *engines)))


def _heading(report: Report) -> str:
    data, machine = report.data, report.machine
    scored = f"{data.name} {data.split}, {data.rows:,} faces" if data else "no data: accuracy as recorded"
    return printable(f"{scored}; {machine['processor']}, {threads_text(report)} of {machine['cores']} cores")
