"""The part of a peer that runs in the peer's environment: it knows the package and does not import ferdeploy.

The peer's `worker_*.py` imports it; it needs NumPy alone. Commands are JSON lines on standard input, answers are JSON
lines on the original standard output. Whatever the package prints goes to standard error.

    {"do": "faces", "path": RAW, "count": N}              uint8 (N, 48, 48, 3), RGB; later calls take them in turn
    {"do": "score", "path": RAW, "count": N, "to": RAW}   writes float32 (N, 7)
    {"do": "time", "calls": N, "warm_up": W}              {"samples": [ns, ...], "wall": ns, "processor": ns}
    {"do": "memory"}                                      {"peak_memory_bytes": N or null}
    {"do": "quit"}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The seven labels in FER2013's order, repeated here because this file runs without ferdeploy."""

SIDE = 48


def serve(
    load: Callable[
        [int], tuple[Callable[[Any], Any], Callable[[np.ndarray], Any], Callable[[Any], Any], dict[str, Any]]
    ],
) -> None:
    """Answer commands until `quit` or the end of input.

    Args:
        load: takes the number of threads and returns (call, prepare, read, facts). `prepare` turns one face, uint8
            (48, 48, 3) RGB, into the package's input; `call` is the package's call, which alone is timed; `read` turns
            its answer into seven numbers in the order of LABELS. `facts` goes into the report.
    """
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**values: Any) -> None:
        channel.write(json.dumps(values) + "\n")
        channel.flush()

    try:
        start = time.perf_counter_ns()
        call, prepare, read, facts = load(int(os.environ.get("FERDEPLOY_THREADS", "1")))
        loaded = time.perf_counter_ns()
        read(call(prepare(np.full((SIDE, SIDE, 3), 128, dtype=np.uint8))))
        say(ready=True, load_ms=(loaded - start) / 1e6, first_ms=(time.perf_counter_ns() - loaded) / 1e6, **facts)
    except Exception as error:
        say(error=f"{type(error).__name__}: {error}")
        return
    faces = np.zeros((1, SIDE, SIDE, 3), dtype=np.uint8)
    position = 0
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["do"] == "quit":
                return
            if command["do"] == "faces":
                faces, position = _read(command), 0
                say(done=True)
            elif command["do"] == "score":
                answers = np.array([read(call(prepare(face))) for face in _read(command)], dtype=np.float32)
                Path(command["to"]).write_bytes(answers.tobytes())
                say(done=True)
            elif command["do"] == "time":
                count = command["warm_up"] + command["calls"]
                inputs = [prepare(faces[(position + index) % len(faces)]) for index in range(count)]
                position = (position + count) % len(faces)
                say(**_time(call, inputs, command["warm_up"]))
            elif command["do"] == "memory":
                say(peak_memory_bytes=_peak())
            else:
                say(error=f"unknown command {command['do']!r}")
        except Exception as error:
            say(error=f"{type(error).__name__}: {error}")


def in_order(scores: dict[str, float], names: dict[str, str]) -> list[float]:
    """A package's scores by its own labels, as seven numbers in the order of LABELS that sum to one."""
    values = [float(scores[names[label]]) for label in LABELS]
    total = sum(values)
    return [value / total for value in values] if total > 0 else [1 / len(LABELS)] * len(LABELS)


def _read(command: dict[str, Any]) -> np.ndarray:
    content = Path(command["path"]).read_bytes()
    return np.frombuffer(content, dtype=np.uint8).reshape(command["count"], SIDE, SIDE, 3)


def _time(call: Callable[[Any], Any], inputs: list[Any], warm_up: int) -> dict[str, Any]:
    clock = time.perf_counter_ns
    for face in inputs[:warm_up]:
        call(face)
    samples = []
    processor = time.process_time_ns()
    start = clock()
    for face in inputs[warm_up:]:
        before = clock()
        call(face)
        samples.append(clock() - before)
    return {"samples": samples, "wall": clock() - start, "processor": time.process_time_ns() - processor}


def _peak() -> int | None:
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
