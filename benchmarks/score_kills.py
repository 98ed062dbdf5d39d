"""Kill `ferdeploy score` and check that no row is lost or doubled: `python benchmarks/score_kills.py`.

It writes a data set of drawn faces, starts `ferdeploy score` on it, kills a worker with SIGKILL, then the driver, and
runs the same command again. Each row of the input must then be in the output once, with the same answer as from a
direct call of the model. With `--time-rows` it also times whole runs with one worker and with several.
It needs Linux: it finds Ray's processes in /proc.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from drawn_faces import encoded_faces
from numpy.typing import NDArray

from fer_deploy.errors import MeasurementError, UnavailableError
from fer_deploy.recognizer import Recognizer
from fer_deploy.score.places import Place
from fer_deploy.score.plan import open_plan

_WORKER = "_Scorer"  # Ray gives its workers a title with the class's name
_POLL_SECONDS = 0.02
_FILE_ROWS = 20_000


@dataclass(frozen=True)
class Counted:
    """An output compared with its input.

    Attributes:
        rows: rows in the output.
        lost: rows of the input that are missing.
        doubled: repetitions of rows.
        wrong: rows whose label or probabilities differ from a direct call of the model.
    """

    rows: int
    lost: int
    doubled: int
    wrong: int


@dataclass(frozen=True)
class Killed:
    """A run whose worker and driver were killed, and which was resumed.

    Attributes:
        parts: parts of the plan.
        parts_at_worker_kill: parts finished when the worker was killed.
        parts_at_driver_kill: parts finished when the driver was killed.
        seconds_to_vanish: time from the driver's death until its last worker ended. (Two idle agents of Ray, which
            write nothing, end a minute later.)
        seconds_first: duration of the first command, until it was killed.
        seconds_second: duration of the second command.
        largest_worker_mb: most resident memory of one worker, sampled after each part.
        driver_mb: most resident memory of the driver.
    """

    parts: int
    parts_at_worker_kill: int
    parts_at_driver_kill: int
    seconds_to_vanish: float
    seconds_first: float
    seconds_second: float
    largest_worker_mb: float
    driver_mb: float


@dataclass(frozen=True)
class Timed:
    """A whole run.

    Attributes:
        workers: number of workers.
        rows: rows scored.
        seconds: as `ferdeploy score` reports them: without Ray's start.
        rows_per_second: rows / seconds.
    """

    workers: int
    rows: int
    seconds: float
    rows_per_second: float


def write_input(folder: Path, rows: int, *, different: int = 2000, seed: int = 0) -> list[bytes]:
    """Write Parquet files of encoded faces (JPEG, 48x48, grey), with rows numbered from 0.

    Returns:
        The different pictures; row i holds number i modulo their count.
    """
    contents = encoded_faces(min(different, rows), seed=seed)
    folder.mkdir(parents=True)
    for first in range(0, rows, _FILE_ROWS):
        numbers = range(first, min(rows, first + _FILE_ROWS))
        pictures = pa.array([contents[number % len(contents)] for number in numbers], pa.binary())
        table = pa.table({"image": pictures, "number": pa.array(numbers, pa.int64())})
        pq.write_table(table, folder / f"faces-{first:08d}.parquet", row_group_size=1000)
    return contents


def count_output(folder: Path, rows: int, expected: NDArray[np.float32], labels: Sequence[str]) -> Counted:
    """Compare an output with the input that `write_input` wrote.

    Args:
        folder: the output.
        rows: rows of the input.
        expected: float32 (n, labels), the model's direct answers for the different pictures.
        labels: the model's labels.
    """
    seen = np.zeros(rows, np.int64)
    total = wrong = 0
    for path in sorted(folder.glob("part-*.parquet")):
        table = pq.read_table(path)
        number = table.column("number").to_numpy()
        total += len(number)
        np.add.at(seen, number, 1)
        answers = expected[number % len(expected)]
        values = np.stack([table.column(label).to_numpy() for label in labels], axis=1)
        named = np.array(
            [labels.index(label) if label in labels else -1 for label in table.column("label").to_pylist()]
        )
        # Another batch size may round the last digit differently, which can change a label only at a tie.
        same = np.abs(values - answers).max(axis=1, initial=0) < 1e-5
        wrong += int((~(same & (values[np.arange(len(named)), named] >= values.max(axis=1, initial=0)))).sum())
    return Counted(total, int((seen == 0).sum()), int(np.maximum(seen - 1, 0).sum()), wrong)


def kill_and_resume(command: Sequence[str], output: Path) -> Killed:
    """Run a command of `ferdeploy score`, kill a worker, then the driver, and run it again to the end.

    Args:
        command: the whole command line.
        output: the folder that it writes.

    Returns:
        What happened.

    Raises:
        MeasurementError: the run ended too early, did not continue after the worker's death, or failed the second time.
    """
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as driver:
        try:
            parts = _wait_for_plan(driver, output)
            at_worker = _wait_for_parts(driver, output, max(1, parts // 10), parts)
            worker = next(_workers(driver.pid), None)
            if worker is None:
                raise MeasurementError("found no Ray worker in /proc")
            os.kill(worker, signal.SIGKILL)
            largest = 0.0
            driver_mb = 0.0
            for goal in range(at_worker + 1, max(at_worker + 1, parts * 4 // 10) + 1):
                at_driver = _wait_for_parts(driver, output, goal, parts)
                largest = max([largest, *map(_resident_mb, _workers(driver.pid))])
                driver_mb = max(driver_mb, _resident_mb(driver.pid))
            workers = list(_workers(driver.pid))
        finally:
            driver.kill()
            died = time.monotonic()
        driver.wait()
    while any(_lives(pid) for pid in workers):
        if time.monotonic() > died + 60:
            raise MeasurementError("its workers still run a minute after the driver was killed")
        time.sleep(_POLL_SECONDS)
    gone = time.monotonic()
    at_driver = len(list(output.glob("part-*.parquet")))
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    if again.returncode != 0:
        raise MeasurementError(f"the second run ended with exit code {again.returncode}: {again.stderr[-500:]}")
    if f"finished already: {at_driver:,} part" not in again.stdout:
        raise MeasurementError(f"the second run did not keep the {at_driver} parts of the first: {again.stdout[-500:]}")
    return Killed(
        parts, at_worker, at_driver, gone - died, died - began, time.monotonic() - gone,
        largest, driver_mb,
    )  # fmt: skip


def _wait_for_plan(driver: subprocess.Popen[str], output: Path) -> int:
    """Wait for the run's plan; returns its number of parts."""
    until = time.monotonic() + 120
    while (plan := open_plan(Place.of(str(output)))) is None:
        if driver.poll() is not None or time.monotonic() > until:
            raise MeasurementError(f"the run made no plan, exit code {driver.poll()}")
        time.sleep(_POLL_SECONDS)
    return plan.parts


