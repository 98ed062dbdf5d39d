"""A queue of runs: trains a plan in order or several at a time, each run after those that it depends on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol

from fer_deploy.recipes.write import recipe_to_toml
from fer_deploy.training.plan import PlannedRun
from fer_deploy.training.run import is_complete_run

LOOK_SECONDS = 0.1
"""Pause between two looks at the processes."""

End = Literal["complete", "stopped", "failed"]
"""How a run's training ended: `stopped` runs are saved and can be resumed."""


@dataclass(frozen=True)
class QueueResult:
    """What became of a plan's runs, each list in the plan's order."""

    complete: tuple[PlannedRun, ...]
    failed: tuple[PlannedRun, ...]
    unfinished: tuple[PlannedRun, ...]
    """Stopped, or not started."""

    @classmethod
    def of(cls, plan: Iterable[PlannedRun], ends: Mapping[str, End]) -> QueueResult:
        """The result of a plan, from the ends of those runs that were started, by name."""
        plan = tuple(plan)
        return cls(
            complete=tuple(run for run in plan if ends.get(run.name) == "complete"),
            failed=tuple(run for run in plan if ends.get(run.name) == "failed"),
            unfinished=tuple(run for run in plan if ends.get(run.name, "stopped") == "stopped"),
        )


class Job(Protocol):
    """A run that trains in another process."""

    def end(self) -> End | None:
        """How it ended; None while it runs."""

    def ask_to_stop(self) -> None:
        """Have it save and end soon."""


def ready(waiting: Sequence[PlannedRun], running: Sequence[str]) -> PlannedRun | None:
    """The first waiting run that depends on no run which is itself waiting or running."""
    to_come = {run.name for run in waiting} | set(running)
    for run in waiting:
        if not to_come & set(run.depends_on()):
            return run
    # Complete runs may name each other as teachers: then any of them can be first.
    return waiting[0] if waiting and not running else None


def without_students(waiting: Sequence[PlannedRun], unfinished: str) -> list[PlannedRun]:
    """The waiting runs that can still be trained when a run did not finish: neither its students nor theirs."""
    lost, left = {unfinished}, list[PlannedRun]()
    for run in waiting:
        if lost & set(run.depends_on()):
            lost.add(run.name)
        else:
            left.append(run)
    return left


def run_in_order(
    plan: Sequence[PlannedRun], train_run: Callable[[PlannedRun], End], *, may_start: Callable[[], bool]
) -> QueueResult:
    """Train runs one after another; a failed run stops only those that depend on it, a stopped one all.

    Args:
        plan: the runs, each after those that it depends on.
        train_run: trains one.
        may_start: whether another run may be started.
    """
    waiting, ends = list(plan), dict[str, End]()
    while waiting and may_start():
        run = waiting.pop(0)
        ends[run.name] = train_run(run)
        if ends[run.name] == "stopped":
            break
        if ends[run.name] == "failed":
            waiting = without_students(waiting, run.name)
    return QueueResult.of(plan, ends)


def run_side_by_side(
    plan: Sequence[PlannedRun],
    start: Callable[[PlannedRun], Job],
    *,
    at_once: int,
    may_start: Callable[[], bool],
    should_stop: Callable[[], bool],
) -> QueueResult:
    """Train runs in processes of their own, several at a time.

    Args:
        plan: the runs, each after those that it depends on.
        start: starts one.
        at_once: processes at a time.
        may_start: whether another run may be started; once it is False, no more are.
        should_stop: whether all must stop.
    """
    waiting, ends = list(plan), dict[str, End]()
    running: dict[str, Job] = {}
    asked_to_stop = False
    while waiting or running:
        if should_stop() and not asked_to_stop:
            asked_to_stop, waiting = True, []
            for job in running.values():
                job.ask_to_stop()
        for name, job in list(running.items()):
            if (end := job.end()) is not None:
                ends[name] = end
                del running[name]
                if end != "complete":
                    waiting = without_students(waiting, name)
        if not may_start():
            waiting = []
        while len(running) < at_once and (run := ready(waiting, list(running))):
            waiting.remove(run)
            running[run.name] = start(run)
        time.sleep(LOOK_SECONDS)
    return QueueResult.of(plan, ends)


class TrainingProcess:
    """A run that `ferdeploy train` trains in a process of its own."""

    def __init__(
        self,
        run: PlannedRun,
        options: Sequence[str],
        *,
        folder: Path,
        workspace: Path,
        restart: bool,
        show: Callable[[str, bool], None],
    ) -> None:
        """Start it.

        Args:
            run: what to train.
            options: more options of the command.
            folder: a temporary folder, for the recipe.
            workspace: holds the run's folder.
            restart: the run starts over, so that a complete record from before does not count.
            show: called with each line that the process prints, and whether it is an error; from other threads.
        """
        recipe = folder / f"{run.name}.toml"
        recipe.write_text(recipe_to_toml(run.recipe), encoding="utf-8")
        self._folder = workspace / "training" / run.name
        self._record_before = self._record_time() if restart else None
        command = [
            sys.executable,
            "-m",
            "fer_deploy",
            "train",
            str(recipe),
            "--name",
            run.name,
            "--seed",
            str(run.seed),
        ]
        command += ["--workspace", str(workspace), "--restart" if restart else "--resume", *options]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the parent alone, which passes it on once
        )

        def pass_on(stream: IO[str] | None, is_error: bool) -> None:
            has_begun = is_error
            for line in stream or ():
                has_begun = has_begun or line.startswith(f"{run.name} ")  # the parent has shown the plan already
                if has_begun and not line.startswith("Not finished"):
                    show(line.strip(), is_error)

        streams = ((self._process.stdout, False), (self._process.stderr, True))
        self._readers = [threading.Thread(target=pass_on, args=stream, daemon=True) for stream in streams]
        for reader in self._readers:
            reader.start()

    def end(self) -> End | None:
        """How the run ended; None while it trains."""
        code = self._process.poll()
        if code is None:
            return None
        for reader in self._readers:
            reader.join()
        if code not in (0, 130):
            return "failed"
        if self._record_before is not None and self._record_time() == self._record_before:
            return "stopped"  # before it could begin: the complete run is the old one
        return "complete" if is_complete_run(self._folder) else "stopped"

    def ask_to_stop(self) -> None:
        """Have the process save and end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def _record_time(self) -> int | None:
        """When the run's record was last written, in ns; None without one."""
        try:
            return (self._folder / "run.json").stat().st_mtime_ns
        except OSError:
            return None
