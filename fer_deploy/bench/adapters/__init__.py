"""How to feed other projects' ONNX files: an adapter is a TOML file with input layout, scaling and label map.

    name = "emotion-ferplus"
    source = "where the file is published, for the report"
    files = ["emotion-ferplus*.onnx"]        # file names that it applies to
    labels = ["neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "-"]

    [input]
    name = "Input3"
    layout = "nchw"                          # or "nhwc"
    channels = "grey"                        # or "rgb", "bgr"
    size = [64, 64]                          # height, width
    scale = 1.0                              # the network gets (pixel * scale - mean) / deviation, pixels 0 to 255;
    mean = 0.0                               # mean and deviation may be lists with one value per channel
    deviation = 1.0
    fixed_batch = true                       # the file takes one face per call

    [output]
    name = "Plus692_Output_0"
    kind = "logits"                          # or "probabilities"

The label "-" stands for a class that FER2013 lacks: its share is dropped, and the others are scaled to sum to one.
"""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer_deploy.emotions import EMOTIONS, emotion_index
from fer_deploy.errors import DataError
from fer_deploy.files import parse_toml, read_text, shown
from fer_deploy.pictures import LUMA

Layout = Literal["nchw", "nhwc"]
Channels = Literal["grey", "rgb", "bgr"]
OutputKind = Literal["probabilities", "logits"]
DROPPED = "-"
"""The label of a class that is none of the seven."""


MAXIMUM_SIDE = 1024
"""Pixels of the largest input: a split of faces is resized to it in memory, batch by batch."""


@dataclass(frozen=True)
class AdapterInput:
    """The input of a foreign network."""

    name: str
    layout: Layout
    channels: Channels
    size: tuple[int, int]
    """Height and width, in pixels."""
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    """One value, or one per channel in the order of `channels`."""
    deviation: tuple[float, ...] = (1.0,)
    fixed_batch: bool = False
    """Whether the file takes exactly one face per call."""


@dataclass(frozen=True)
class AdapterOutput:
    """The output of a foreign network."""

    name: str
    kind: OutputKind


@dataclass(frozen=True)
class Adapter:
    """How to feed one published ONNX file, and how to read its answers."""

    name: str
    source: str
    files: tuple[str, ...]
    input: AdapterInput
    output: AdapterOutput
    labels: tuple[str, ...]

    def prepare(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Faces, uint8 (n, height, width, 3) RGB, as the network's input, float32."""
        wanted = self.input
        height, width = wanted.size
        if wanted.channels == "grey":
            planes: NDArray[Any] = (faces @ np.asarray(LUMA, np.float32))[..., None]
        else:
            planes = faces.astype(np.float32)[..., :: -1 if wanted.channels == "bgr" else 1]
        if faces.shape[1:3] != (height, width):
            planes = np.stack([_resize(plane, height, width) for plane in planes])
        mean, deviation = np.array(wanted.mean, np.float32), np.array(wanted.deviation, np.float32)
        values = (planes.astype(np.float32) * np.float32(wanted.scale) - mean) / deviation
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if wanted.layout == "nchw" else values)

    def read(self, answer: NDArray[np.floating]) -> NDArray[np.float32]:
        """The network's output (n, labels) as probabilities of the seven, float32 (n, 7)."""
        values = np.asarray(answer, dtype=np.float64).reshape(len(answer), -1)
        if values.shape[1] != len(self.labels):
            raise DataError(f"adapter {self.name}: {len(self.labels)} labels for {values.shape[1]} answers")
        if self.output.kind == "logits":
            values = np.exp(values - values.max(axis=1, keepdims=True))
        probabilities = np.zeros((len(values), len(EMOTIONS)), dtype=np.float64)
        for column, label in enumerate(self.labels):
            index = emotion_index(label)
            if index is not None:
                probabilities[:, index] += values[:, column]
        total = probabilities.sum(axis=1, keepdims=True)
        shares = np.divide(probabilities, total, out=np.full_like(probabilities, 1 / len(EMOTIONS)), where=total > 0)
        result: NDArray[np.float32] = shares.astype(np.float32)
        return result


def shipped_adapters() -> tuple[Adapter, ...]:
    """The adapters in this package."""
    folder = resources.files(__package__)
    texts = {entry.name: entry.read_text("utf-8") for entry in folder.iterdir() if entry.name.endswith(".toml")}
    return tuple(parse_adapter(texts[name], source=name) for name in sorted(texts))


def load_adapter(path: Path) -> Adapter:
    """Read an adapter file; DataError names the file and the wrong key."""
    return parse_adapter(read_text(path, what="TOML file", error=DataError), source=shown(path))


