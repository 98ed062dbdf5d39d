"""`ferdeploy data`: what a data set holds, and what is wrong with it, before training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fer_deploy.cli.console import report_console, step_progress
from fer_deploy.cli.errors import error_line
from fer_deploy.cli.options import data_options, workspace_option

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fer_deploy.faces.request import DataRequest
    from fer_deploy.faces.summary import Summary
    from fer_deploy.faces.survey import Survey

BAR = 20
"""Characters of the longest bar."""

LISTED = 20
"""Unreadable files and pairs of copies that are printed; --json has all unreadable ones."""

EPILOG = """\b
Examples:
  ferdeploy data faces/                             a folder of folders: classes, splits, copies
  ferdeploy data faces/ --sheet faces.png           and a picture of each class to look at
  ferdeploy data raf-db/ --labels raf-db            numbered classes need their numbering
  ferdeploy data faces.csv --split "70/15/15 by=subject"
  ferdeploy data faces/ --json | jq .problems       for scripts; docs/own-data.md lists the keys

\b
Exit codes:
  0   train would take this data
  1   train would refuse it; the last lines give the reasons
  2   wrong usage
"""


@click.command("data", epilog=EPILOG)
@click.argument("path", required=False, metavar="[PATH]")
@data_options
@workspace_option
@click.option(
    "--sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Write a contact sheet: pictures of each class side by side.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(path: str | None, data: DataRequest, workspace: Path, sheet: Path | None, as_json: bool) -> None:
    """Show what a data set holds, and what is wrong with it, before training.

    PATH is what `train` takes as --data. All problems are shown at once: unreadable pictures, labels that are not
    understood, splits that are missing.
    """
    if path is not None and data.source is not None:
        raise click.UsageError("PATH and --data are the same: give one of the two")
    with error_line():
        from fer_deploy.faces.sheet import write_sheet
        from fer_deploy.faces.survey import survey_data

        request = data if path is None else replace(data, source=path)
        with step_progress() as progress:
            survey = survey_data(request, workspace=workspace, progress=progress)
            if sheet is not None:
                write_sheet(sheet, survey.bands())
        if as_json:
            click.echo(json.dumps(survey.summary.to_dict(), indent=1, ensure_ascii=False))
        else:
            _show(report_console(), survey)
            if sheet is not None:
                click.echo(f"wrote {sheet}")
    if survey.summary.problems:
        raise SystemExit(1)


def _show(console: Console, survey: Survey) -> None:
    from fer_deploy.errors import printable
    from fer_deploy.faces.summary import described_balance, described_copies, described_sizes

    summary = survey.summary

    def say(line: str, style: str | None = None) -> None:
        console.print(printable(line), style=style, markup=False, soft_wrap=True)

    say(f"{summary.name}: {summary.pictures:,} pictures, {len(summary.labels):,} classes", "bold")
    for note in summary.notes:
        say(f"  {note}")
    if summary.label_source:
        say(f"  labels: {summary.label_source}")
    if summary.pictures:
        console.print(_table(summary))
        say(f"pictures: {described_sizes(summary.sizes)}, {_colour(summary)}")
        if summary.sizes.small:
            say(f"small: {summary.sizes.small:,} pictures have a side of less than 48 pixels")
        if summary.balance:
            say(described_balance(summary.balance))
        if summary.blank:
            say(f"blank: {summary.blank:,} pictures have a single grey value")
        for line in described_copies(summary) or ["no copies"]:
            say(line)
        for first, second in (*summary.copies.examples, *summary.near_copies.examples)[:LISTED]:
            say(f"  {first} = {second}")
    if summary.left_out and not any(note.startswith("left out: ") for note in summary.notes):
        say("left out: " + ", ".join(f"{count:,} {reason}" for reason, count in summary.left_out.items()))
    if summary.unreadable:
        say(f"unreadable: {len(summary.unreadable):,} pictures", "red")
        for each in summary.unreadable[:LISTED]:
            say(f"  {each.reason}")
        if len(summary.unreadable) > LISTED:
            say(f"  and {len(summary.unreadable) - LISTED:,} more: --json lists them all")
    for problem in summary.problems:
        say(f"train would refuse this: {problem}", "red")


def _table(summary: Summary) -> Table:
    """The counts of each class and split, with a bar for the first split."""
    from rich.table import Table
    from rich.text import Text

    from fer_deploy.errors import printable

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("class", no_wrap=False, overflow="fold")
    for number, split in enumerate(summary.splits):
        table.add_column(split.title, justify="right", no_wrap=True)
        if not number:
            table.add_column("", no_wrap=True)
    most = max(1, *summary.splits[0].classes)
    for number, label in enumerate(summary.labels):
        counts = [f"{split.classes[number]:,}" for split in summary.splits]
        first = summary.splits[0].classes[number]
        bar = "█" * max(bool(first), round(BAR * first / most))
        table.add_row(Text(printable(label)), counts[0], bar, *counts[1:])
    sums = [f"{split.pictures:,}" for split in summary.splits]
    table.add_row("all", sums[0], "", *sums[1:], style="bold")
    return table


def _colour(summary: Summary) -> str:
    if not summary.colour:
        return "grey"
    which = "all" if summary.colour == summary.pictures else f"{summary.colour:,}"
    return f"{which} in colour, which networks see in grey"
