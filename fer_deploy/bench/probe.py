"""Load one model in a process of its own, to measure what loading costs in time and in memory.

`run_probe` runs `python -m fer_deploy.bench.probe WORKSPACE NAME PRECISION ENGINE THREADS`, which prints one line of
JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from fer_deploy.bench.report import SIDE, Load
from fer_deploy.bench.subjects import Subject, find_subjects
from fer_deploy.errors import FerDeployError, MeasurementError, one_line
from fer_deploy.machine import peak_memory_bytes
from fer_deploy.model.session import pad_batch

TIMEOUT_S = 300
"""Loading that takes longer is stopped."""


def run_probe(subject: Subject, engine: str, *, threads: int, workspace: Path) -> Load:
    """Load `subject` on `engine` in a fresh process; MeasurementError when that process fails."""
    name = str(subject.path) if subject.path else subject.name
    arguments = [str(workspace), name, subject.precision, engine, str(threads)]
    try:
        result = subprocess.run(
            [sys.executable, "-m", "fer_deploy.bench.probe", *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"loading took more than {TIMEOUT_S} s") from error
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise MeasurementError(f"loading in its own process failed: {one_line(reason)}")
    return Load(**json.loads(result.stdout.strip().splitlines()[-1]))


def main(workspace: str, name: str, precision: str, engine: str, threads: str) -> int:
    """Load a model, classify one face, and print a `Load` as JSON."""
    from fer_deploy.bench.engines import open_session

    try:
        subjects = find_subjects([name], workspace=Path(workspace))
        subject = next(subject for subject in subjects if subject.precision == precision)
        _import_engine(engine)
        start = time.perf_counter_ns()
        session = open_session(subject, engine, threads=int(threads))
        loaded = time.perf_counter_ns()
        face = np.full((1, session.axes.height or SIDE, session.axes.width or SIDE, 3), 128, dtype=np.uint8)
        session.download(session.compute(session.upload(pad_batch(face, session.fixed_batch))))
        session.synchronise()
        answered = time.perf_counter_ns()
    except FerDeployError as error:
        print(one_line(error, limit=300), file=sys.stderr)
        return 1
    load = {
        "load_ms": (loaded - start) / 1e6,
        "first_ms": (answered - loaded) / 1e6,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    print(json.dumps(load))
    return 0


def _import_engine(engine: str) -> None:
    """Import the engine's library before the clock starts, as a running program has done."""
    if engine.startswith("torch-"):
        import fer_deploy.export.build
        import fer_deploy.training.run  # noqa: F401
    elif engine == "openvino-cpu":
        import openvino  # noqa: F401
    else:
        import onnxruntime  # noqa: F401


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