def find_adapter(path: Path, adapters: Sequence[Adapter] = ()) -> Adapter | None:
    """The adapter for an ONNX file by its name, from the user's `adapters`, then this package's; None for our files."""
    for adapter in (*adapters, *shipped_adapters()):
        if any(fnmatch.fnmatchcase(path.name.lower(), pattern.lower()) for pattern in adapter.files):
            return adapter
    return None


def parse_adapter(text: str, *, source: str) -> Adapter:
    """Read an adapter from TOML text; `source` names it in errors (DataError)."""
    table = parse_toml(text, source=source, what="adapter", error=DataError)
    _check_keys(table, Adapter, source=source)
    inner, outer = _table(table, "input", source), _table(table, "output", source)
    _check_keys(inner, AdapterInput, source=f"{source}: input")
    _check_keys(outer, AdapterOutput, source=f"{source}: output")
    labels = _texts(table["labels"], f"{source}: labels")
    for label in labels:
        if label != DROPPED and emotion_index(label) is None:
            raise DataError(f"{source}: labels: {label!r} is none of {', '.join(EMOTIONS)}, nor {DROPPED!r}")
    size = inner["size"]
    sides = size if isinstance(size, list) else []
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= MAXIMUM_SIDE for side in sides):
        raise DataError(f"{source}: input.size must be [height, width], 1 to {MAXIMUM_SIDE}, got {size!r}")
    channels = _choice(inner["channels"], Channels, f"{source}: input.channels")
    count = 1 if channels == "grey" else 3
    return Adapter(
        name=_text(table["name"], f"{source}: name"),
        source=_text(table["source"], f"{source}: source"),
        files=_texts(table["files"], f"{source}: files"),
        input=AdapterInput(
            name=_text(inner["name"], f"{source}: input.name"),
            layout=_choice(inner["layout"], Layout, f"{source}: input.layout"),
            channels=channels,
            size=(sides[0], sides[1]),
            scale=_number(inner.get("scale", 1.0), f"{source}: input.scale"),
            mean=_numbers(inner.get("mean", 0.0), count, f"{source}: input.mean"),
            deviation=_deviations(inner.get("deviation", 1.0), count, f"{source}: input.deviation"),
            fixed_batch=_switch(inner.get("fixed_batch", False), f"{source}: input.fixed_batch"),
        ),
        output=AdapterOutput(
            name=_text(outer["name"], f"{source}: output.name"),
            kind=_choice(outer["kind"], OutputKind, f"{source}: output.kind"),
        ),
        labels=labels,
    )


def _resize(plane: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    channels = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(plane[..., index])).resize((width, height), Image.Resampling.BILINEAR)
        )
        for index in range(plane.shape[2])
    ]
    return np.stack(channels, axis=-1)


def _table(table: dict[str, Any], key: str, source: str) -> dict[str, Any]:
    value = table[key]
    if not isinstance(value, dict):
        raise DataError(f"{source}: {key} must be a table, got {value!r}")
    return value


def _check_keys(table: dict[str, Any], model: type, *, source: str) -> None:
    known = {item.name for item in fields(model)}
    optional = {"scale", "mean", "deviation", "fixed_batch"}
    unknown, missing = sorted(set(table) - known), sorted(known - optional - set(table))
    if unknown or missing:
        what = f"unknown key {unknown[0]!r}" if unknown else f"the key {missing[0]!r} is missing"
        raise DataError(f"{source}: {what}: the keys are {', '.join(sorted(known))}")


def _choice(value: Any, kind: Any, where: str) -> Any:
    if value not in get_args(kind):
        raise DataError(f"{where} must be one of {', '.join(get_args(kind))}, got {value!r}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where} must be a string, got {value!r}")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{where} must be a list of strings, got {value!r}")
    return tuple(value)


def _switch(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise DataError(f"{where} must be true or false, got {value!r}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise DataError(f"{where} must be a finite number, got {value!r}")
    return float(value)


def _numbers(value: Any, channels: int, where: str) -> tuple[float, ...]:
    numbers = tuple(_number(item, where) for item in (value if isinstance(value, list) else [value]))
    if len(numbers) not in (1, channels):
        wanted = "one number" if channels == 1 else f"one number, or {channels}, one a channel"
        raise DataError(f"{where} must be {wanted}, got {value!r}")
    return numbers


def _deviations(value: Any, channels: int, where: str) -> tuple[float, ...]:
    numbers = _numbers(value, channels, where)
    if not all(numbers):
        raise DataError(f"{where} must not be 0, got {value!r}")
    return numbers
