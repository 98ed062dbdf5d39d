"""The report as Markdown: for the README, an issue, or a reader without a browser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fer_deploy.bench.pages.columns import (
    COLUMNS,
    NONE,
    RECORDED,
    RECORDED_MEANING,
    Column,
    SortKey,
    filled,
    group_rows,
    has_recorded,
    measured,
    milliseconds,
    size,
    sort_rows,
    without_figures,
)
from fer_deploy.bench.report import Report, Row, cost_front, latency_front
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import MeasurementError
from fer_deploy.study import STUDY_REFERENCE, STUDY_ROWS


def markdown_report(report: Report, *, by: SortKey = "accuracy") -> str:
    """The whole report as one Markdown document."""
    parts = ["# ferdeploy bench", "", *(f"- {line}" for line in about(report)), ""]
    rows = measured(report)
    if rows:
        parts += ["## Accuracy, cost, time", "", table_of(report, rows, by=by), "", _legend(report, rows), ""]
    absent = without_figures(report)
    if absent:
        parts += ["## Without figures", "", *(f"- {which}: {why}" for which, why in absent), ""]
    if report.warnings:
        parts += ["## To know before quoting a figure", "", *(f"- {warning}" for warning in report.warnings), ""]
    first = first_answers(rows)
    if first:
        parts += ["## Recall of each class", "", _recall_table(first), ""]
        parts += _unanimity(first)
        parts += ["## Are two models different?", "", *_pairs(report), ""]
    loads = [row for row in rows if row.load]
    if loads:
        parts += ["## Loading, in a fresh process", "", _load_table(loads), ""]
    devices = [row for row in rows if row.latency and row.latency.parts]
    if devices:
        parts += ["## Where the time goes on a device", "", _parts_table(devices), ""]
    parts += ["## The study's figures, beside ours", "", study_table(), ""]
    return "\n".join(parts)


def table_of(
    report: Report, rows: Sequence[Row], *, by: SortKey = "accuracy", columns: Sequence[Column] = COLUMNS
) -> str:
    """The main table: rows grouped by engine, both Pareto fronts in bold."""
    shown = filled(columns, rows)
    on_cost, on_time = cost_front(report), latency_front(report)
    lines = []
    for group in group_rows(rows).values():
        for row in sort_rows(group, by=by):
            cells = [column.cell(row) for column in shown]
            marks = ("●" if row.label in on_cost else "") + ("▲" if row.label in on_time else "")
            lines.append([f"{cells[0]} {marks}".strip(), *cells[1:]])
    return table([column.title for column in shown], lines, numeric=[column.numeric for column in shown])


def study_table() -> str:
    """The study's published rows: recorded figures, none of them measured here."""
    lines = [
        [row.name, f"{row.accuracy * 100:.2f}", f"{row.gflops:.5f}", f"{row.efficiency:.2f}", row.remark]
        for row in STUDY_ROWS
    ]
    heading = ["study's model", "accuracy %", "GFLOPs", "efficiency", "remark"]
    return f"{STUDY_REFERENCE}\n\n" + table(heading, lines, numeric=[False, True, True, True, False])


def table(heading: Sequence[str], lines: Iterable[Sequence[str]], *, numeric: Sequence[bool]) -> str:
    """A Markdown table."""
    rule = ["---:" if number else "---" for number in numeric]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (heading, rule, *lines)
    )


