"""`ferdeploy bench`: measure models side by side, and write the report."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fer_deploy.bench.pages import SortKey
from fer_deploy.cli.errors import error_line
from fer_deploy.cli.options import (
    FiniteRange,
    data_options,
    open_data,
    options_of,
    threads_option,
    workspace_option,
)

if TYPE_CHECKING:
    from fer_deploy.bench.compare import Comparison
    from fer_deploy.bench.latency import LatencyPlan
    from fer_deploy.bench.report import Report
    from fer_deploy.bench.run import BenchResult
    from fer_deploy.faces import DataRequest
    from fer_deploy.faces.dataset import Dataset

EPILOG = """\b
Examples:
  ferdeploy bench                                  all of exports/
  ferdeploy bench B+E --engine ort-cpu --threads 2
  ferdeploy bench B --engine all --quick
  ferdeploy bench --peer fer --peer face-api       with other packages in the same run
  ferdeploy bench --compare benchmarks/report.json exit 1 when a figure got worse
"""


@dataclass(frozen=True)
class BenchOptions:
    """The choices of the command, other than names, data, threads and workspace."""

    engines: tuple[str, ...] = ()
    """Engine to measure on: ort-cpu, ort-cuda, …, torch-cpu, torch-cuda, torch-mps, each torch one also with -compiled,
    openvino-cpu, or all. Repeat it for several. Default: ort-cpu, torch-cpu, torch-cuda, torch-mps."""
    peers: tuple[str, ...] = ()
    """Other package to measure in the same run: fer, facial-emotion-recognition, facex, face-api. It is installed into
    an environment of its own on first use. Repeat it for several."""
    adapters: tuple[Path, ...] = ()
    """TOML file that describes how to feed another project's ONNX file. Repeat it for several."""
    samples: int | None = None
    """Most single calls to time per row. Default: 1000."""
    seconds: float | None = None
    """Most seconds for the single calls of one row. Default: 6."""
    seed: int = 0
    """Random seed for the measurement order."""
    quick: bool = False
    """Take seconds instead of minutes: 500 faces, 40 samples, no p99."""
    no_timing: bool = False
    """Measure accuracy and cost only."""
    by: SortKey = "accuracy"
    """Order of the rows of each engine."""
    earlier: Path | None = None
    """Earlier report.json to compare with. Exit 1 when a figure got worse; the earlier report is then kept."""
    max_accuracy_loss: float = 0.5
    """With --compare: percentage points of accuracy that a row may lose."""
    max_slowdown: float = 1.1
    """With --compare: how many times the earlier median time a row may take."""
    report: Path | None = None
    """Measure nothing: show, write and compare this report.json."""
    predictions: bool = False
    """Also write every face's probabilities, one CSV per row of the report."""
    output: Path | None = None
    """Folder for report.json, report.md and report.html. Default: benchmarks/ in the workspace."""


_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("bench", epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME or FILE.onnx]...")
@data_options
@options_of(
    BenchOptions,
    list(BenchOptions.__dataclass_fields__),
    flags={
        "engines": "--engine",
        "peers": "--peer",
        "adapters": "--adapter",
        "by": "--sort",
        "earlier": "--compare",
        "report": "--from",
    },
    kinds={
        "adapters": _FILE,
        "samples": click.IntRange(8, 1_000_000),
        "seconds": FiniteRange(0.1, 86_400),
        "seed": click.IntRange(0, 2**32 - 1),
        "earlier": _FILE,
        "max_accuracy_loss": FiniteRange(0, 100),
        "max_slowdown": FiniteRange(1),
        "report": _FILE,
        "output": click.Path(path_type=Path, file_okay=False),
    },
    into="options",
)
@threads_option(default=1)
@workspace_option
def command(names: tuple[str, ...], data: DataRequest, options: BenchOptions, threads: int, workspace: Path) -> None:
    """Measure accuracy, cost and latency of exported files and their runs, side by side.

    Without NAME, all of exports/ is measured. Accuracy needs data (--data); without it, cost and times are measured
    and accuracy is shown as the files record it. Models with other labels than the data's are left out.

    Exit 1 when a model has no figures: a file that failed, or a named one that was left out.
    A report is never replaced by one with fewer figures: that one goes to the subfolder partial/.
    """
    from fer_deploy.bench.compare import Limits, check_same_labels, compare_reports
    from fer_deploy.bench.report import load_report
    from fer_deploy.bench.save import check_folder, folder_for, save_pages, save_predictions

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped run ends its workers, as after Ctrl-C
    result: BenchResult | None = None
    wanted_folder = options.output or workspace / "benchmarks"
    with error_line(on_interrupt="Nothing was written."):
        check_folder(wanted_folder, predictions=options.predictions)
        earlier = load_report(options.earlier) if options.earlier else None  # before it may be replaced
        if options.report:
            report = load_report(options.report)
        else:
            dataset = open_data(data, workspace=workspace)
            if earlier and dataset:  # before minutes are spent on measuring
                check_same_labels(earlier, dataset.labels)
            result = _measure(names, dataset, options=options, threads=threads, workspace=workspace)
            report = result.report
        comparison = None
        if earlier:
            limits = Limits(accuracy_loss=options.max_accuracy_loss / 100, slowdown=options.max_slowdown)
            again = () if names or options.report else chosen_engines(options.engines)
            comparison = compare_reports(earlier, report, limits=limits, engines=again)
        failures = failed_models(report, named=bool(names)) if result else {}
        folder, kept = folder_for(
            report,
            wanted_folder,
            measured_all=bool(result and not names),
            baseline=options.earlier if comparison and comparison.regressions else None,
        )
    written: list[Path] = []
    with error_line(on_interrupt=f"The report in {folder} is whole, the new one or the one before."):
        if not result or len(failures) < len({row.model for row in report.rows}):
            # before anything is shown: a closed pipe must not lose the measurement
            try:
                written = save_pages(report, folder, by=options.by)
                if options.predictions and result:
                    written += save_predictions(result, folder / "predictions")
            except OSError:  # a full disk must not lose it either
                _show(report, by=options.by, written=written, kept="")
                raise
        _show(report, by=options.by, written=written, kept=kept if written else "")
        if comparison and earlier:
            _show_comparison(comparison, earlier)
    for model, status in failures.items():
        click.echo(f"error: {model}: {status}", err=True)
    if failures or (comparison and comparison.regressions):
        raise SystemExit(1)


