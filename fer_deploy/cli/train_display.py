"""What `ferdeploy train` shows: the plan, a live line per run, a line per epoch, and how it ended."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from fer_deploy.cli.console import ProgressBar, duration, report_console
from fer_deploy.errors import FerDeployError, TrainingError
from fer_deploy.faces import DataRequest, Dataset
from fer_deploy.faces.summary import UNBALANCED
from fer_deploy.machine import available_cores
from fer_deploy.recipes import Loss, Recipe
from fer_deploy.training.curves import draw_curves
from fer_deploy.training.data import check_labels_of, summary_of
from fer_deploy.training.devices import choose_device, join_processes, launcher_number
from fer_deploy.training.estimate import epochs_left, measure_rate
from fer_deploy.training.fit import Outcome, Settings, train
from fer_deploy.training.plan import PlannedRun
from fer_deploy.training.queue import End, QueueResult, TrainingProcess, run_in_order, run_side_by_side
from fer_deploy.training.record import required
from fer_deploy.training.run import Run
from fer_deploy.training.watcher import BatchReport, EpochRow, Silent, Watcher, Watchers

SECONDS_BETWEEN_CURVES = 60.0
"""Drawing takes a third of a second, and a small network's epoch not much longer."""

SECONDS_TO_CLOSE = 2.0
"""Part of a time limit that is reserved for drawing the curves and leaving."""

DEFAULT_WEIGHTS = Loss().class_weights

FEW_STEPS = 100
"""Fewer steps leave a network's batch norms near their initial statistics: it validates no better than chance."""

SECONDS_TO_START = 3.0
"""No run is started when less than this is left."""


@dataclass(frozen=True)
class TrainingCall:
    """The options that all runs of a call share."""

    workspace: Path
    data: DataRequest
    device: str
    threads: int | None
    restart: bool
    share: float
    at_once: int
    deadline: float | None
    """The time of `time.monotonic` before which all must have ended."""
    log: str | None = None
    """`tensorboard`, or None."""

    def seconds_left(self) -> float | None:
        """Until the deadline; None without one."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def has_time(self) -> bool:
        """Whether another run may be started."""
        left = self.seconds_left()
        return left is None or left >= SECONDS_TO_START + SECONDS_TO_CLOSE

    def folder(self, run: PlannedRun) -> Path:
        """A run's folder."""
        return self.workspace / "training" / run.name


def say(line: str) -> None:
    """Print one line of text with rich's markup, without wrapping it."""
    report_console().print(line, soft_wrap=True)


def report_plan(plan: Sequence[PlannedRun], dataset: Dataset, call: TrainingCall) -> None:
    """Print what will be trained, on what and, without a time limit, how long that takes here.

    For that, a few steps of each network are measured, which takes seconds.

    Raises:
        UnavailableError: the device is absent.
        RecipeError: a recipe does not fit the data's labels.
    """
    device = choose_device(call.device)
    for run in plan:
        check_labels_of(run.recipe, dataset)
    if not _writes():
        return
    counts = ", ".join(f"{len(dataset.split(name)):,} {name}" for name in ("training", "validation", "test"))
    left_out = int(dataset.copies.sum())
    copies = f"; {left_out:,} training faces that equal a validation or test face are left out" if left_out else ""
    say(f"[bold]{escape(dataset.name)}[/]: {counts} faces{copies}")
    for note in dataset.notes:
        say(f"note: {escape(note)}")
    left = [run.epochs if call.restart else epochs_left(run.recipe, call.folder(run)) for run in plan]
    faces = len(dataset.training) - left_out
    if any(left):
        _report_summary(plan, dataset)
        _report_few_steps([run for run, epochs in zip(plan, left, strict=True) if epochs], faces)
    estimated = call.deadline is None
    table = Table(box=None, padding=(0, 2), header_style="bold")
    for heading in ("run", "stages", "epochs", "faces to see", *(["time, about"] if estimated else [])):
        table.add_column(heading, justify="left" if heading == "run" else "right", no_wrap=True)
    rates: dict[str, float] = {}
    for run, epochs in zip(plan, left, strict=True):
        most = "≤ " if any(stage.patience or stage.goal for stage in run.recipe.stages) else ""
        cells = [run.name, str(len(run.recipe.stages)), f"{most}{epochs}", f"{most}{epochs * faces:,}"]
        if estimated:
            first = run.recipe.stages[0]
            key = repr((run.recipe.network, first.batch_size, first.precision))
            if epochs and key not in rates:
                rates[key] = measure_rate(run.recipe, device=device, classes=len(dataset.labels))
            cells.append(most + duration(epochs * faces / rates[key]) if epochs else "done")
        table.add_row(*cells)
    report_console().print(table)


