"""ONNX Runtime on any of its providers; its silent fallback to the CPU is an error here."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.bench.adapters import Adapter
from fer_deploy.bench.engines import ANY_AXES, EngineSession, FixedAxes
from fer_deploy.bench.subjects import Subject
from fer_deploy.errors import MeasurementError, ModelFileError
from fer_deploy.files import read_file
from fer_deploy.model.contract import MAXIMUM_BYTES
from fer_deploy.model.session import CPU, provider_names, start_session

DEVICE_MEMORY = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda", "DmlExecutionProvider": "dml"}
"""Providers that compute in memory of their own, and ONNX Runtime's name for it."""

_SETTINGS = {
    # Other engines are measured between blocks: threads that still spin would take their cores.
    "session.force_spinning_stop": "1",
    "session.record_ep_graph_assignment_info": "1",
}


def open_onnx_runtime(subject: Subject, provider: str, *, threads: int) -> EngineSession:
    """Open a file in ONNX Runtime.

    Args:
        subject: a file of ours, or a foreign one with its adapter.
        provider: a short name of model.session.PROVIDERS, or the short form of any other provider's name.
        threads: intra-operator threads; operators run one after the other.

    Raises:
        UnavailableError: this ONNX Runtime has no such provider.
        MeasurementError: ONNX Runtime computes elsewhere.
    """
    (wanted,) = provider_names([provider])
    assert subject.path is not None
    content = read_file(subject.path, maximum_bytes=MAXIMUM_BYTES, what="model", error=ModelFileError)
    session = start_session(content, source=subject.path.name, threads=threads, providers=[wanted], settings=_SETTINGS)
    note = check_provider(session, wanted)
    if subject.adapter is not None:
        return AdaptedSession(session, wanted, note=note, adapter=subject.adapter)
    axes = FixedAxes.of([axis if isinstance(axis, int) else None for axis in session.get_inputs()[0].shape])
    if wanted in DEVICE_MEMORY:
        return DeviceSession(session, wanted, note=note, axes=axes)
    return HostSession(session, wanted, note=note, axes=axes)


def check_provider(session: Any, wanted: str) -> str | None:
    """Check that a session uses the requested provider.

    Returns:
        A note when the CPU computes some nodes (it computes shapes on every device); else None.

    Raises:
        MeasurementError: ONNX Runtime fell back: the provider is not in use, or has no node.
    """
    in_use = session.get_providers()
    if wanted not in in_use:
        raise MeasurementError(f"silent fallback: {wanted} was requested, ONNX Runtime uses {', '.join(in_use)}")
    if wanted == CPU or not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    total = sum(counts.values())
    if not counts.get(wanted):
        where = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        raise MeasurementError(f"silent fallback: {wanted} was requested and computes none of {total} nodes ({where})")
    elsewhere = total - counts[wanted]
    return f"{elsewhere} of {total} nodes on the CPU" if elsewhere else None


class HostSession:
    """A session whose provider computes in the host's memory, or copies by itself."""

    host_memory = True

    def __init__(self, session: Any, provider: str, *, note: str | None, axes: FixedAxes) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name
        self.provider = provider
        self.note = note
        self.axes = axes
        self.fixed_batch = axes.batch

    def upload(self, faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Nothing to copy."""
        return faces

    def compute(self, uploaded: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the file."""
        answer: NDArray[np.float32] = self._session.run([self._output], {self._input: uploaded})[0]
        return answer

    def synchronise(self) -> None:
        """`run` returns when it is done."""

    def download(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        """Nothing to copy."""
        return answer


class DeviceSession(HostSession):
    """A session on a device with its own memory: copies are explicit and timed apart."""

    host_memory = False

    def __init__(self, session: Any, provider: str, *, note: str | None, axes: FixedAxes) -> None:
        super().__init__(session, provider, note=note, axes=axes)
        self._device = DEVICE_MEMORY.get(provider, "cpu")
        self._binding: Any = None

    def upload(self, faces: NDArray[np.uint8]) -> Any:
        """Copy the faces to the device."""
        import onnxruntime

        return onnxruntime.OrtValue.ortvalue_from_numpy(faces, self._device, 0)

    def compute(self, uploaded: Any) -> Any:
        """Run the file on faces in the device's memory; the answer stays there."""
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input, uploaded)
        binding.bind_output(self._output, self._device)
        self._session.run_with_iobinding(binding)
        self._binding = binding
        return binding.get_outputs()[0]

    def synchronise(self) -> None:
        """Wait for the last run."""
        if self._binding is not None:
            self._binding.synchronize_outputs()

    def download(self, answer: Any) -> NDArray[np.float32]:
        """Copy the answer to the host."""
        values: NDArray[np.float32] = answer.numpy()
        return values


class AdaptedSession(HostSession):
    """A foreign file. The adapter's preprocessing is part of the timed call, as in an app that embeds the file."""

    def __init__(self, session: Any, provider: str, *, note: str | None, adapter: Adapter) -> None:
        super().__init__(session, provider, note=note, axes=FixedAxes(1) if adapter.input.fixed_batch else ANY_AXES)
        for what, name, ends in (
            ("input", adapter.input.name, session.get_inputs()),
            ("output", adapter.output.name, session.get_outputs()),
        ):
            if name not in {end.name for end in ends}:
                known = ", ".join(end.name for end in ends)
                raise MeasurementError(f"adapter {adapter.name}: the file has no {what} {name!r}, only {known}")
        self._input, self._output = adapter.input.name, adapter.output.name
        self._adapter = adapter

    def compute(self, uploaded: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Preprocess the faces, run the file, map its answers to the seven labels."""
        answer = self._session.run([self._output], {self._input: self._adapter.prepare(uploaded)})[0]
        return self._adapter.read(answer)