def with_block(text: str, name: str, content: str) -> str:
    """`text` with what lies between `<!-- NAME -->` and `<!-- /NAME -->` replaced; what people wrote round it stays.

    Raises:
        MeasurementError: the block is not there, or not closed.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, opened, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened:
        raise MeasurementError(f"there is no block {name!r} to fill: add {begin} and {end}")
    if not closed:
        raise MeasurementError(f"the block {name!r} has no end: add {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def about(report: Report) -> list[str]:
    """What was measured, on what and how, a sentence each."""
    machine, settings, data = report.machine, report.settings, report.data
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    features = ", ".join(machine["instructions"]) or machine["architecture"]
    lines = [
        f"measured {report.created} with ferdeploy {report.ferdeploy_version}",
        f"{machine['processor']}, {machine['cores']} cores ({features}), "
        f"{machine['system']}, Python {machine['python']}; {versions}",
    ]
    if machine["accelerators"]:
        lines.append(f"accelerators: {', '.join(machine['accelerators'])}")
    threads = settings["threads"]
    lines.append(f"{threads} thread{'s' if threads != 1 else ''} for every engine; batch 1 unless said otherwise")
    if data:
        lines.append(
            f"scored on {data.name}, {data.split}: {data.rows:,} of {data.rows_in_split:,} faces, "
            f"{data.rows_deduplicated:,} of which occur in no other split (data SHA-256 {data.sha256[:12]}…)"
        )
    else:
        lines.append("nothing was scored: no data was given")
    return lines


def _legend(report: Report, rows: Sequence[Row]) -> str:
    lines = [f"- **{column.title}**: {column.meaning}" for column in filled(COLUMNS, rows)]
    if cost_front(report):
        lines.append("- ●: no other model is as accurate for fewer GFLOPs")
    if latency_front(report):
        lines.append("- ▲: none is as accurate in less time on the same kind of device")
    if has_recorded(rows):
        lines.append(f"- {RECORDED}: {RECORDED_MEANING}")
    return "\n".join(lines)


def first_answers(rows: Sequence[Row]) -> list[Row]:
    """One scored row a model: the first engine's."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.quality is not None:
            found.setdefault(row.model, row)
    return list(found.values())


def _recall_table(rows: Sequence[Row]) -> str:
    lines = [
        [row.model, *(NONE if value is None else f"{value * 100:.1f}" for value in row.quality.recall)]
        for row in rows
        if row.quality
    ]
    return table(["model", *EMOTIONS], lines, numeric=[False] + [True] * len(EMOTIONS))


def _unanimity(rows: Sequence[Row]) -> list[str]:
    with_votes = [row for row in rows if row.quality and row.quality.unanimity]
    if not with_votes:
        return []
    bands = with_votes[0].quality.unanimity or () if with_votes[0].quality else ()
    heading = ["model"] + [f"{band.low:.0%} to {band.high:.0%} ({band.count} faces)" for band in bands]
    lines = [
        [
            row.model,
            *(NONE if band.accuracy is None else f"{band.accuracy * 100:.1f}" for band in row.quality.unanimity),
        ]
        for row in with_votes
        if row.quality and row.quality.unanimity
    ]
    return [
        "## Accuracy by agreement of the FER+ annotators", "",
        "By the share of ten annotators who chose the commonest answer.", "",
        table(heading, lines, numeric=[False] + [True] * len(bands)), "",
    ]  # fmt: skip


def _pairs(report: Report) -> list[str]:
    if not report.pairs:
        return ["One model only: nothing to compare."]
    lines = [
        [pair.first, pair.second, str(pair.only_first), str(pair.only_second), p_value(pair.p_value)]
        for pair in sorted(report.pairs, key=lambda pair: pair.p_value)
    ]
    heading = ["first", "second", "only first right", "only second right", "p"]
    return [
        "McNemar's exact test on the same faces.",
        "",
        table(heading, lines, numeric=[False, False, True, True, True]),
    ]


def p_value(value: float) -> str:
    """A p-value as it is usually written."""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def _load_table(rows: Sequence[Row]) -> str:
    lines = [
        [row.label, milliseconds(row.load.load_ms), milliseconds(row.load.first_ms), size(row.load.peak_memory_bytes)]
        for row in rows
        if row.load
    ]
    return table(["model", "load ms", "first answer ms", "peak memory"], lines, numeric=[False, True, True, True])


def _parts_table(rows: Sequence[Row]) -> str:
    lines = [
        [row.label, milliseconds(parts.upload_ms), milliseconds(parts.compute_ms), milliseconds(parts.download_ms)]
        for row in rows
        if row.latency and (parts := row.latency.parts)
    ]
    return table(["model", "upload ms", "compute ms", "download ms"], lines, numeric=[False, True, True, True])
