"""Stop `ferdeploy bench` with signals at random times and check that nothing is half-written.

    python benchmarks/bench_kills.py --model exports/plain-distilled-2.onnx --times 20

A complete report is written first. Then the same command is started again and again and stopped with SIGINT, SIGTERM
and SIGKILL, half of the times at a random moment, the others as soon as it begins to write. After each stop every file
must be whole, and report.json and its pages must be of one run. SIGINT and SIGTERM must also leave no temporary files,
SIGKILL may leave some. It needs a POSIX system.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from fer_deploy.bench.report import load_report
from fer_deploy.errors import FerDeployError, MeasurementError

STARTED_AFTER_S = 0.3
"""Until then Python itself may still be starting, and answers Ctrl-C with a traceback of its own."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


@dataclass(frozen=True)
class Stopped:
    """One run that was stopped.

    Attributes:
        signal: the signal's name.
        while_writing: whether it was sent when the first temporary file appeared; otherwise at a random time.
        after_s: seconds from the start of the run.
        exit_code: the run's; 0 where the signal came too late.
        replaced: whether the report is the new run's.
        leftovers: temporary files in the output folder.
        problems: what was half-written; empty when all is well.
    """

    signal: str
    while_writing: bool
    after_s: float
    exit_code: int
    replaced: bool
    leftovers: int
    problems: tuple[str, ...]


def bench_command(workspace: Path, *, faces: int = 300) -> list[str]:
    """A short benchmark of everything in the workspace's exports/, on drawn faces."""
    return [
        sys.executable, "-m", "fer_deploy", "bench", "--workspace", str(workspace), "--data", f"synthetic:{faces}",
        "--engine", "ort-cpu", "--quick", "--samples", "8", "--seconds", "0.1", "--predictions",
    ]  # fmt: skip


def problems_of(folder: Path) -> list[str]:
    """What is half-written in an output folder."""
    try:
        report = load_report(folder / "report.json")
    except FerDeployError as error:
        return [str(error)]
    problems = []
    for name, end in (("report.md", "\n"), ("report.html", "</body></html>\n")):
        text = (folder / name).read_text(encoding="utf-8")
        if not text.endswith(end):
            problems.append(f"{name} is cut off")
        if f"measured {report.created}" not in text:
            problems.append(f"{name} belongs to another run than report.json")
    for row in report.rows:
        table = folder / "predictions" / f"{row.model}.{row.engine}.csv"
        if table.is_file() and report.data and len(table.read_text("utf-8").splitlines()) != 1 + report.data.rows:
            problems.append(f"{table.name} is cut off")
    return problems


def stop_once(
    command: Sequence[str], folder: Path, number: signal.Signals, *, after_s: float, while_writing: bool
) -> Stopped:
    """Start the command, stop it, and examine what it leaves.

    Args:
        command: writes a report into `folder`, where there is a complete one already.
        folder: its output.
        number: the signal.
        after_s: seconds to wait before the signal is sent, and before writing is waited for.
        while_writing: wait for the first temporary file after that, and send the signal then.
    """
    before = load_report(folder / "report.json").created
    for path in folder.rglob(".*.partial"):  # from an earlier kill
        path.unlink()
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        time.sleep(after_s)
        while while_writing and run.poll() is None and not list(folder.glob(".report.*.partial")):
            time.sleep(0.0005)
        run.send_signal(number)
        sent = time.monotonic()
        exit_code = run.wait(timeout=60)
    if exit_code not in (0, 130, -number):
        raise MeasurementError(f"after {number.name} the run ended with exit code {exit_code}")
    problems = problems_of(folder)
    leftovers = len(list(folder.rglob(".*.partial")))
    if leftovers and number != signal.SIGKILL:
        problems.append(f"{leftovers} temporary files are left")
    replaced = not problems and load_report(folder / "report.json").created != before
    return Stopped(number.name, while_writing, sent - began, exit_code, replaced, leftovers, tuple(problems))


@click.command()
@click.option("--model", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True)
@click.option("--times", type=click.IntRange(1), default=20, show_default=True, help="Stops with each signal.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the random moments.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write every stop to this file.")
def main(model: Path, times: int, seed: int, output: Path | None) -> None:
    """Stop a benchmark with three signals and count what is half-written."""
    generator = random.Random(seed)
    workspace = Path(tempfile.mkdtemp(prefix="ferdeploy-kills-"))
    stops: list[Stopped] = []
    try:
        (workspace / "exports").mkdir()
        shutil.copy(model, workspace / "exports" / "one.onnx")
        command, folder = bench_command(workspace), workspace / "benchmarks"
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        duration = time.monotonic() - began
        for index in range(times):
            for number in SIGNALS:
                while_writing = index % 2 == 1
                after = 0.0 if while_writing else generator.uniform(STARTED_AFTER_S, duration)
                stops.append(stop_once(command, folder, number, after_s=after, while_writing=while_writing))
                time.sleep(1.1 - time.monotonic() % 0.1)  # so that two runs never have the same second
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    click.echo(f"a whole run takes {duration:.1f} s")
    for number in SIGNALS:
        of_signal = [stop for stop in stops if stop.signal == number.name]
        problems = Counter(re.sub(r"\d+", "N", problem) for stop in of_signal for problem in stop.problems)
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(Counter(s.exit_code for s in of_signal).items()))
        click.echo(
            f"{number.name}: {len(of_signal)} stops, exit codes {codes}; {sum(s.replaced for s in of_signal)} reports "
            f"replaced, {sum(s.leftovers for s in of_signal)} temporary files left, {sum(problems.values())} problems"
            + "".join(f"\n  {count} x {problem}" for problem, count in problems.items())
        )
    if output is not None:
        output.write_text(json.dumps([asdict(stop) for stop in stops], indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if any(stop.problems for stop in stops) else 0)


if __name__ == "__main__":
    main()
