"""`ferdeploy score`: score a whole data set, on this machine or on a cluster."""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self, get_args

import click

from fer_deploy.cli.options import (
    FiniteRange,
    Millions,
    model_option,
    options_of,
    provider_option,
    restart_option,
    threads_option,
)
from fer_deploy.errors import printable
from fer_deploy.files import shown
from fer_deploy.score.options import InputKind, InputOptions, ScoreJob, WorkerOptions
from fer_deploy.score.watcher import ScoreWatcher

if TYPE_CHECKING:
    from fer_deploy.score.part import PartResult
    from fer_deploy.score.plan import ScorePlan
    from fer_deploy.score.run import ScoreSummary

EPILOG = """\b
Examples:
  ferdeploy score faces.parquet scores
  ferdeploy score photos/ scores --workers 8
  ferdeploy score s3://bucket/shards s3://bucket/scores --address auto

\b
INPUT is Parquet (a column of encoded pictures, of pixel values, or of Hugging Face images), a folder of pictures, or a
folder of WebDataset shards (.tar). Each picture shows one face.
OUTPUT becomes a folder of Parquet files with one row for each row of the input: label, probability, each
label's probability, and error if the picture could not be read.
Run the same command again after a crash or an interruption: finished parts are kept.
The exit code is 1 if a picture could not be read or a part could not be computed.
"""

_LISTED_PROBLEMS = 20
_SECONDS_BETWEEN_LINES = 60


@click.command("score", epilog=EPILOG)
@click.argument("input")
@click.argument("output")
@model_option
@click.option("--kind", type=click.Choice(get_args(InputKind)), help="What INPUT holds. Default: detected.")
@click.option("--keep", metavar="NAMES",
              help="Parquet columns to copy to OUTPUT, separated by commas; '' copies none. Default: all.")  # fmt: skip
@options_of(
    InputOptions,
    ["column", "rows_per_part", "block_rows", "maximum_pixels"],
    flags={"maximum_pixels": "--megapixels"},
    kinds={"rows_per_part": click.IntRange(1), "block_rows": click.IntRange(1), "maximum_pixels": Millions(0.001, 80)},
    into="options",
)
@options_of(
    WorkerOptions,
    ["workers", "part_minutes", "address"],
    kinds={"workers": click.IntRange(1), "part_minutes": FiniteRange(0.01, 100_000)},
    into="workers",
)
@threads_option(default=1, each="worker")
@provider_option
@restart_option
def command(
    input: str,
    output: str,
    model: Path | None,
    kind: InputKind | None,
    keep: str | None,
    options: InputOptions,
    workers: WorkerOptions,
    threads: int,
    providers: tuple[str, ...],
    restart: bool,
) -> None:
    """Score a whole data set of faces, on this machine or on a Ray cluster."""
    from fer_deploy.cli.errors import error_line

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with error_line(on_interrupt="Finished parts are kept: run the same command again to resume."):
        from fer_deploy.errors import UnavailableError, install

        try:
            from fer_deploy.score.run import run
        except ModuleNotFoundError as error:
            raise UnavailableError(f"{error.name} is not installed: {install('score')}") from error
        if keep is not None:
            options = dataclasses.replace(options, keep=tuple(filter(None, map(str.strip, keep.split(",")))))
        job = ScoreJob(
            input=input,
            output=output,
            model=None if model is None else str(model),
            kind=kind,
            options=options,
            workers=dataclasses.replace(workers, threads=threads, providers=providers or ("cpu",)),
            restart=restart,
        )
        with _Display() as display:
            summary = run(job, watcher=display)
        display.report(summary, output)
    sys.exit(0 if summary.is_whole and not summary.bad_rows else 1)


class _Display(ScoreWatcher):
    """Watches a run: a progress bar on a terminal; elsewhere a line every minute."""

    def __init__(self) -> None:
        from fer_deploy.cli.console import ProgressBar

        self._bar = ProgressBar(stderr=False)
        self._parts = self._done = self._rows = 0
        self._began = 0.0
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.close()

    def planned(self, plan: ScorePlan, *, done: int) -> None:
        """Show what will be computed, and what was left out of the plan."""
        rows = "an unknown number of rows" if plan.rows < 0 else _count(plan.rows, "row")
        self._bar.say(f"{plan.kind}: {_count(plan.parts, 'part')}, {rows}; model {shown(plan.model)}")
        if line := plan.left_out_line():
            self._bar.say(line)
        if done:
            self._bar.say(f"finished already: {_count(done, 'part')}")
        self._parts, self._done = plan.parts, done

    def part(self, result: PartResult) -> None:
        """Show that a part is finished, or its problem."""
        if result.problem:
            click.echo(f"error: {result.problem}", err=True)
            return
        now = time.monotonic()
        self._began = self._began or now - result.seconds
        self._done += 1
        self._rows += result.rows
        speed = f"{self._rows:,} rows, {self._rows / max(now - self._began, 1e-3):,.0f}/s"
        self._bar.update("parts", self._done, self._parts, note=speed)
        if not self._bar.visible and now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._bar.say(f"{self._done:,} of {self._parts:,} parts: {speed}")

    def message(self, text: str) -> None:
        """Show a line."""
        self._bar.say(text)

    def report(self, summary: ScoreSummary, output: str) -> None:
        """Show the outcome; problems go to stderr."""
        from fer_deploy.score.places import Place

        rate = f", {summary.rows_now / summary.seconds:,.0f} rows/s" if summary.rows_now else ""
        self._bar.say(
            f"{Place.of(output)}: {_count(summary.rows, 'row')} in {summary.parts_done:,} of "
            f"{_count(summary.parts, 'part')}; this run computed {_count(summary.rows_now, 'row')} in "
            f"{summary.seconds:.1f} s{rate}"
        )
        good = summary.rows - summary.bad_rows
        if good:
            self._bar.say(", ".join(f"{label} {count / good:.1%}" for label, count in summary.labels.items()))
        for problem in summary.problems[:_LISTED_PROBLEMS]:
            click.echo(f"error: {printable(problem)}", err=True)
        if (more := len(summary.problems) - _LISTED_PROBLEMS) > 0:
            click.echo(f"error: and {more:,} more: see {Place.of(output)}/_summary.json", err=True)
        if summary.bad_rows:
            click.echo(
                f"error: {summary.bad_rows:,} of {summary.rows:,} rows have no result: their column `error` gives the "
                f"reason, for example: {printable(summary.first_error)}",
                err=True,
            )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
