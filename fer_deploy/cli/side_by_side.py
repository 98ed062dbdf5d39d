"""`ferdeploy train --side-by-side N`: several runs at a time on one device, each in a process of its own.

A small network does not fill a large GPU: several do, each with its own Python. What is trained is what one run after
another gives; a run waits for its teachers. On a CPU the cores are shared out, which is seldom faster.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from fer_deploy.cli.training_display import SECONDS_TO_CLOSE, console, report_seeds, stop_signals
from fer_deploy.ensemble import member_runs
from fer_deploy.errors import RunError, TrainingError
from fer_deploy.recipes.write import recipe_to_toml
from fer_deploy.training.plan import PlannedRun
from fer_deploy.training.run import Run

LOOK_SECONDS = 0.1


@dataclass(frozen=True, eq=False)
class _Child:
    run: PlannedRun
    process: subprocess.Popen[str]
    threads: tuple[threading.Thread, ...]

    def ask_to_stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)


def train_side_by_side(
    plan: Sequence[PlannedRun],
    *,
    at_once: int,
    data: str | None,
    workspace: Path,
    device: str,
    threads: int | None,
    resume: bool,
    share: float,
    deadline: float | None,
) -> int:
    """Train the planned runs, `at_once` at a time; a failed one does not stop the rest.

    Args:
        at_once: processes at a time.
        data: as `--data`.
        threads: processor threads of each; by default the cores are shared out.
        share: of the training faces, as `--share`.
        deadline: the time of `time.monotonic` before which all must have ended.

    Returns:
        How many failed.

    Raises:
        TrainingError: torchrun or accelerate started this process; they share out a run, not runs.
    """
    if "RANK" in os.environ:
        raise TrainingError("--side-by-side: torchrun's processes train one run together: leave one of the two out")
    each = threads or max(1, (os.cpu_count() or 1) // at_once)
    waiting, running = list(plan), list[_Child]()
    failed: list[str] = []
    folders = {run.name: workspace / "training" / run.name for run in plan}
    before = {} if resume else {name: _written(folder) for name, folder in folders.items()}
    asked = False
    with tempfile.TemporaryDirectory(prefix="ferdeploy-") as folder, stop_signals() as stop:
        while waiting or running:
            if stop.asked and not asked:
                asked, waiting = True, []
                for child in running:
                    child.ask_to_stop()
            for child in [child for child in running if child.process.poll() is not None]:
                running.remove(child)
                for thread in child.threads:
                    thread.join()
                if child.process.returncode not in (0, 130):
                    failed.append(child.run.name)
                elif not _is_complete(folders[child.run.name]):
                    waiting = _without_pupils(waiting, child.run.name)
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left < 3 + SECONDS_TO_CLOSE:
                waiting = []
            while len(running) < at_once and (run := _ready(waiting, [child.run for child in running])):
                waiting.remove(run)
                words = ["--threads", str(each), "--device", device, "--workspace", str(workspace)]
                words += ["--resume" if resume else "--restart"]
                words += [] if data is None else ["--data", data]
                words += [] if share == 1 else ["--share", str(share)]
                words += [] if left is None else ["--time-limit", f"{left:.1f}s"]
                running.append(_start(run, words, folder=Path(folder)))
            time.sleep(LOOK_SECONDS)
    # of a restart, only what has been written since: a run that did not begin is still the complete one of before
    finished = [
        run
        for run in plan
        if run.name not in failed
        and (resume or _written(folders[run.name]) != before[run.name])
        and _is_complete(folders[run.name])
    ]
    report_seeds([(run, folders[run.name]) for run in finished])
    unfinished = [run.name for run in plan if run not in finished and run.name not in failed]
    if unfinished:
        console.print(f"Not finished: {', '.join(unfinished)}. All is saved: give the same command again to go on.")
    if failed:
        click.echo(f"error: {len(failed)} of {len(plan)} runs failed: {', '.join(failed)}", err=True)
    if stop.asked:
        sys.exit(130)
    return len(failed)


def _without_pupils(waiting: Sequence[PlannedRun], teacher: str) -> list[PlannedRun]:
    """Who can still begin where this teacher ran out of time: neither its pupils nor theirs."""
    gone, left = {teacher}, list[PlannedRun]()
    for run in waiting:
        if run.recipe.distillation and gone & set(member_runs(run.recipe.distillation.teachers)):
            gone.add(run.name)
        else:
            left.append(run)
    return left


def _ready(waiting: Sequence[PlannedRun], running: Sequence[PlannedRun]) -> PlannedRun | None:
    """The first run that waits for no teacher that is itself still to come or in training."""
    to_come = {run.name for run in (*waiting, *running)}
    for run in waiting:
        teachers = member_runs(run.recipe.distillation.teachers) if run.recipe.distillation else ()
        if not to_come & set(teachers):
            return run
    return None


def _start(run: PlannedRun, words: Sequence[str], *, folder: Path) -> _Child:
    """Begin a run in a process of its own; its lines come out here under its name."""
    recipe = folder / f"{run.name}.toml"
    recipe.write_text(recipe_to_toml(run.recipe), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "fer_deploy", "train", str(recipe), "--name", run.name, "--seed", str(run.seed), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C comes to this process alone, which passes it on once
    )

    def tell(lines: object, *, err: bool) -> None:
        begun = err
        for line in lines:  # type: ignore[attr-defined]
            begun = begun or line.startswith(f"{run.name} ")  # its plan has been shown here already
            if begun and not line.startswith("Not finished"):
                click.echo(f"{run.name}: {line.strip().removeprefix('error: ')}", err=err)

    readers = tuple(
        threading.Thread(target=tell, args=(stream,), kwargs={"err": err}, daemon=True)
        for stream, err in ((process.stdout, False), (process.stderr, True))
    )
    for reader in readers:
        reader.start()
    return _Child(run, process, readers)


def _written(folder: Path) -> int | None:
    """When a run's record was written last, in ns; None where there is none."""
    try:
        return (folder / "run.json").stat().st_mtime_ns
    except OSError:
        return None


def _is_complete(folder: Path) -> bool:
    try:
        Run.open(folder)
    except RunError:
        return False
    return True
