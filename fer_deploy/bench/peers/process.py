"""A peer's worker process: a stream to time, and a scorer."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.bench.engines import FixedAxes
from fer_deploy.bench.latency import Block
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import MeasurementError, one_line
from fer_deploy.files import parse_json

TIMEOUT_S = 600.0
"""The longest wait for a worker's reply, in seconds: scoring a whole split is one command."""


class PeerProcess:
    """A running worker. Use it as a context manager, or `close` it.

    Attributes:
        facts: what the worker reported when it was ready: provider, bytes, params, load_ms, first_ms.
        fixed_batch: 1, since these packages take one face per call.
        axes: the same, and that the workers take faces of 48x48.
    """

    fixed_batch: int | None = 1
    axes = FixedAxes(1, 48, 48)

    def __init__(self, command: Sequence[str], *, threads: int, timeout_s: float = TIMEOUT_S) -> None:
        """Start `command` and wait until it is ready; MeasurementError where it cannot load its package."""
        self._folder = tempfile.TemporaryDirectory(prefix="ferdeploy-peer-")
        self._errors = (Path(self._folder.name) / "stderr").open("w+b")
        environment = {
            **os.environ,
            "FERDEPLOY_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "",
        }
        self._timeout_s = timeout_s
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment,
                text=True,
                encoding="utf-8",
            )
        except OSError as error:
            self._errors.close()
            self._folder.cleanup()
            raise MeasurementError(f"cannot start {command[0]}: {error.strerror or error}") from error
        Thread(target=self._listen, daemon=True).start()
        try:
            self.facts = _checked_facts(self._hear())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def score(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The package's answers to RGB faces, uint8 (n, 48, 48, 3), as float32 (n, 7)."""
        answers = Path(self._folder.name) / "answers"
        self._ask(do="score", path=self._put("score", faces), count=len(faces), to=str(answers))
        content = answers.read_bytes()
        if len(content) != len(faces) * len(EMOTIONS) * 4:
            raise MeasurementError(f"the worker wrote {len(content)} bytes, not the answers to {len(faces)} faces")
        return np.frombuffer(content, dtype=np.float32).reshape(len(faces), len(EMOTIONS)).copy()

    def use_faces(self, faces: NDArray[np.uint8]) -> None:
        """Time calls on these RGB faces, uint8 (n, 48, 48, 3), in turn."""
        self._ask(do="faces", path=self._put("faces", faces), count=len(faces))

    def time_calls(self, *, calls: int, warm_up: int) -> Block:
        """Time single calls inside the worker, without the pipe between the processes."""
        answer = self._ask(do="time", calls=calls, warm_up=warm_up)
        samples, wall, processor = answer.get("samples"), answer.get("wall"), answer.get("processor")
        is_valid = isinstance(samples, list) and len(samples) == calls and all(map(_is_count, (*samples, wall)))
        if not is_valid or not (processor is None or _is_count(processor)):
            raise MeasurementError(f"the worker replied {one_line(str(answer), limit=100)!r}, not {calls} times")
        return Block(tuple(answer["samples"]), answer["wall"], processor)

    def time_batches(self, *, batch: int, calls: int) -> int:
        """Wall time, ns, of `batch * calls` single calls: these packages take no batches."""
        return self.time_calls(calls=batch * calls, warm_up=0).wall

    def peak_memory_bytes(self) -> int | None:
        """The most memory that the worker has used, in bytes."""
        peak = self._ask(do="memory").get("peak_memory_bytes")
        return peak if _is_count(peak) else None

    def close(self) -> None:
        """End the worker; kill it if it does not exit within five seconds."""
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process.wait(timeout=5)
        except (subprocess.TimeoutExpired, OSError):
            self._process.kill()
            self._process.wait()
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._errors.close()
            self._folder.cleanup()

    def _put(self, name: str, faces: NDArray[np.uint8]) -> str:
        path = Path(self._folder.name) / name
        path.write_bytes(np.ascontiguousarray(faces, dtype=np.uint8).tobytes())
        return str(path)

    def _ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise MeasurementError(f"the worker has ended: {self._last_words()}") from None
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=self._timeout_s)
        except Empty:
            self._process.kill()
            raise MeasurementError(f"the worker did not reply for {self._timeout_s:.0f} s") from None
        if line is None:
            raise MeasurementError(f"the worker has ended: {self._last_words()}")
        source = f"the worker replied {one_line(line, limit=100)!r}"
        answer = parse_json(line, source=source, what="reply", error=MeasurementError)
        if not isinstance(answer, dict):
            raise MeasurementError(f"{source}, which is not a JSON object")
        if "error" in answer:
            raise MeasurementError(f"the package failed: {one_line(str(answer['error']))}")
        return answer

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._lines.put(line)
        except ValueError:  # the pipe was closed while it was read
            pass
        self._lines.put(None)

    def _last_words(self) -> str:
        try:
            lines = Path(self._errors.name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return one_line(lines[-1]) if lines else f"exit code {self._process.poll()}"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**15


def _checked_facts(answer: dict[str, Any]) -> dict[str, Any]:
    """What a worker reported when it was ready, each value of its type or absent."""
    times = {key: answer.get(key) for key in ("load_ms", "first_ms")}
    for key, value in times.items():
        if not isinstance(value, int | float) or not 0 <= value < 1e9:
            raise MeasurementError(f"the worker reported {key} {one_line(str(value), limit=40)}, which is not a time")
    counts = {key: answer[key] for key in ("bytes", "params") if _is_count(answer.get(key))}
    return {**times, **counts, "provider": one_line(str(answer.get("provider", "unknown")), limit=80)}
