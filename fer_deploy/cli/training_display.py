"""What `ferdeploy train` shows: the plan, a live line a run, a line an epoch, and how it ended."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table

from fer_deploy.errors import FerDeployError
from fer_deploy.faces import Dataset
from fer_deploy.recipes import Recipe
from fer_deploy.training.curves import draw_curves
from fer_deploy.training.devices import choose_device, join_processes
from fer_deploy.training.estimate import epochs_left, measure_rate
from fer_deploy.training.fit import Outcome, Settings, train
from fer_deploy.training.plan import PlannedRun
from fer_deploy.training.run import Run
from fer_deploy.training.watcher import BatchReport, EpochRow, Silent, Watcher

SECONDS_BETWEEN_CURVES = 60.0
"""Drawing takes a third of a second: small networks' epochs are not much longer."""

SECONDS_TO_CLOSE = 2.0
"""Kept back of a limit of time for drawing the curves and leaving."""

console = Console(stderr=False)


def report_plan(
    plan: Sequence[PlannedRun],
    dataset: Dataset,
    *,
    workspace: Path,
    device: str,
    resume: bool,
    timed: bool,
) -> None:
    """Print what will be trained, on what, and where it is `timed` about how long that takes here.

    A few steps of each network are measured for that, which takes seconds.

    Raises:
        UnavailableError: the device asked for is not there.
    """
    where = choose_device(device)
    if not _writes():
        return
    counts = ", ".join(f"{len(dataset.split(name)):,} {name}" for name in ("training", "validation", "test"))
    left_out = int(dataset.copies.sum())
    name = escape(dataset.name)
    console.print(
        f"[bold]{name}[/]: {counts} faces; {left_out:,} training faces that equal a later one are left out",
        soft_wrap=True,
    )
    table = Table(box=None, padding=(0, 2), header_style="bold")
    for heading in ("run", "stages", "epochs", "faces to see", *(["time, about"] if timed else [])):
        table.add_column(heading, justify="left" if heading == "run" else "right", no_wrap=True)
    faces = len(dataset.training) - left_out
    rates: dict[str, float] = {}
    for run in plan:
        epochs = epochs_left(run.recipe, workspace / "training" / run.name) if resume else run.epochs
        most = "" if all(not stage.patience for stage in run.recipe.stages) else "≤ "
        about = "done"
        if epochs and timed:
            key = repr((run.recipe.network, run.recipe.stages[0].batch_size, run.recipe.stages[0].precision))
            if key not in rates:
                rates[key] = measure_rate(run.recipe, device=where)
            about = most + _duration(epochs * faces / rates[key])
        table.add_row(
            run.name,
            str(len(run.recipe.stages)),
            f"{most}{epochs}",
            f"{most}{epochs * faces:,}",
            *([about] if timed else []),
        )
    console.print(table)


def train_with_display(
    plan: Sequence[PlannedRun],
    dataset: Dataset,
    *,
    workspace: Path,
    device: str,
    resume: bool,
    deadline: float | None,
) -> int:
    """Train the planned runs one after another; a failed one does not stop the rest.

    Args:
        deadline: the time of `time.monotonic` before which all must have ended.

    Returns:
        How many failed.
    """
    failed: list[str] = []
    done: list[tuple[PlannedRun, Outcome]] = []
    where = choose_device(device)
    processes = join_processes(where)
    with stop_signals() as stop:
        for run in plan:
            left = None if deadline is None else deadline - time.monotonic()
            if processes.agree(stop.asked or (left is not None and left < 3 + SECONDS_TO_CLOSE), where):
                break
            limit = None if left is None else left - SECONDS_TO_CLOSE
            settings = Settings(seed=run.seed, device=device, restart=not resume, limit_seconds=limit)
            watcher: Watcher = _Display(run.name, workspace / "training" / run.name) if _writes() else Silent()
            try:
                outcome = train(
                    run.recipe, dataset, workspace=workspace, name=run.name, settings=settings,
                    watcher=watcher, should_stop=lambda: stop.asked,
                )  # fmt: skip
            except FerDeployError as error:
                _close(watcher)
                if len(plan) == 1:
                    raise
                failed.append(run.name)
                click.echo(f"error: {run.name}: {error}", err=True)
                continue
            except BaseException:
                _close(watcher)
                raise
            _close(watcher)
            done.append((run, outcome))
            if _writes():
                _report_end(run, outcome, workspace)
            if outcome.status == "stopped":
                break
    if _writes():
        report_seeds([(run, outcome.folder) for run, outcome in done if outcome.status != "stopped"])
    ended = {run.name for run, outcome in done if outcome.status != "stopped"}
    waiting = [run.name for run in plan if run.name not in ended and run.name not in failed]
    if waiting and _writes():
        console.print(f"Not finished: {', '.join(waiting)}. All is saved: give the same command again to go on.")
    if failed:
        click.echo(f"error: {len(failed)} of {len(plan)} runs failed: {', '.join(failed)}", err=True)
    if stop.asked:
        sys.exit(130)
    return len(failed)


