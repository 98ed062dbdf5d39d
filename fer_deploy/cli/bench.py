"""`ferdeploy bench`: measure models side by side, and write the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fer_deploy.cli.errors import error_line
from fer_deploy.cli.options import FiniteRange, data_option, open_data, workspace_option

if TYPE_CHECKING:
    from fer_deploy.bench.compare import Comparison
    from fer_deploy.bench.latency import LatencyPlan
    from fer_deploy.bench.pages import SortKey
    from fer_deploy.bench.report import Report
    from fer_deploy.bench.run import BenchResult


@click.command("bench")
@click.argument("names", nargs=-1, metavar="[NAME or FILE.onnx]...")
@data_option
@click.option(
    "--engine",
    "engines",
    multiple=True,
    metavar="NAME",
    help="ort-cpu, ort-cuda, …, torch-cpu, torch-cuda, torch-mps, each torch one also with -compiled, openvino-cpu; "
    "repeat for several; 'all' takes every one. Default: ort-cpu, torch-cpu, torch-cuda, torch-mps.",
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="NAME",
    help="Also measure another package in its own environment, which is installed on first use: fer, "
    "facial-emotion-recognition, facex, face-api; repeat for several.",
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A TOML file that says how to feed another's ONNX file; repeat for several.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads for every engine alike.")
@click.option("--samples", type=click.IntRange(8), help="Single calls timed a row at most. Default: 1000.")
@click.option("--seconds", type=FiniteRange(0.1), help="Time a row's single calls may take. Default: 6.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the order in which rows take turns."
)
@click.option("--quick", is_flag=True, help="Seconds instead of minutes: 500 faces, 40 samples, no p99.")
@click.option("--no-timing", is_flag=True, help="Score and count only.")
@click.option(
    "--sort",
    "by",
    type=click.Choice(["accuracy", "gflops", "efficiency", "latency", "name"]),
    default="accuracy",
    show_default=True,
    help="What rows are sorted by, within each engine.",
)
@click.option(
    "--compare",
    "old",
    type=click.Path(path_type=Path, dir_okay=False),
    help="An earlier report.json: say what changed, and exit 1 when something got worse; the earlier one then stays.",
)
@click.option(
    "--max-accuracy-loss",
    type=FiniteRange(0, 100),
    default=0.5,
    show_default=True,
    help="With --compare: points of accuracy that a row may lose.",
)
@click.option(
    "--max-slowdown",
    type=FiniteRange(1),
    default=1.1,
    show_default=True,
    help="With --compare: how many times the old median a row may take.",
)
@click.option(
    "--from",
    "report_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Measure nothing: show, write and compare this report.json.",
)
@click.option("--predictions", is_flag=True, help="Also write every face's answer, one CSV a row.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where report.json, report.md and report.html go. Default: benchmarks/ in the workspace.",
)
@workspace_option
def command(
    names: tuple[str, ...],
    data: str | None,
    engines: tuple[str, ...],
    peers: tuple[str, ...],
    adapters: tuple[Path, ...],
    threads: int,
    samples: int | None,
    seconds: float | None,
    seed: int,
    quick: bool,
    no_timing: bool,
    by: SortKey,
    old: Path | None,
    max_accuracy_loss: float,
    max_slowdown: float,
    report_path: Path | None,
    predictions: bool,
    output: Path | None,
    workspace: Path,
) -> None:
    """Measure accuracy, cost and latency of exported files and their runs, side by side.

    With no NAME, all of exports/ is measured. Accuracy needs FER2013 (--data); without it cost and times are measured,
    and accuracy is shown as the files record it.

    \b
    Examples:
      ferdeploy bench                                  all of exports/
      ferdeploy bench B+E --engine ort-cpu --threads 2
      ferdeploy bench B --engine all --quick
      ferdeploy bench --peer fer --peer face-api       with other packages in the same run
      ferdeploy bench --compare benchmarks/report.json exit 1 when something got worse
    """
    from fer_deploy.bench.compare import Limits, compare_reports
    from fer_deploy.bench.pages.terminal import render_report
    from fer_deploy.bench.report import load_report
    from fer_deploy.bench.save import save_pages, save_predictions
    from fer_deploy.cli.console import report_console

    folder = output or workspace / "benchmarks"
    with error_line(on_interrupt="Nothing was written."):
        earlier = load_report(old) if old else None  # before anything is measured, and before it is overwritten
        result = None
        if report_path is None:
            timing = None if no_timing else timing_plan(quick=quick, samples=samples, seconds=seconds, seed=seed)
            result = measure(
                names,
                engines=engines,
                peers=peers,
                adapters=adapters,
                threads=threads,
                timing=timing,
                quick=quick,
                data=data,
                workspace=workspace,
            )
        report = result.report if result else load_report(report_path) if report_path else None
        assert report is not None
        comparison = None
        if earlier:
            limits = Limits(accuracy_loss=max_accuracy_loss / 100, slowdown=max_slowdown)
            again = () if names or report_path else chosen_engines(engines)
            comparison = compare_reports(earlier, report, limits=limits, engines=again)
        worse = comparison is not None and bool(comparison.regressions)
        if worse and old and old.resolve() == (folder / "report.json").resolve():
            folder /= "worse"  # else the next run would be compared with this one, and find nothing
        written = save_pages(report, folder, by=by)  # before anything is shown: a closed pipe shall not lose it
        if predictions and result:
            written += save_predictions(result, folder / "predictions")
        console = report_console()
        console.print(render_report(report, width=console.width, by=by))
        click.echo("wrote " + ", ".join(str(path) for path in written))
        if comparison and earlier:
            show_comparison(comparison, earlier)
    if worse:
        raise SystemExit(1)


def chosen_engines(engines: tuple[str, ...]) -> tuple[str, ...]:
    """The engines that the words of --engine mean."""
    from fer_deploy.bench.engines import DEFAULT_ENGINES, ENGINES

    return tuple(dict.fromkeys(ENGINES if "all" in engines else engines or DEFAULT_ENGINES))


def timing_plan(*, quick: bool, samples: int | None, seconds: float | None, seed: int) -> LatencyPlan:
    """How much is timed, the user's own figures put in."""
    from dataclasses import replace

    from fer_deploy.bench.latency import QUICK, LatencyPlan

    plan = replace(QUICK if quick else LatencyPlan(), seed=seed)
    if samples is not None:
        plan = replace(plan, samples=samples)
    return plan if seconds is None else replace(plan, seconds=seconds)


