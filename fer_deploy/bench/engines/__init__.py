"""The engines that can answer faces, by name, and the one way to open a subject on one of them.

An engine that is absent, or that silently computes somewhere else than it was asked to, is an error with a reason
(UnavailableError, MeasurementError); the report makes a row of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fer_deploy.bench.latency import Session
from fer_deploy.bench.subjects import Subject
from fer_deploy.errors import MeasurementError, UnavailableError
from fer_deploy.model.session import PROVIDERS, pad_batch

TORCH_ENGINES: tuple[str, ...] = (
    "torch-cpu", "torch-cpu-compiled", "torch-cuda", "torch-cuda-compiled", "torch-mps", "torch-mps-compiled",
)  # fmt: skip
"""The run's own network behind the same uint8-to-probabilities module, eager or through torch.compile."""

ORT_ENGINES: tuple[str, ...] = tuple(f"ort-{name}" for name in PROVIDERS)
"""ONNX Runtime on each provider that it may have."""

ENGINES: tuple[str, ...] = (*ORT_ENGINES, *TORCH_ENGINES, "openvino-cpu")
"""Every engine by name."""

DEFAULT_ENGINES: tuple[str, ...] = ("ort-cpu", "torch-cpu", "torch-cuda", "torch-mps")
"""What a run measures when no engine is named."""

SCORE_BATCH = 64
"""Faces to a call when a split is scored."""


class EngineSession(Session, Protocol):
    """A subject opened on an engine."""

    provider: str
    """The provider or device really in use."""
    note: str | None
    """What a reader should know of how it computes; None when there is nothing."""
    host_memory: bool
    """Whether the engine computes in the host's memory, so that there are no copies to time."""


def check_engine(name: str) -> None:
    """Refuse an engine that does not exist (UnavailableError, with the ones that do)."""
    if name not in ENGINES and not name.startswith("ort-"):
        raise UnavailableError(f"there is no engine {name!r}; there are {', '.join(ENGINES)}")


def applies(subject: Subject, engine: str) -> bool:
    """Whether a row for this pair makes sense: PyTorch runs no quantised or foreign file, OpenVINO no adapter."""
    if engine.startswith("torch-"):
        return subject.kind in ("file", "run") and subject.precision == "fp32"
    return engine != "openvino-cpu" or subject.adapter is None


def open_session(subject: Subject, engine: str, *, threads: int) -> EngineSession:
    """Open a subject on an engine.

    Args:
        subject: what to open.
        engine: one of ENGINES.
        threads: threads that the engine may use on the host, at least 1.

    Raises:
        UnavailableError: the engine, its device or its package is absent.
        MeasurementError: it computes elsewhere than asked, or the subject was refused.
        FerDeployError: the file or the runs cannot be used.
    """
    if subject.refusal:
        raise MeasurementError(subject.refusal)
    if subject.path is None and not engine.startswith("torch-"):
        raise MeasurementError(f"no file: write it with `ferdeploy export {subject.name}`")
    if engine.startswith("torch-"):
        from fer_deploy.bench.engines.pytorch import open_torch

        return open_torch(subject, engine, threads=threads)
    if engine == "openvino-cpu":
        from fer_deploy.bench.engines.openvino import open_openvino

        return open_openvino(subject, threads=threads)
    from fer_deploy.bench.engines.onnx_runtime import open_onnx_runtime

    return open_onnx_runtime(subject, engine.removeprefix("ort-"), threads=threads)


def score(session: Session, faces: NDArray[np.uint8], *, batch: int = SCORE_BATCH) -> NDArray[np.float32]:
    """The session's probabilities of every face, float32 (n, 7).

    Args:
        session: any opened session.
        faces: grey, uint8 (n, 48, 48), or RGB, uint8 (n, 48, 48, 3).
        batch: faces to a call, where the model leaves the choice; a model of one batch size has its last one filled up
            by repeating a face.
    """
    size = session.fixed_batch or batch
    parts = []
    for start in range(0, len(faces), size):
        part = rgb(faces[start : start + size])
        count = len(part)
        answer = session.download(session.compute(session.upload(pad_batch(part, session.fixed_batch))))
        parts.append(np.array(answer[:count], dtype=np.float32))
    return np.concatenate(parts) if parts else np.empty((0, 7), dtype=np.float32)


def rgb(faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Faces as contiguous RGB, uint8 (n, h, w, 3): grey ones get three equal channels."""
    return np.ascontiguousarray(faces if faces.ndim == 4 else np.repeat(faces[..., None], 3, axis=3))


def fixed_axes(shape: Sequence[int | None]) -> int | None:
    """The fixed batch of an input (batch, height, width, ...); MeasurementError when it takes no 48x48 faces."""
    batch, height, width = shape[:3]
    if height not in (None, 48) or width not in (None, 48):
        raise MeasurementError(f"the file takes faces of {height}x{width} only, and 48x48 ones are measured")
    return batch
