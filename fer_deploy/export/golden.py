"""Golden vectors: a few pictures as raw bytes, and each file's probabilities for them, to replay in any language."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import ModelFileError
from fer_deploy.files import read_file, write_bytes
from fer_deploy.model.names import Shape

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


@dataclass(frozen=True)
class GoldenRecord:
    """A golden input as a manifest describes it."""

    file: str
    """Its path, relative to the manifest's folder."""
    shape: tuple[int, int, int, int]
    """Faces, height, width, channels."""
    sha256: str
    """Of the raw bytes, 64 hexadecimal digits."""


@dataclass(frozen=True, eq=False)
class GoldenInput:
    """One input: uint8 (n, h, w, 3), written row by row, channels last, without a header."""

    file: str
    """Its path, relative to the manifest's folder."""
    pictures: NDArray[np.uint8]

    @property
    def record(self) -> GoldenRecord:
        """For the manifest."""
        count, height, width, channels = self.pictures.shape
        digest = hashlib.sha256(self.pictures.tobytes()).hexdigest()
        return GoldenRecord(self.file, (count, height, width, channels), digest)


@functools.cache
def draw_golden_inputs() -> tuple[GoldenInput, ...]:
    """The golden inputs: synthetic faces of several sizes, colour and grey, the same bytes on every machine."""
    from fer_deploy.faces.synthetic import colour_faces

    inputs = []
    for number, (name, count, height, width, grey) in enumerate(_PICTURES):
        labels = [(number + face) % 7 for face in range(count)]
        pictures = colour_faces(labels, height=height, width=width, seed=number, grey=grey)
        pictures = np.ascontiguousarray(pictures)
        pictures.flags.writeable = False  # every caller gets the same arrays
        inputs.append(GoldenInput(f"golden/{name}.bin", pictures))
    return tuple(inputs)


def write_golden_inputs(folder: Path, inputs: Sequence[GoldenInput]) -> None:
    """Write each input under `folder`, the manifest's folder, unless it exists already."""
    for golden in inputs:
        path = folder / golden.file
        content = golden.pictures.tobytes()
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)


def read_golden_input(folder: Path, record: GoldenRecord) -> GoldenInput:
    """The input that a manifest describes. ModelFileError if it is missing or differs from the recorded one."""
    path = folder / record.file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ModelFileError(f"the manifest names the golden input {record.file}, outside its own folder")
    size = math.prod(record.shape)
    content = read_file(path, maximum_bytes=size + 1, what="golden input", error=ModelFileError)
    if hashlib.sha256(content).hexdigest() != record.sha256 or len(content) != size:
        raise ModelFileError(f"the golden input {path} is not the one that the manifest records")
    return GoldenInput(record.file, np.frombuffer(content, np.uint8).reshape(record.shape))


def fits(pictures: Sequence[int], shape: Shape) -> bool:
    """Whether a file that fixes batch, height and width to `shape` takes pictures of the shape `pictures`."""
    return all(fixed in (None, size) for fixed, size in zip(shape, pictures, strict=False))
