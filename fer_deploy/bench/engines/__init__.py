"""The engines by name, and how to open a model on one of them.

An engine that is absent, or that silently computes on another device, is an error with a reason (UnavailableError,
MeasurementError); the report shows it as a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fer_deploy.bench.latency import Session
from fer_deploy.bench.subjects import Subject
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import MeasurementError, UnavailableError
from fer_deploy.model.session import PROVIDERS, check_probabilities, pad_batch

TORCH_ENGINES: tuple[str, ...] = (
    "torch-cpu", "torch-cpu-compiled", "torch-cuda", "torch-cuda-compiled", "torch-mps", "torch-mps-compiled",
)  # fmt: skip
"""The run's network in the same uint8-to-probabilities module as in the export, eager or with torch.compile."""

ORT_ENGINES: tuple[str, ...] = tuple(f"ort-{name}" for name in PROVIDERS)
"""ONNX Runtime on each of its possible providers."""

ENGINES: tuple[str, ...] = (*ORT_ENGINES, *TORCH_ENGINES, "openvino-cpu")
"""Every engine by name."""

DEFAULT_ENGINES: tuple[str, ...] = ("ort-cpu", "torch-cpu", "torch-cuda", "torch-mps")
"""The engines of a run that names none."""

SCORE_BATCH = 64
"""Faces per call when a split is scored."""


@dataclass(frozen=True)
class FixedAxes:
    """What a file's input (batch, height, width, 3) is fixed to; None for an axis of any size."""

    batch: int | None = None
    height: int | None = None
    width: int | None = None

    @classmethod
    def of(cls, shape: Sequence[int | None]) -> FixedAxes:
        """From an input's shape, at least three axes."""
        return cls(*shape[:3])

    def accept(self, height: int, width: int) -> bool:
        """Whether the file takes faces of this size, in pixels."""
        return self.height in (None, height) and self.width in (None, width)

    @property
    def size(self) -> str:
        """The size in words: `96x96`, or `any x 96`."""
        sides = [str(side) if side else "any" for side in (self.height, self.width)]
        return " x ".join(sides) if "any" in sides else "x".join(sides)


ANY_AXES = FixedAxes()
"""A model that takes any number of faces of any size."""


class EngineSession(Session, Protocol):
    """A model opened on an engine."""

    provider: str
    """The provider or device in use."""
    note: str | None
    """How it computes, where that needs explanation; else None."""
    host_memory: bool
    """Whether the engine computes in the host's memory, so that there are no copies to time."""
    axes: FixedAxes
    """What the model's input is fixed to."""


def check_engine(name: str) -> None:
    """Raise UnavailableError, which lists the engines, for an unknown name."""
    if name not in ENGINES and not re.fullmatch(r"ort-[A-Za-z][A-Za-z0-9]{0,40}", name):
        raise UnavailableError(f"there is no engine {name!r}: choose from {', '.join(ENGINES)}")


def applies(subject: Subject, engine: str) -> bool:
    """Whether an engine can run a model: PyTorch runs no quantised or foreign file, OpenVINO no adapter."""
    if engine.startswith("torch-"):
        return subject.kind in ("file", "run") and subject.precision == "fp32"
    return engine != "openvino-cpu" or subject.adapter is None


def open_session(subject: Subject, engine: str, *, threads: int) -> EngineSession:
    """Open a model on an engine.

    Args:
        subject: the model.
        engine: one of ENGINES.
        threads: threads of the engine on the host, at least 1.

    Raises:
        UnavailableError: the engine, its device or its package is absent.
        MeasurementError: the engine computes on another device, or the model was refused.
        FerDeployError: the file or the runs cannot be used.
    """
    if subject.refusal:
        raise MeasurementError(subject.refusal)
    if subject.path is None and not engine.startswith("torch-"):
        raise MeasurementError(f"this run has no file: write it with `ferdeploy export {subject.name}`")
    if engine.startswith("torch-"):
        from fer_deploy.bench.engines.pytorch import open_torch

        return open_torch(subject, engine, threads=threads)
    if engine == "openvino-cpu":
        from fer_deploy.bench.engines.openvino import open_openvino

        return open_openvino(subject, threads=threads)
    from fer_deploy.bench.engines.onnx_runtime import open_onnx_runtime

    return open_onnx_runtime(subject, engine.removeprefix("ort-"), threads=threads)


def score(
    session: Session,
    faces: NDArray[np.uint8],
    *,
    classes: int = len(EMOTIONS),
    batch: int = SCORE_BATCH,
    source: str = "the model",
) -> NDArray[np.float32]:
    """The session's probabilities for every face, float32 (n, classes).

    Args:
        session: any opened session.
        faces: grey, uint8 (n, h, w), or RGB, uint8 (n, h, w, 3).
        classes: how many labels the model has.
        batch: faces per call; a model with a fixed batch ignores it, and its last batch is padded with repeated faces.
        source: what to call the model in errors.

    Raises:
        ModelFileError: the session does not return one probability distribution per face.
    """
    size = session.fixed_batch or batch
    parts = []
    for start in range(0, len(faces), size):
        part = rgb(faces[start : start + size])
        count = len(part)
        padded = pad_batch(part, session.fixed_batch)
        answer = np.array(session.download(session.compute(session.upload(padded))), dtype=np.float32)
        parts.append(check_probabilities(answer, faces=len(padded), classes=classes, source=source)[:count])
    return np.concatenate(parts) if parts else np.empty((0, classes), dtype=np.float32)


def rgb(faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Faces as contiguous RGB, uint8 (n, height, width, 3): grey faces get three equal channels."""
    return np.ascontiguousarray(faces if faces.ndim == 4 else np.repeat(faces[..., None], 3, axis=3))
