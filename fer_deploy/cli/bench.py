"""`ferdeploy bench`: measure models side by side, and write the report."""

from __future__ import annotations

from pathlib import Path

import click

from fer_deploy.cli.errors import error_line
from fer_deploy.cli.options import data_option, workspace_option


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
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads for every engine alike.")
@click.option("--samples", type=click.IntRange(8), help="Single calls timed a row at most. Default: 1000.")
@click.option("--seconds", type=click.FloatRange(0.1), help="Time a row's single calls may take. Default: 6.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order in which rows take turns.")
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
    threads: int,
    samples: int | None,
    seconds: float | None,
    seed: int,
    quick: bool,
    no_timing: bool,
    by: str,
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
    """
    from dataclasses import replace

    from fer_deploy.bench.engines import DEFAULT_ENGINES, ENGINES
    from fer_deploy.bench.latency import QUICK, LatencyPlan
    from fer_deploy.bench.run import QUICK_ROWS, BenchPlan, run_bench
    from fer_deploy.bench.save import save_all
    from fer_deploy.bench.table import render_report, report_console

    with error_line(on_interrupt="Nothing was written."):
        timing: LatencyPlan | None = replace(QUICK if quick else LatencyPlan(), seed=seed)
        assert timing is not None
        if samples is not None:
            timing = replace(timing, samples=samples)
        if seconds is not None:
            timing = replace(timing, seconds=seconds)
        chosen = tuple(dict.fromkeys(ENGINES if "all" in engines else engines or DEFAULT_ENGINES))
        plan = BenchPlan(
            names=names,
            engines=chosen,
            threads=threads,
            latency=None if no_timing else timing,
            dataset=find_data(data, workspace),
            max_rows=QUICK_ROWS if quick else None,
            probe=not quick and not no_timing,
            workspace=workspace,
        )
        from fer_deploy.cli.bench_display import bench_progress

        with bench_progress() as progress:
            result = run_bench(plan, progress=progress)
        console = report_console()
        console.print(render_report(result.report, width=console.width, by=by))  # type: ignore[arg-type]
        written = save_all(result, output or workspace / "benchmarks", by=by, predictions=predictions)  # type: ignore[arg-type]
        click.echo("wrote " + ", ".join(str(path) for path in written))


def find_data(data: str | None, workspace: Path):  # type: ignore[no-untyped-def]
    """The data set named by --data, else the default one where there is one, else None: then nothing is scored."""
    import os

    from fer_deploy.faces.load import load_dataset

    if data is None and not os.environ.get("FERDEPLOY_DATA") and not (workspace / "data").exists():
        return None
    return load_dataset(data, workspace=workspace)