def _wait_for_parts(driver: subprocess.Popen[str], output: Path, goal: int, parts: int) -> int:
    until = time.monotonic() + 300
    while (count := len(list(output.glob("part-*.parquet")))) < goal:
        if driver.poll() is not None:
            errors = driver.stderr.read() if driver.stderr else ""
            raise MeasurementError(f"the run ended before it could be killed, exit code {driver.returncode}: {errors}")
        if time.monotonic() > until:
            raise MeasurementError(f"after 300 s there are {count} of {parts} parts: the run has stopped")
        time.sleep(_POLL_SECONDS)
    if count >= parts:
        raise MeasurementError(f"all {parts} parts were written before anything could be killed: raise --rows")
    return count


def _descendants(pid: int) -> Iterator[tuple[int, str]]:
    """All descendants of a process, each with its title."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.name))
    waiting = list(children.get(pid, ()))
    while waiting:
        child = waiting.pop()
        waiting += children.get(child, ())
        with suppress(OSError):
            title = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            yield child, title


def _workers(pid: int) -> Iterator[int]:
    return (child for child, title in _descendants(pid) if title.startswith("ray::") and _WORKER in title)


def _lives(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def _resident_mb(pid: int) -> float:
    with suppress(OSError):
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) / 1000 if found else 0.0
    return 0.0


def time_run(command: Sequence[str], *, workers: int) -> Timed:
    """Run the command, and read its own timing.

    Raises:
        MeasurementError: it failed.
    """
    done = subprocess.run([*command, "--workers", str(workers)], capture_output=True, text=True, check=False)
    found = re.search(r"this run computed ([\d,]+) rows? in ([\d.]+) s", done.stdout)
    if done.returncode != 0 or found is None:
        raise MeasurementError(f"the run ended with exit code {done.returncode}: {done.stderr[-500:]}")
    rows, seconds = int(found[1].replace(",", "")), float(found[2])
    return Timed(workers, rows, seconds, rows / seconds)


@click.command()
@click.option("--model", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True)
@click.option("--rows", type=click.IntRange(0), default=200_000, show_default=True,
              help="Faces of the killed run; 0 skips it.")  # fmt: skip
@click.option("--time-rows", type=click.IntRange(0), default=0, show_default=True,
              help="Faces of the timed runs; 0 skips them.")  # fmt: skip
@click.option("--rows-per-part", type=click.IntRange(1), default=2000, show_default=True)
@click.option("--workers", type=click.IntRange(2), default=2, show_default=True,
              help="Workers of the killed run; the timed runs have 1 and this many.")  # fmt: skip
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Work in this folder, and keep it.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Also write the figures to this file.")
def main(
    model: Path,
    rows: int,
    time_rows: int,
    rows_per_part: int,
    workers: int,
    folder: Path | None,
    report: Path | None,
) -> None:
    """Kill a run's worker and its driver, resume it, and count the rows; time runs with one worker and with several."""
    if not Path("/proc/self/stat").exists():
        raise UnavailableError("Ray's processes are found in /proc: run this on Linux")
    figures: dict[str, object] = {}
    is_right = True

    def command(name: str) -> list[str]:
        return [sys.executable, "-m", "fer_deploy", "score", str(place / f"{name}-in"), str(place / f"{name}-out"),
                "--model", str(model), "--rows-per-part", str(rows_per_part)]  # fmt: skip

    place = folder or Path(tempfile.mkdtemp(prefix="ferdeploy-trial-"))
    try:
        if time_rows:
            write_input(place / "timed-in", time_rows)
            timed = []
            for count in (1, workers):
                timed.append(time_run(command("timed"), workers=count))
                shutil.rmtree(place / "timed-out")
                one = timed[-1]
                click.echo(f"{count} worker{'s' * (count > 1)}: {one.rows:,} rows in {one.seconds:.1f} s, "
                           f"{one.rows_per_second:,.0f} rows/s")  # fmt: skip
            figures["timed"] = [asdict(one) for one in timed]
        if rows:
            contents = write_input(place / "killed-in", rows)
            recognizer = Recognizer(model, threads=1)
            direct = recognizer.predict(contents)
            expected = np.array([list(face.probabilities.values()) for face in direct], np.float32)
            killed = kill_and_resume([*command("killed"), "--workers", str(workers)], place / "killed-out")
            counted = count_output(place / "killed-out", rows, expected, recognizer.labels)
            figures["killed"] = asdict(killed) | asdict(counted)
            is_right = not (counted.lost or counted.doubled or counted.wrong)
            click.echo(
                f"{rows:,} rows in {killed.parts} parts: a worker killed after {killed.parts_at_worker_kill} parts, "
                f"the driver after {killed.parts_at_driver_kill}; the workers were gone after "
                f"{killed.seconds_to_vanish:.1f} s; {killed.seconds_first:.1f} s, then {killed.seconds_second:.1f} s; "
                f"a worker held at most {killed.largest_worker_mb:.0f} MB, the driver {killed.driver_mb:.0f} MB"
            )
            click.echo(f"{counted.rows:,} rows in the output: {counted.lost} lost, {counted.doubled} doubled, "
                       f"{counted.wrong} wrong")  # fmt: skip
        if report is not None:
            report.write_text(json.dumps(figures, indent=2) + "\n")
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