def chosen_engines(engines: tuple[str, ...]) -> tuple[str, ...]:
    """The engines that the values of --engine mean."""
    from fer_deploy.bench.engines import DEFAULT_ENGINES, ENGINES

    return tuple(dict.fromkeys(ENGINES if "all" in engines else engines or DEFAULT_ENGINES))


def timing_plan(options: BenchOptions) -> LatencyPlan | None:
    """How much to time, with the user's own figures; None with --no-timing."""
    from dataclasses import replace

    from fer_deploy.bench.latency import QUICK, LatencyPlan

    if options.no_timing:
        return None
    plan = replace(QUICK if options.quick else LatencyPlan(), seed=options.seed)
    if options.samples is not None:
        plan = replace(plan, samples=options.samples)
    return plan if options.seconds is None else replace(plan, seconds=options.seconds)


def failed_models(report: Report, *, named: bool) -> dict[str, str]:
    """The models that have figures on no engine, each with the first reason.

    In a run without names, files that were left out and unfinished runs are no failures, unless no row has figures.
    Peers are always named.
    """
    from fer_deploy.bench.report import LEFT_OUT, OK, PEER

    measured = {row.model for row in report.rows if row.status == OK}
    return {
        row.model: row.status
        for row in reversed(report.rows)
        if row.model not in measured
        and (named or row.engine == PEER or not measured or (row.kind != "run" and not row.status.startswith(LEFT_OUT)))
    }


def _measure(
    names: tuple[str, ...], dataset: Dataset | None, *, options: BenchOptions, threads: int, workspace: Path
) -> BenchResult:
    """Run the benchmark, with its progress on stderr."""
    from fer_deploy.bench.adapters import load_adapter
    from fer_deploy.bench.run import QUICK_ROWS, BenchPlan, run_bench
    from fer_deploy.cli.console import step_progress

    timing = timing_plan(options)
    plan = BenchPlan(
        names=names,
        engines=chosen_engines(options.engines),
        threads=threads,
        latency=timing,
        dataset=dataset,
        max_rows=QUICK_ROWS if options.quick else None,
        probe=not options.quick and timing is not None,
        workspace=workspace,
        adapters=tuple(load_adapter(path) for path in options.adapters),
        peers=tuple(dict.fromkeys(options.peers)),
    )
    # a bar that redraws itself in a thread would take time from what is being measured
    with step_progress(redraw_alone=False) as progress:
        return run_bench(plan, progress=progress)


def _show(report: Report, *, by: SortKey, written: list[Path], kept: str) -> None:
    """Print the table, the files written, and why they are not where the user expects them."""
    from fer_deploy.bench.pages.terminal import render_report
    from fer_deploy.cli.console import report_console

    console = report_console()
    console.print(render_report(report, width=console.width, by=by))
    if written:
        click.echo("wrote " + ", ".join(str(path) for path in written))
    if kept:
        click.echo(f"note: {kept}", err=True)


def _show_comparison(comparison: Comparison, earlier: Report) -> None:
    """Print what changed."""
    from fer_deploy.bench.compare import comparison_lines

    for line in comparison_lines(comparison):
        click.echo(line)
    worse = len(comparison.regressions)
    click.echo(f"{worse} regression{'s' if worse != 1 else ''} against the report of {earlier.created}")
