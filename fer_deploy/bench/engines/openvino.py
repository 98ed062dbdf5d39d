"""OpenVINO on the CPU with the same ONNX file, in 32-bit arithmetic wherever the file has 32-bit numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.bench.engines import EngineSession, FixedAxes
from fer_deploy.bench.subjects import Subject
from fer_deploy.errors import MeasurementError, UnavailableError, install, one_line


def open_openvino(subject: Subject, *, threads: int) -> EngineSession:
    """Open a file in OpenVINO's CPU plugin with one stream of `threads` threads.

    Raises:
        UnavailableError: openvino is not installed.
        MeasurementError: OpenVINO cannot read the file.
    """
    try:
        import openvino
    except ImportError as error:
        raise UnavailableError(f"absent: openvino is not installed: {install('bench')}") from error
    try:
        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(str(subject.path)),
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",
                "ENABLE_CPU_PINNING": False,
            },
        )
    except RuntimeError as error:
        raise MeasurementError(f"openvino cannot load it: {one_line(error)}") from error
    shape = compiled.inputs[0].partial_shape
    axes = FixedAxes.of([None if axis.is_dynamic else axis.get_length() for axis in shape])
    return OpenVinoSession(compiled, axes=axes)


class OpenVinoSession:
    """A compiled model and one request, which serves every call."""

    host_memory = True
    note: str | None = None

    def __init__(self, compiled: Any, *, axes: FixedAxes) -> None:
        self._request = compiled.create_infer_request()
        self._output = compiled.outputs[0]
        devices = compiled.get_property("EXECUTION_DEVICES")
        self.provider = "openvino " + ", ".join(devices if isinstance(devices, list | tuple) else [str(devices)])
        self.axes = axes
        self.fixed_batch = axes.batch

    def upload(self, faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Nothing to copy."""
        return faces

    def compute(self, uploaded: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the file, and copy the answer: the next call overwrites the request's."""
        answer: NDArray[np.float32] = self._request.infer([uploaded])[self._output]
        return np.array(answer, dtype=np.float32)

    def synchronise(self) -> None:
        """`infer` returns when it is done."""

    def download(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        """Nothing to copy."""
        return answer
