"""ONNX Runtime in a process of its own, because a damaged model file can end the process that opens it.

`python fuzz/runtime_process.py` reads paths of model files, a line each, and answers each with a line: `read`,
`refused`, or `fault: ...` with a traceback in JSON, where the package lets anything but its own errors through.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

HANGS_AFTER_S = 15
MEMORY_BYTES = 8 * 2**30


class RuntimeProcess:
    """Opens and runs model files, and starts again when the runtime crashes.

    Attributes:
        answers: how many files were read, refused, or crashed or hung the runtime.
    """

    def __init__(self, kept: Path) -> None:
        self._kept = kept
        self._process: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  for as long as this object
        self.answers: Counter[str] = Counter()

    def read(self, content: bytes) -> None:
        """Open a model file and run it.

        Raises:
            AssertionError: the package did not answer in one line. A crash of the runtime alone is counted, and its
                file is kept.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._kept.mkdir(parents=True, exist_ok=True)
        path = self._kept / f"{hashlib.sha256(content).hexdigest()[:16]}.onnx"
        path.write_bytes(content)
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            dump = self._errors.read()
            assert is_of_runtime(dump), dump
            self.answers["crashed or hung the runtime, kept"] += 1
            return
        path.unlink()
        kind, _, fault = answer.partition(": ")
        assert not fault, json.loads(fault)
        self.answers[kind] += 1

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def _start(self) -> None:
        self._errors.seek(0)
        self._errors.truncate()
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )


def is_of_runtime(dump: str) -> bool:
    """Whether faulthandler's dump shows that ONNX Runtime was at work when the process crashed or hung.

    >>> is_of_runtime('Fatal Python error: Aborted\\n\\nThread 0x0:\\n  File "/x/onnxruntime/capi/y.py", line 1')
    True
    >>> is_of_runtime('Timeout!\\nThread 0x0:\\n  File "/x/a.py", line 1\\n  File "/x/onnxruntime/y.py", line 1')
    False
    """
    innermost = next((line for line in dump.splitlines() if line.startswith("  File ")), "")
    return "onnxruntime" in innermost


def answer(path: str, faces: np.ndarray) -> str:
    """One line on what the package makes of a model file."""
    from harness import refuses_cleanly

    from fer_deploy import Recognizer

    try:
        accepted = refuses_cleanly(lambda: Recognizer(path, threads=1).predict(faces))
    except Exception:  # any is a fault, and is reported
        return f"fault: {json.dumps(traceback.format_exc(limit=-6)[-3000:])}"
    return "read" if accepted else "refused"


def main() -> None:
    """Answer every path on standard input."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    faces = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    for line in sys.stdin:
        faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
        text = answer(line.strip(), faces)
        faulthandler.cancel_dump_traceback_later()
        print(text, flush=True)


if __name__ == "__main__":
    main()