class _Display:
    """A watcher that draws on the terminal; where there is none, it prints a line an epoch.

    `curves.png` follows the epochs, drawn again when the last drawing is old enough.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self._drawn = 0.0
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[words]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._first: tuple[int, int, float] | None = None
        """This epoch's first batch that was reported: epoch, batch, when. A run that goes on begins in mid-epoch."""

    def started(self, recipe: Recipe, *, device: str, epochs_done: int) -> None:  # noqa: ARG002
        """Say where it runs, and begin the live line."""
        resumed = f", going on after epoch {epochs_done}" if epochs_done else ""
        console.print(f"[bold]{self._name}[/] on {device}{resumed}")
        self._progress.start()
        self._task = self._progress.add_task(self._name, total=1.0, words="")

    def batch(self, report: BatchReport) -> None:
        """Move the live line."""
        if self._task is None or not console.is_terminal:
            return
        whole = report.epochs_planned * report.batches
        at = (report.epoch - 1) * report.batches + report.batch
        speed = report.images_per_second
        if self._first is None or self._first[0] != report.epoch:
            self._first = report.epoch, report.batch, time.monotonic()
        since = report.batch - self._first[1]
        estimate = (time.monotonic() - self._first[2]) / since * (whole - at) if since > 3 else 0.0
        loss = "" if report.loss is None else f"loss {report.loss:.3f}  "
        words = f"epoch {report.epoch}/{report.epochs_planned}  {loss}lr {report.lr:.1e}  {speed:,.0f} images/s"
        if estimate:
            words += f"  about {_duration(estimate)} left"
        self._progress.update(self._task, completed=at, total=whole, words=words)

    def epoch(self, row: EpochRow, *, best: bool) -> None:
        """Print the epoch's line."""
        mark = " [green]best[/]" if best else ""
        console.print(
            f"  epoch {row.epoch:3d}  stage {row.stage}  loss {row.training_loss:.4f}  "
            f"validation {row.validation_accuracy:.2%} (loss {row.validation_loss:.4f})  "
            f"{row.images_per_second:,.0f} images/s  {_duration(row.seconds)}{mark}",
            highlight=False,
            soft_wrap=True,
        )
        if time.monotonic() - self._drawn > SECONDS_BETWEEN_CURVES:
            draw_curves(self._folder)
            self._drawn = time.monotonic()

    def message(self, text: str) -> None:
        """Print the line."""
        console.print(f"  {text}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the live line away."""
        self._progress.stop()


def _close(watcher: Watcher) -> None:
    if isinstance(watcher, _Display):
        watcher.close()


def _report_end(run: PlannedRun, outcome: Outcome, workspace: Path) -> None:
    if outcome.status == "stopped":
        if outcome.epochs_run:
            draw_curves(outcome.folder)
        console.print(f"[bold]{run.name}[/] stopped after {outcome.epochs_run} epochs, saved.")
        return
    opened = Run.open(outcome.folder)
    accuracy = f"{opened.validation_accuracy:.2%} validation accuracy at epoch {opened.record['best']['epoch']}"
    if outcome.status == "already complete":
        console.print(f"[bold]{run.name}[/] is complete already: {accuracy}. --restart trains it again.")
        return
    draw_curves(outcome.folder)
    shown = outcome.folder.relative_to(workspace) if outcome.folder.is_relative_to(workspace) else outcome.folder
    console.print(
        f"[bold]{run.name}[/] complete: {accuracy}, in {_duration(opened.record['seconds'])}. {shown}/", soft_wrap=True
    )


def report_seeds(complete: Sequence[tuple[PlannedRun, Path]]) -> None:
    """Print mean and spread of the repeats among runs and their folders."""
    groups: dict[str, list[float]] = {}
    for run, folder in complete:
        if run.name.endswith(f".seed{run.seed}"):
            accuracy = Run.open(folder).validation_accuracy
            groups.setdefault(run.name.removesuffix(f".seed{run.seed}"), []).append(accuracy)
    for name, accuracies in groups.items():
        if len(accuracies) > 1:
            mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
            console.print(
                f"[bold]{name}[/]: {len(accuracies)} seeds, validation accuracy {mean:.2%} "
                f"± {deviation:.2%} (standard deviation), {min(accuracies):.2%} to {max(accuracies):.2%}"
            )


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _writes() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


class Stop:
    """Whether a stop was asked for, which the first to ask is told on the terminal too.

    The signal's handler only notes it: what a handler prints can land in the middle of a line that the program is
    printing, and where that is inside the write itself Python raises RuntimeError, which would end the run.
    """

    noted = False
    _told = False

    @property
    def asked(self) -> bool:
        """Whether Ctrl-C or SIGTERM came."""
        if self.noted and not self._told:
            self._told = True
            console.print("stopping after this batch…")
        return self.noted


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Let Ctrl-C and SIGTERM ask for a clean stop; a second Ctrl-C stops at once."""
    stop = Stop()

    def ask(number: int, _frame: object) -> None:
        if stop.noted and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.noted = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
