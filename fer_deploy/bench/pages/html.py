"""report.html: the whole report as one file, plots and all, that needs nothing from anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib import resources

from fer_deploy.bench.pages.columns import (
    COLUMNS,
    NONE,
    RECORDED,
    RECORDED_MEANING,
    SortKey,
    filled,
    group_rows,
    has_recorded,
    measured,
    sort_rows,
    without_figures,
)
from fer_deploy.bench.pages.drawing import STYLE
from fer_deploy.bench.pages.markdown import about, first_answers, p_value
from fer_deploy.bench.pages.plots import calibration_plot, confusion_plot, cost_plot, distribution_plot, latency_plot
from fer_deploy.bench.report import Report, Row, cost_front, latency_front
from fer_deploy.emotions import EMOTIONS
from fer_deploy.study import STUDY_REFERENCE, STUDY_ROWS


def html_report(report: Report, *, by: SortKey = "accuracy") -> str:
    """The whole report as one HTML document."""
    rows = measured(report)
    answered = first_answers(rows)
    parts = ["<h1>ferdeploy bench</h1>", _list(about(report))]
    parts += [f'<p class="warning">{escape(warning)}</p>' for warning in report.warnings]
    if rows:
        parts += ["<h2>Accuracy, cost, time</h2>", _engines(rows), _main_table(report, rows, by), _legend(rows)]
    absent = without_figures(report)
    if absent:
        parts += ["<h2>Without figures</h2>", _list(f"{which}: {why}" for which, why in absent)]
    devices = dict.fromkeys(row.device for row in rows)
    drawn = [cost_plot(report), *(latency_plot(report, device=device) for device in devices)]
    drawn = [plot for plot in drawn if plot]
    if drawn:
        parts += [
            "<h2>The Pareto fronts</h2>",
            '<p class="note">Rest the pointer on a point for its figures.</p>',
            *drawn,
        ]
    distribution = distribution_plot(rows)
    if distribution:
        parts += ["<h2>Times of single calls</h2>", _noted(rows), distribution]
    if answered:
        explained = "A line is a label, a column what its faces were named, in per cent of the label."
        parts += ["<h2>Confusion matrices</h2>", f'<p class="note">{explained}</p>']
        parts += [_chosen("confusion", answered, confusion_plot)]
        parts += ["<h2>Calibration</h2>", _chosen("calibration", answered, calibration_plot)]
        parts += ["<h2>Recall of each class, %</h2>", _recall(answered)]
        parts += _unanimity(answered)
    if report.pairs:
        parts += [
            "<h2>Are two models different?</h2>",
            "<p>McNemar's exact test on the same faces.</p>",
            _pairs(report),
        ]
    parts += _calls(rows)
    parts += ["<h2>The study's figures</h2>", f'<p class="note">{escape(STUDY_REFERENCE)}</p>', _study()]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>ferdeploy bench</title>\n<style>{_beside('page.css')}{STYLE}</style></head>\n"
        f"<body>\n{body}\n<script>{_beside('page.js')}</script>\n</body></html>\n"
    )


def _beside(name: str) -> str:
    return (resources.files(__package__) / name).read_text("utf-8")


def _main_table(report: Report, rows: Sequence[Row], by: SortKey) -> str:
    columns = filled(COLUMNS, rows)
    on_cost, on_time = cost_front(report), latency_front(report)
    head = "".join(_head(column.title, numeric=column.numeric, tip=column.meaning) for column in columns)
    lines = []
    for group in group_rows(rows).values():
        for row in sort_rows(group, by=by):
            marks = ("●" if row.label in on_cost else "") + ("▲" if row.label in on_time else "")
            cells = []
            for index, column in enumerate(columns):
                shown = escape(column.cell(row))
                if index == 0:
                    shown += f' <span class="mark-front">{marks}</span>' if marks else ""
                figure = column.figure(row) if column.figure else column.cell(row)
                cells.append(_cell(shown, figure, numeric=column.numeric))
            attributes = f'data-key="{escape(row.label, quote=True)}" data-engine="{escape(row.engine, quote=True)}"'
            lines.append(f"<tr {attributes}>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return (
        '<div class="wide"><table id="rows" class="sortable"><thead><tr>'
        f"{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def _head(title: str, *, numeric: bool, tip: str = "") -> str:
    return f'<th{" class=n" if numeric else ""} title="{escape(tip, quote=True)}">{escape(title)}</th>'


def _cell(shown: str, figure: float | str | None, *, numeric: bool) -> str:
    value = "" if figure is None else figure
    return f'<td{" class=n" if numeric else ""} data-value="{escape(str(value), quote=True)}">{shown}</td>'


def _table(heading: Sequence[str], lines: Sequence[Sequence[str]], *, text_columns: int = 1) -> str:
    head = "".join(_head(title, numeric=index >= text_columns) for index, title in enumerate(heading))
    body = "\n".join(
        "<tr>"
        + "".join(
            _cell(escape(cell), "" if cell == NONE else cell.rstrip("%"), numeric=index >= text_columns)
            for index, cell in enumerate(cells)
        )
        + "</tr>"
        for cells in lines
    )
    table = f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _engines(rows: Sequence[Row]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" checked value="{escape(engine, quote=True)}"> {escape(engine)}</label>'
        for engine in dict.fromkeys(row.engine for row in rows)
    )
    return f'<p class="controls">{boxes}</p>'


def _legend(rows: Sequence[Row]) -> str:
    lines = [f"{column.title}: {column.meaning}" for column in filled(COLUMNS, rows)]
    lines += [
        "●: no other model is as accurate for fewer GFLOPs",
        "▲: none is as accurate in less time on that kind of device",
    ]
    if has_recorded(rows):
        lines.append(f"{RECORDED}: {RECORDED_MEANING}")
    return f"<details><summary>What the columns are</summary>{_list(lines)}</details>"


def _chosen(name: str, rows: Sequence[Row], draw: Callable[[Row], str]) -> str:
    options = "".join(f'<option value="{index}">{escape(row.model)}</option>' for index, row in enumerate(rows))
    select = f'<select data-of="{name}"><option value="all">all models</option>{options}</select>'
    plots = "\n".join(f"<div>{draw(row)}</div>" for row in rows)
    return f'<p class="controls">{select}</p><div id="{name}" class="plots">\n{plots}\n</div>'


def _recall(rows: Sequence[Row]) -> str:
    lines = [
        [row.model, *(NONE if value is None else f"{value * 100:.1f}" for value in row.quality.recall)]
        for row in rows
        if row.quality
    ]
    return _table(["model", *EMOTIONS], lines)


def _unanimity(rows: Sequence[Row]) -> list[str]:
    voted = [(row.model, row.quality.unanimity) for row in rows if row.quality and row.quality.unanimity]
    if not voted:
        return []
    heading = ["model"] + [f"{band.low:.0%} to {band.high:.0%} ({band.count} faces)" for band in voted[0][1]]
    lines = [
        [name, *(NONE if band.accuracy is None else f"{band.accuracy * 100:.1f}" for band in bands)]
        for name, bands in voted
    ]
    return [
        "<h2>Accuracy by agreement of the FER+ annotators, %</h2>",
        "<p>By the share of ten annotators who chose the commonest answer.</p>",
        _table(heading, lines),
    ]


def _pairs(report: Report) -> str:
    lines = [
        [pair.first, pair.second, str(pair.only_first), str(pair.only_second), p_value(pair.p_value)]
        for pair in sorted(report.pairs, key=lambda pair: pair.p_value)
    ]
    return _table(["first", "second", "only first right", "only second right", "p"], lines, text_columns=2)


def _calls(rows: Sequence[Row]) -> list[str]:
    noted = [f"{row.label}: {row.note}" for row in rows if row.note]
    return ["<h2>How it was computed</h2>", _list(noted)] if noted else []


def _noted(rows: Sequence[Row]) -> str:
    busy = [row.label for row in rows if row.latency and row.latency.busy]
    return f'<p class="note">Marked as measured on a busy machine: {escape(", ".join(busy))}</p>' if busy else ""


def _study() -> str:
    lines = [
        [row.name, f"{row.accuracy * 100:.2f}", f"{row.gflops:.5f}", f"{row.efficiency:.2f}", row.remark]
        for row in STUDY_ROWS
    ]
    return _table(["model", "accuracy %", "GFLOPs", "efficiency", "remark"], lines)


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>"
