"""report.html: the whole report as one file, plots included, that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources

from fer_deploy.bench.pages import SortKey
from fer_deploy.bench.pages.columns import NONE, measured
from fer_deploy.bench.pages.drawing import STYLE, escape
from fer_deploy.bench.pages.plots import calibration_plot, confusion_plot, cost_plot, distribution_plot, latency_plot
from fer_deploy.bench.pages.sections import (
    MAXIMUM_MATRIX,
    ModelTable,
    Section,
    Table,
    about,
    first_answers,
    sections,
)
from fer_deploy.bench.report import Report, Row


def html_report(report: Report, *, by: SortKey = "accuracy") -> str:
    """The whole report as one HTML document; the plots follow the main table."""
    parts = ["<h1>ferdeploy bench</h1>", _list(about(report))]
    for section in sections(report, by=by):
        parts += _section(section)
        if isinstance(section.table, ModelTable):
            parts += _plots(report)
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>ferdeploy bench</title>\n<style>{_resource('page.css')}{STYLE}</style></head>\n"
        f"<body>\n{body}\n<script>{_resource('page.js')}</script>\n</body></html>\n"
    )


def _resource(name: str) -> str:
    return (resources.files(__package__) / name).read_text("utf-8")


def _section(section: Section) -> Iterator[str]:
    if section.is_warning:
        yield from (f'<p class="warning">{escape(item)}</p>' for item in section.items)
        return
    yield f"<h2>{escape(section.title)}</h2>"
    yield from (f'<p class="note">{escape(note)}</p>' for note in section.notes)
    if isinstance(section.table, ModelTable):
        yield from (_engine_boxes(section.table), _model_table(section.table))
    elif section.table:
        yield _plain_table(section.table)
    if section.items:
        yield _list(section.items)
    if section.legend:
        meanings = _list(f"{name}: {meaning}" for name, meaning in section.legend)
        yield f"<details><summary>What the columns and marks mean</summary>{meanings}</details>"


def _plots(report: Report) -> Iterator[str]:
    rows = measured(report)
    devices = dict.fromkeys(row.device for row in rows)
    fronts = [plot for plot in (cost_plot(report), *(latency_plot(report, device=name) for name in devices)) if plot]
    if fronts:
        yield from ("<h2>The Pareto fronts</h2>", '<p class="note">Point at a mark to see its figures.</p>', *fronts)
    if distribution := distribution_plot(rows):
        busy = [row.label for row in rows if row.latency and row.latency.busy]
        yield "<h2>Times of single calls</h2>"
        yield f'<p class="note">Measured on a busy machine: {escape(", ".join(busy))}</p>' if busy else ""
        yield distribution
    if scored := first_answers(rows):
        if len(report.labels) <= MAXIMUM_MATRIX:
            yield "<h2>Confusion matrices</h2>"
            yield '<p class="note">Rows: the label. Columns: the answer, in per cent of the label\'s faces.</p>'
            yield _with_choice("confusion", scored, lambda row: confusion_plot(row, report.labels))
        yield from ("<h2>Calibration</h2>", _with_choice("calibration", scored, calibration_plot))


def _with_choice(name: str, rows: Sequence[Row], draw: Callable[[Row], str]) -> str:
    """A plot per model, and a menu that shows one or all of them."""
    options = "".join(f'<option value="{index}">{escape(row.model)}</option>' for index, row in enumerate(rows))
    select = f'<select data-of="{name}"><option value="all">all models</option>{options}</select>'
    plots = "\n".join(f"<div>{draw(row)}</div>" for row in rows)
    return f'<p class="controls">{select}</p><div id="{name}" class="plots">\n{plots}\n</div>'


def _engine_boxes(table: ModelTable) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" checked value="{escape(engine)}"> {escape(engine)}</label>'
        for engine in dict.fromkeys(row.engine for row in table.models)
    )
    return f'<p class="controls">{boxes}</p>'


def _model_table(table: ModelTable) -> str:
    lines = []
    for row, cells, marks in zip(table.models, table.rows, table.marks, strict=True):
        texts = list(map(escape, cells))
        if marks:
            texts[0] += f' <span class="mark-front">{marks}</span>'
        values = [column.figure(row) if column.figure else column.cell(row) for column in table.columns]
        attributes = f' data-key="{escape(row.label)}" data-engine="{escape(row.engine)}"'
        lines.append(_row(attributes, texts, values, table.numeric))
    tips = [column.meaning for column in table.columns]
    return _table(table, lines, tips=tips, attributes=' id="rows"')


def _plain_table(table: Table) -> str:
    lines = [
        _row("", map(escape, cells), ["" if cell == NONE else cell.rstrip("%") for cell in cells], table.numeric)
        for cells in table.rows
    ]
    return _table(table, lines, tips=[""] * len(table.heading))


def _row(attributes: str, texts: Iterable[str], values: Iterable[float | str | None], numeric: Sequence[bool]) -> str:
    """One row; `texts` are HTML already, `values` is what the page sorts by."""
    cells = (
        f'<td{" class=n" if is_number else ""} data-value="{"" if value is None else escape(str(value))}">{text}</td>'
        for text, value, is_number in zip(texts, values, numeric, strict=True)
    )
    return f"<tr{attributes}>{''.join(cells)}</tr>"


def _table(table: Table, lines: Sequence[str], *, tips: Sequence[str], attributes: str = "") -> str:
    head = "".join(
        f'<th{" class=n" if is_number else ""} title="{escape(tip)}">{escape(title)}</th>'
        for title, tip, is_number in zip(table.heading, tips, table.numeric, strict=True)
    )
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table{attributes} class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
