"""report.md: the report for a README, an issue, or a reader without a browser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fer_deploy.bench.pages import SortKey
from fer_deploy.bench.pages.sections import ModelTable, Section, Table, about, sections
from fer_deploy.bench.report import Report


def markdown_report(report: Report, *, by: SortKey = "accuracy") -> str:
    """The whole report as one Markdown document."""
    parts = ["# ferdeploy bench", "", *(f"- {line}" for line in about(report)), ""]
    for section in sections(report, by=by):
        parts += [f"## {section.title}", "", *_content(section)]
    return "\n".join(parts)


def markdown_table(table: Table) -> str:
    """A table; the marks of the main table follow the model's name."""
    marks = table.marks if isinstance(table, ModelTable) else [""] * len(table.rows)
    rule = ["---:" if is_number else "---" for is_number in table.numeric]
    rows = [(f"{row[0]} {mark}".strip(), *row[1:]) for row, mark in zip(table.rows, marks, strict=True)]
    return "\n".join(_line(cells) for cells in (table.heading, rule, *rows))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _content(section: Section) -> Iterator[str]:
    """Each block of a section, followed by an empty line."""
    for note in section.notes:
        yield from (note, "")
    if section.table:
        yield from (markdown_table(section.table), "")
    if section.items:
        yield from (*(f"- {item}" for item in section.items), "")
    if section.legend:
        yield from (*(f"- **{name}**: {meaning}" for name, meaning in section.legend), "")
