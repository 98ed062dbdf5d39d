"""`ferdeploy score`: a whole data set, on this machine or a cluster."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click

from fer_deploy.cli.options import FiniteRange

if TYPE_CHECKING:
    from rich.console import Console

    from fer_deploy.score.part import PartResult
    from fer_deploy.score.plan import Plan
    from fer_deploy.score.run import Summary

EPILOG = """\b
Examples:
  ferdeploy score faces.parquet scores
  ferdeploy score photos/ scores --workers 8
  ferdeploy score s3://bucket/shards s3://bucket/scores --address auto

\b
INPUT is Parquet (a column of encoded pictures, of pixels, or Hugging Face's images), a folder of pictures, or a folder
of WebDataset shards (.tar). Each picture is a face. OUTPUT becomes a folder of Parquet files: for each row of the input
one row, with label, probability, the seven probabilities, and error where the picture is bad.
Give the same command again after a stop or a crash: what is there is kept.
Exit code 1 when a picture was bad, or a part could not be done.
"""


@click.command("score", epilog=EPILOG)
@click.argument("input")
@click.argument("output")
@click.option("--model", type=click.Path(path_type=Path), help="An exported ONNX file. Default: the package's own.")
@click.option("--kind", type=click.Choice(["parquet", "images", "webdataset"]), help="What INPUT is. Default: found.")
@click.option("--column", default="", help="The column that holds the picture, or the ending of a shard's members.")
@click.option("--keep", metavar="NAMES", help="Columns of Parquet to pass on, with commas; '' for none. Default: all.")
@click.option("--workers", type=click.IntRange(1), help="Default: one a core of the machine or cluster.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of each worker.")
@click.option("--provider", default="cpu", show_default=True, help="Where to compute; any other takes a GPU a worker.")
@click.option("--address", default="", help="A Ray cluster's; 'auto' on one of its machines. Default: this machine.")
@click.option("--rows-per-part", type=click.IntRange(1), default=10_000, show_default=True,
              help="Rows to a file of the output, about; what a crash loses at most, a worker.")  # fmt: skip
@click.option("--block-rows", type=click.IntRange(1), default=512, show_default=True,
              help="Rows in a worker's memory at a time.")  # fmt: skip
@click.option("--megapixels", type=FiniteRange(0.001, 80), default=80.0, show_default=True,
              help="A larger picture is a bad one.")  # fmt: skip
@click.option("--restart", is_flag=True, help="Throw away what an earlier run left in OUTPUT.")
def command(
    input: str,
    output: str,
    model: Path | None,
    kind: str | None,
    column: str,
    keep: str | None,
    workers: int | None,
    threads: int,
    provider: str,
    address: str,
    rows_per_part: int,
    block_rows: int,
    megapixels: float,
    restart: bool,
) -> None:
    """Score a data set of faces, on this machine or a cluster; what was stopped goes on."""
    from fer_deploy.cli.errors import error_line

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with error_line(on_interrupt="All finished parts are kept: give the same command again to go on."):
        from fer_deploy.errors import UnavailableError, install

        try:
            from fer_deploy.score.run import Job, run
            from fer_deploy.score.sources import Options
        except ModuleNotFoundError as error:
            raise UnavailableError(f"{error.name} is not installed: {install('score')}") from error
        from rich.console import Console

        options = Options(
            rows_per_part=rows_per_part,
            block_rows=block_rows,
            column=column,
            keep=None if keep is None else tuple(name.strip() for name in keep.split(",") if name.strip()),
            maximum_pixels=int(megapixels * 1_000_000),
        )
        job = Job(
            input=input,
            output=output,
            model=None if model is None else str(model),
            kind=kind,
            options=options,
            workers=workers or 0,
            threads=threads,
            provider=provider,
            address=address,
            restart=restart,
        )
        watcher = _Progress(Console())
        with watcher:
            summary = run(job, watcher=watcher)
        watcher.report(summary, output)
    sys.exit(0 if summary.is_whole and not summary.bad_rows else 1)


class _Progress:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("parts"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"))
        self._console = console
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self._bar.add_task("parts", total=None, words="")
        self._rows = 0
        self._began = 0.0
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.stop()

    def planned(self, plan: Plan, *, done: int) -> None:
        """Say what will be done."""
        rows = "rows that are counted as they are read" if plan.rows < 0 else f"{plan.rows:,} rows"
        self._print(f"{plan.kind}: {plan.parts:,} parts, {rows}; model {plan.model}")
        if plan.left_out:
            what = ", ".join(f"{count:,} {name}" for name, count in plan.left_out.items())
            self._print(f"left out: {what}")
        if done:
            self._print(f"{done:,} parts are there already")
        self._bar.update(self._task, total=plan.parts, completed=done)
        self._parts, self._done = plan.parts, done

    def part(self, result: PartResult) -> None:
        """Move the bar."""
        if result.problem:
            click.echo(f"error: {result.problem}", err=True)
            return
        now = time.monotonic()
        self._began = self._began or now - result.seconds
        self._done += 1
        self._rows += result.rows
        speed = f"{self._rows:,} rows, {self._rows / max(now - self._began, 1e-3):,.0f}/s"
        self._bar.update(self._task, completed=self._done, words=speed)
        if not self._console.is_terminal and now - self._told > 60:
            self._told = now
            self._print(f"{self._done:,} of {self._parts:,} parts: {speed}")

    def message(self, text: str) -> None:
        """Show it."""
        self._print(text)

    def report(self, summary: Summary, output: str) -> None:
        """Say how it ended."""
        rate = f", {summary.rows_now / summary.seconds:,.0f} rows/s" if summary.rows_now else ""
        self._print(
            f"{summary.rows:,} rows in {output}, {summary.parts_done:,} of {summary.parts:,} parts; "
            f"{summary.rows_now:,} of them now, in {summary.seconds:.1f} s{rate}"
        )
        good = summary.rows - summary.bad_rows
        if good:
            self._print(", ".join(f"{label} {count / good:.1%}" for label, count in summary.labels.items()))
        for problem in summary.problems[:20]:
            click.echo(f"error: {problem}", err=True)
        if len(summary.problems) > 20:
            click.echo(f"error: and {len(summary.problems) - 20:,} more: see {output}/_summary.json", err=True)
        if summary.bad_rows:
            click.echo(
                f"error: {summary.bad_rows:,} of {summary.rows:,} rows have no result: their column `error` says why, "
                f"as in: {summary.first_error}",
                err=True,
            )

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