def measure(
    names: tuple[str, ...],
    *,
    engines: tuple[str, ...],
    peers: tuple[str, ...],
    adapters: tuple[Path, ...],
    threads: int,
    timing: LatencyPlan | None,
    quick: bool,
    data: str | None,
    workspace: Path,
) -> BenchResult:
    """Run the benchmark, its progress on stderr."""
    from fer_deploy.bench.adapters import load_adapter
    from fer_deploy.bench.run import QUICK_ROWS, BenchPlan, run_bench
    from fer_deploy.cli.console import step_progress

    plan = BenchPlan(
        names=names,
        engines=chosen_engines(engines),
        threads=threads,
        latency=timing,
        dataset=open_data(data, workspace=workspace),
        max_rows=QUICK_ROWS if quick else None,
        probe=not quick and timing is not None,
        workspace=workspace,
        adapters=tuple(load_adapter(path) for path in adapters),
        peers=tuple(dict.fromkeys(peers)),
    )
    with step_progress(redraw_alone=False) as progress:
        return run_bench(plan, progress=progress)


def show_comparison(comparison: Comparison, old: Report) -> None:
    """Print what changed."""
    from fer_deploy.bench.compare import comparison_lines

    for line in comparison_lines(comparison):
        click.echo(line)
    worse = len(comparison.regressions)
    click.echo(f"{worse} regression{'s' if worse != 1 else ''} against the report of {old.created}")
