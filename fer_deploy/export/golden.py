"""Golden vectors: a few pictures as raw bytes, and each file's probabilities for them, to replay in any language."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import ModelFileError
from fer_deploy.files import write_bytes

GOLDEN_TOLERANCES: Mapping[str, float] = MappingProxyType({"fp32": 1e-4, "fp16": 5e-3, "int8": 2e-2})
"""Largest difference from the recorded probabilities on another engine, language or processor, by precision."""

_PICTURES: tuple[tuple[str, int, int, int, bool], ...] = (
    ("grey-48x48", 2, 48, 48, True),
    ("colour-48x48", 1, 48, 48, False),
    ("colour-1x1", 1, 1, 1, False),
    ("colour-37x53", 3, 37, 53, False),
    ("grey-96x64", 1, 96, 64, True),
    ("colour-160x120", 2, 160, 120, False),
    ("colour-224x224", 1, 224, 224, False),
)
"""Name, faces, height, width, grey."""


@dataclass(frozen=True, eq=False)
class GoldenInput:
    """One input: uint8 (n, h, w, 3), written row by row, channels last, without a header."""

    file: str
    """Its path, relative to the manifest's folder."""
    pictures: NDArray[np.uint8]

    @property
    def sha256(self) -> str:
        """The SHA-256 of the raw bytes."""
        return hashlib.sha256(self.pictures.tobytes()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {"file": self.file, "shape": list(self.pictures.shape), "sha256": self.sha256}


def draw_golden_inputs() -> tuple[GoldenInput, ...]:
    """The golden inputs: synthetic faces of several sizes, colour and grey, the same bytes on every machine."""
    from fer_deploy.faces.synthetic import colour_faces

    inputs = []
    for number, (name, count, height, width, grey) in enumerate(_PICTURES):
        labels = [(number + face) % 7 for face in range(count)]
        pictures = colour_faces(labels, height=height, width=width, seed=number, grey=grey)
        inputs.append(GoldenInput(f"golden/{name}.bin", np.ascontiguousarray(pictures)))
    return tuple(inputs)


def write_golden_inputs(folder: Path, inputs: Sequence[GoldenInput]) -> None:
    """Write each input under `folder`, the manifest's folder, unless it exists already."""
    for golden in inputs:
        path = folder / golden.file
        content = golden.pictures.tobytes()
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)


def read_golden_input(folder: Path, entry: Mapping[str, Any]) -> GoldenInput:
    """The input that a manifest's entry names. ModelFileError if it is missing or differs from the recorded one."""
    name, shape = str(entry.get("file")), tuple(entry.get("shape", ()))
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelFileError(f"the manifest names the golden input {name}, outside its own folder")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"the golden input {path} can't be read: {error.strerror or error}") from None
    if hashlib.sha256(content).hexdigest() != entry.get("sha256") or len(content) != int(np.prod(shape)):
        raise ModelFileError(f"the golden input {path} is not the one that the manifest records")
    return GoldenInput(name, np.frombuffer(content, np.uint8).reshape(shape))


def fits(pictures: NDArray[np.uint8], shape: Sequence[int | None]) -> bool:
    """Whether a file whose axes batch, height and width are fixed by `shape` takes `pictures`."""
    return all(fixed in (None, size) for fixed, size in zip(shape, pictures.shape, strict=False))