def _report_summary(plan: Sequence[PlannedRun], dataset: Dataset) -> None:
    """Print what is in the data and whatever is unusual about it, with the remedy for unequal classes."""
    summary = summary_of(dataset)
    for line in summary.short():
        say(f"data: {escape(line)}")
    balance = summary.balance
    remedied = all(
        stage.sampler == "balanced" or stage.loss.class_weights != DEFAULT_WEIGHTS
        for run in plan
        for stage in run.recipe.stages
    )
    if not dataset.official and balance is not None and balance[1] >= UNBALANCED * max(1, balance[3]) and not remedied:
        say(
            "data: rare classes count more with --set 'stage.*.loss.class_weights=balanced' or "
            "--set 'stage.*.sampler=balanced', and with --set best_by=macro-f1"
        )


def _report_few_steps(plan: Sequence[PlannedRun], faces: int) -> None:
    """Name the runs that take too few steps to learn, as a small data set in large batches does, and the remedy."""
    for run in plan:
        stages = run.recipe.stages
        steps = sum(stage.length * max(1, faces // stage.batch_size) for stage in stages)
        if steps < FEW_STEPS:
            largest = max(stage.batch_size for stage in stages)
            remedy = "smaller batches (--batch-size 16) or more --epochs" if largest > 16 else "more --epochs"
            say(
                f"note: {escape(run.name)} takes {steps:,} steps in all (batches of {largest} of {faces:,} faces), "
                f"which is too few for most networks to learn: use {remedy}"
            )


def train_with_display(plan: Sequence[PlannedRun], dataset: Dataset, call: TrainingCall) -> int:
    """Train the planned runs, in order or side by side, and print how they went.

    Returns:
        How many failed.

    Raises:
        FerDeployError: the plan's only run failed.
    """
    with stop_signals() as stop:
        if call.at_once > 1 and len(plan) > 1:
            result = _side_by_side(plan, call, stop)
        else:
            result = _in_order(plan, dataset, call, stop)
    if _writes():
        report_seeds([(run, call.folder(run)) for run in result.complete])
        if result.unfinished:
            names = ", ".join(run.name for run in result.unfinished)
            say(f"Not finished: {names}. Everything is saved: run the same command again to resume.")
    if result.failed:
        names = ", ".join(run.name for run in result.failed)
        click.echo(f"error: {len(result.failed)} of {len(plan)} runs failed: {names}", err=True)
    if stop.asked:
        sys.exit(130)
    return len(result.failed)


def _in_order(plan: Sequence[PlannedRun], dataset: Dataset, call: TrainingCall, stop: Stop) -> QueueResult:
    device = choose_device(call.device)
    processes = join_processes(device)

    def train_run(run: PlannedRun) -> End:
        left = call.seconds_left()
        settings = Settings(
            seed=run.seed, device=call.device, restart=call.restart,
            limit_seconds=None if left is None else left - SECONDS_TO_CLOSE,
        )  # fmt: skip
        try:
            with _watching(run, call) as watcher:
                outcome = train(
                    run.recipe, dataset, workspace=call.workspace, name=run.name, settings=settings, watcher=watcher,
                    should_stop=lambda: stop.asked,
                )  # fmt: skip
        except FerDeployError as error:
            if len(plan) == 1:
                raise
            click.echo(f"error: {run.name}: {error}", err=True)
            return "failed"
        if _writes():
            _report_end(run, outcome, call.workspace)
        return "stopped" if outcome.status == "stopped" else "complete"

    return run_in_order(
        plan, train_run, may_start=lambda: not processes.agree(stop.asked or not call.has_time(), device)
    )


def _side_by_side(plan: Sequence[PlannedRun], call: TrainingCall, stop: Stop) -> QueueResult:
    if "RANK" in os.environ:
        raise TrainingError("--side-by-side: torchrun's processes train one run together: leave one of the two out")
    threads = call.threads or max(1, available_cores() // call.at_once)
    with tempfile.TemporaryDirectory(prefix="ferdeploy-") as folder:

        def start(run: PlannedRun) -> TrainingProcess:
            def show(line: str, is_error: bool) -> None:
                click.echo(f"{run.name}: {line.removeprefix('error: ')}", err=is_error)

            options = ["--threads", str(threads), "--device", call.device, "--share", str(call.share)]
            options += call.data.arguments()
            options += [] if call.log is None else ["--log", call.log]
            left = call.seconds_left()
            options += [] if left is None else ["--time-limit", f"{left:.1f}s"]
            return TrainingProcess(
                run, options, folder=Path(folder), workspace=call.workspace, restart=call.restart, show=show
            )

        return run_side_by_side(
            plan, start, at_once=call.at_once, may_start=call.has_time, should_stop=lambda: stop.asked
        )


@contextmanager
def _watching(run: PlannedRun, call: TrainingCall) -> Iterator[Watcher]:
    """A run's display, if this process has one."""
    if not _writes():
        yield Silent()
        return
    with ProgressBar(stderr=False) as bar:
        display = TrainingDisplay(run.name, call.folder(run), bar)
        if call.log is None:
            yield display
            return
        from fer_deploy.training.tensorboard import TensorBoardLog

        yield Watchers(display, TensorBoardLog(call.folder(run)))


class TrainingDisplay(Silent):
    """A watcher that draws on the terminal and prints a line per epoch.

    `curves.png` follows the epochs, drawn again when the last drawing is old enough.
    """

    def __init__(self, name: str, folder: Path, bar: ProgressBar) -> None:
        self._name = name
        self._folder = folder
        self._bar = bar
        self._drawn = 0.0
        self._by_macro_f1 = False

    def preparing(self, what: str, done: int, total: int) -> None:
        """Move the live line."""
        self._bar.update(what, done, total)

    def started(self, recipe: Recipe, *, device: str, epochs_done: int) -> None:
        """Print where it runs."""
        self._by_macro_f1 = recipe.best_by == "macro-f1"
        resumed = f", resuming after epoch {epochs_done}" if epochs_done else ""
        self._bar.say(f"{self._name} on {device}{resumed}")

    def batch(self, report: BatchReport) -> None:
        """Move the live line."""
        if not self._bar.visible:
            return
        total = report.epochs_planned * report.batches
        done = (report.epoch - 1) * report.batches + report.batch
        loss = "" if report.loss is None else f"loss {report.loss:.3f}  "
        note = f"lr {report.lr:.1e}  {report.images_per_second:,.0f} images/s"
        description = f"{self._name}  epoch {report.epoch}/{report.epochs_planned}"
        self._bar.update(description, done, total, note=loss + note)

    def epoch(self, row: EpochRow, *, best: bool) -> None:
        """Print the epoch's line."""
        macro_f1 = f", macro-F1 {row.validation_macro_f1:.2%}" if self._by_macro_f1 else ""
        self._bar.say(
            f"  epoch {row.epoch:3d}  stage {row.stage}  loss {row.training_loss:.4f}  "
            f"validation {row.validation_accuracy:.2%} (loss {row.validation_loss:.4f}{macro_f1})  "
            f"{row.images_per_second:,.0f} images/s  {duration(row.seconds)}{' best' if best else ''}"
        )
        if time.monotonic() - self._drawn > SECONDS_BETWEEN_CURVES:
            draw_curves(self._folder)
            self._drawn = time.monotonic()

    def message(self, text: str) -> None:
        """Print the line."""
        self._bar.say(f"  {text}")


def _report_end(run: PlannedRun, outcome: Outcome, workspace: Path) -> None:
    if outcome.status == "stopped":
        if outcome.epochs_run:
            draw_curves(outcome.folder)
        say(f"[bold]{run.name}[/] stopped after {outcome.epochs_run} epochs, saved.")
        return
    opened = Run.open(outcome.folder)
    epoch = required(opened.record, "best.epoch", outcome.folder / "run.json")
    accuracy = f"{opened.validation_accuracy:.2%} validation accuracy at epoch {epoch}"
    macro_f1 = opened.record["best"].get("validation_macro_f1")
    if macro_f1 is not None:
        accuracy = f"{macro_f1:.2%} validation macro-F1 and {accuracy}"
    if outcome.status == "already complete":
        say(f"[bold]{run.name}[/] is already complete: {accuracy}. --restart trains it again.")
        return
    draw_curves(outcome.folder)
    folder = outcome.folder.relative_to(workspace) if outcome.folder.is_relative_to(workspace) else outcome.folder
    seconds = duration(opened.record.get("seconds", 0))
    say(f"[bold]{run.name}[/] complete: {accuracy}, in {seconds}. {escape(str(folder))}/")


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
            say(
                f"[bold]{name}[/]: {len(accuracies)} seeds, validation accuracy {mean:.2%} "
                f"± {deviation:.2%} (standard deviation), {min(accuracies):.2%} to {max(accuracies):.2%}"
            )


def _writes() -> bool:
    """Whether this process is the one of several that prints."""
    return launcher_number("RANK", 0) == 0


class Stop:
    """Whether the user wants to stop. The first look at it that finds so prints a line.

    The signal's handler only sets a flag: what a handler prints can land in the middle of a line that the program is
    printing, and inside the write itself Python raises RuntimeError, which would end the run.
    """

    def __init__(self) -> None:
        self.signalled = False
        self._announced = False

    @property
    def asked(self) -> bool:
        """Whether Ctrl-C or SIGTERM came."""
        if self.signalled and not self._announced:
            self._announced = True
            say("stopping after this batch…")
        return self.signalled


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Let Ctrl-C and SIGTERM ask for a clean stop; a second Ctrl-C stops at once."""
    stop = Stop()

    def handle(number: int, _frame: object) -> None:
        if stop.signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signalled = True

    before: dict[int, Callable[..., object] | int | None] = {
        number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
