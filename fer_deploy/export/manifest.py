"""`exports/manifest.json`: each exported file's hash, members, parity figures and golden vectors."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import ModelFileError
from fer_deploy.export.golden import (
    GOLDEN_TOLERANCES,
    GoldenRecord,
    draw_golden_inputs,
    write_golden_inputs,
)
from fer_deploy.files import lock, read_json, shown, write_bytes, write_json
from fer_deploy.labels import check_labels
from fer_deploy.model.contract import INPUT_NAME, OUTPUT_NAME

MANIFEST = "manifest.json"
LOCK = ".manifest.lock"
"""The lock file of a folder, locked while the manifest or a file in it is replaced, see `files.lock`."""
FORMAT = 1
"""Version of the manifest's layout."""
CONTRACT: Mapping[str, Any] = {
    "labels": list(EMOTIONS),
    "input": {"name": INPUT_NAME, "type": "uint8", "axes": ["batch", "height", "width", "channel (RGB)"]},
    "output": {"name": OUTPUT_NAME, "type": "float32", "axes": ["batch", "label"]},
}
"""What a manifest states about its files: an entry has `labels` of its own where they are not these. A manifest that
states anything else is damaged."""
MAXIMUM_SIDE = 16_384
"""A golden input with a longer side is refused."""
MAXIMUM_PIXELS = 64_000_000
"""A golden input of more pixels, all its faces together, is refused."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class FileRecord:
    """A file's entry in the manifest, every value checked."""

    name: str
    precision: str
    sha256: str
    labels: tuple[str, ...]
    """The file's classes, in the order of its output."""
    tolerance: float
    """Largest difference from the recorded probabilities that is allowed, at most the precision's own."""
    outputs: Mapping[str, NDArray[np.float32]]
    """The file's recorded probabilities (n, classes), by the golden input's file name."""


@dataclass(frozen=True, eq=False)
class CardRecord:
    """The part of a file's entry that a model card states, every value checked."""

    precision: str
    bytes: int
    members: tuple[str, ...]
    weights: tuple[float, ...]
    weights_source: str
    fusion: str
    accuracy: float | None
    """On the test split, 0 to 1; None where it was not measured."""
    accuracy_split: str | None
    recall: Mapping[str, float | None]
    """By label: the share of its test faces that are classified correctly. Empty where it was not measured."""
    calibration_error: float | None
    """The expected calibration error on the test split; None where it was not measured."""
    faces_from: str
    """The split on which parity was checked."""
    parity_accuracy: float
    max_difference: float


@dataclass(frozen=True, eq=False)
class Manifest:
    """A manifest that was read. Its layout and golden inputs are checked, its entries when they are read."""

    source: str
    content: Mapping[str, Any]
    """The JSON value, its entries unchecked."""
    golden: tuple[GoldenRecord, ...]

    @property
    def files(self) -> Mapping[str, Mapping[str, Any]]:
        """The entries by file name, unchecked."""
        files: Mapping[str, Mapping[str, Any]] = self.content["files"]
        return files

    def entry(self, file: str) -> FileRecord | None:
        """What verifying a file needs of its entry; None if there is none. ModelFileError if it is damaged."""
        if file not in self.files:
            return None
        self.card(file)  # a damaged value is a failure, also one that only a card states
        entry = _Values(self.files[file], f"{self.source}: the entry of {file}")
        precision = entry.choice("precision", GOLDEN_TOLERANCES)
        golden = entry.inner("golden")
        outputs, labels = golden.inner("outputs"), entry.labels()
        return FileRecord(
            name=entry.text("name"),
            precision=precision,
            sha256=entry.sha256("sha256"),
            labels=labels,
            tolerance=golden.number("tolerance", above=0, most=GOLDEN_TOLERANCES[precision]),
            outputs={key: outputs.probabilities(key, classes=len(labels)) for key in outputs.names()},
        )

    def card(self, file: str) -> CardRecord:
        """What a model card states of a file. ModelFileError if its entry is damaged."""
        entry = _Values(self.files[file], f"{self.source}: the entry of {file}")
        parity = entry.inner("parity")
        members = entry.texts("members")
        return CardRecord(
            precision=entry.choice("precision", GOLDEN_TOLERANCES),
            bytes=int(entry.number("bytes", least=1)),
            members=members,
            weights=entry.numbers("weights", count=len(members)),
            weights_source=entry.text("weights_source"),
            fusion=entry.choice("fusion", ("wap", "rrf")),
            accuracy=entry.number("accuracy", least=0, most=1) if entry.has("accuracy") else None,
            accuracy_split=entry.text("accuracy_split") if entry.has("accuracy_split") else None,
            recall=entry.recall(),
            calibration_error=(
                entry.number("calibration_error", least=0, most=1) if entry.has("calibration_error") else None
            ),
            faces_from=parity.text("faces_from"),
            parity_accuracy=parity.number("accuracy", least=0, most=1),
            max_difference=parity.number("max_difference", least=0, most=1),
        )


class _Values:
    """A JSON object whose values are read with their types and ranges. ModelFileError for any other value."""

    def __init__(self, values: Any, where: str) -> None:
        self._where = where
        if not isinstance(values, dict):
            raise self._error(f"must be an object, got {_kind(values)}")
        self._values: dict[str, Any] = values

    def _error(self, problem: str) -> ModelFileError:
        return ModelFileError(f"{self._where}: damaged: {problem}: delete the manifest and export again")

    def _get(self, key: str) -> Any:
        if key not in self._values:
            raise self._error(f"{key} is missing")
        return self._values[key]

    def names(self) -> list[str]:
        return list(self._values)

    def has(self, key: str) -> bool:
        """Whether there is such a value, other than null."""
        return self._values.get(key) is not None

    def inner(self, key: str) -> _Values:
        return _Values(self._get(key), f"{self._where}: {key}")

    def items(self, key: str) -> list[Any]:
        value = self._get(key)
        if not isinstance(value, list):
            raise self._error(f"{key} must be a list, got {_kind(value)}")
        return value

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str):
            raise self._error(f"{key} must be a text, got {_kind(value)}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.items(key)
        if not values or not all(isinstance(value, str) for value in values):
            raise self._error(f"{key} must be a list of texts")
        return tuple(values)

    def labels(self) -> tuple[str, ...]:
        """The entry's labels; the manifest's own where it has none."""
        if not self.has("labels"):
            return EMOTIONS
        try:
            return check_labels(self.texts("labels"))
        except ValueError as error:
            raise self._error(f"labels: {error}") from None

    def recall(self) -> dict[str, float | None]:
        """Each label's recall, in the order of the labels; empty where there is none."""
        if not self.has("recall"):
            return {}
        inner, labels = self.inner("recall"), self.labels()
        if sorted(inner.names()) != sorted(labels):
            raise self._error("recall must have one value for each label")
        return {label: inner.number(label, least=0, most=1) if inner.has(label) else None for label in labels}

    def sha256(self, key: str) -> str:
        value = self.text(key)
        if not _SHA256.fullmatch(value):
            raise self._error(f"{key} must be 64 hexadecimal digits, got {value[:80]!r}")
        return value

    def choice(self, key: str, known: Iterable[str]) -> str:
        value = self.text(key)
        if value not in known:
            raise self._error(f"{key} must be one of {', '.join(known)}, got {value[:80]!r}")
        return value

    def number(self, key: str, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf) -> float:
        value = self._get(key)
        if not _is_number(value):
            raise self._error(f"{key} must be a number, got {_kind(value)}")
        if not (least <= value <= most and value > above):
            raise self._error(f"{key} is out of range: {str(value)[:40]}")
        return float(value)

    def numbers(self, key: str, *, count: int) -> tuple[float, ...]:
        values = self.items(key)
        if len(values) != count or not all(_is_number(value) and 0 <= value <= 1 for value in values):
            raise self._error(f"{key} must be {count} numbers in 0 to 1")
        return tuple(float(value) for value in values)

    def shape(self, key: str) -> tuple[int, int, int, int]:
        """Faces, height, width and 3 channels of a golden input."""
        values = self.items(key)
        if len(values) != 4 or not all(type(value) is int and 1 <= value <= MAXIMUM_SIDE for value in values):
            raise self._error(f"{key} must be four whole numbers in 1 to {MAXIMUM_SIDE:,}")
        count, height, width, channels = values
        if channels != 3 or count * height * width > MAXIMUM_PIXELS:
            raise self._error(f"{key} must end in 3, for at most {MAXIMUM_PIXELS:,} pixels")
        return count, height, width, channels

    def probabilities(self, key: str, *, classes: int) -> NDArray[np.float32]:
        rows = self.items(key)
        if not rows or not all(
            isinstance(row, list)
            and len(row) == classes
            and all(_is_number(value) and 0 <= value <= 1 for value in row)
            for row in rows
        ):
            raise self._error(f"{key} must be rows of {classes} probabilities")
        return np.array(rows, np.float32)


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number. JSON's integers may be too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", type(None): "null", bool: "true or false"}
    return kinds.get(type(value), "a number")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder of exports, or None if it has none.

    Raises:
        ModelFileError: the manifest is damaged, of another format, or not a regular file.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return None
    content = read_json(path, what="manifest", error=ModelFileError)
    values = _Values(content, shown(path))
    if values.number("format") != FORMAT:
        raise ModelFileError(f"{shown(path)} is not a manifest of format {FORMAT}: delete it and export again")
    for key, value in CONTRACT.items():
        if content.get(key) != value:
            raise ModelFileError(
                f"{shown(path)}: damaged: its {key} differs from the contract: delete the manifest and export again"
            )
    golden = []
    for number, entry in enumerate(values.items("golden")):
        described = _Values(entry, f"{shown(path)}: golden input {number}")
        golden.append(GoldenRecord(described.text("file"), described.shape("shape"), described.sha256("sha256")))
    if not golden:
        raise ModelFileError(f"{shown(path)}: damaged: it lists no golden inputs: delete the manifest and export again")
    files = values.inner("files")
    for name in files.names():
        if Path(name).name != name or name == "..":
            raise ModelFileError(f"{shown(path)}: damaged: {name[:80]!r} is not the name of a file in its folder")
        files.inner(name)  # an object
    return Manifest(shown(path), content, tuple(golden))


def publish(folder: Path, name: str, content: bytes, entry: Mapping[str, Any]) -> None:
    """Move a checked file into place, and record it in the folder's manifest.

    Both happen under one lock, so that simultaneous exports into one folder lose no entry, and the manifest always
    records the file that is there. Entries are dropped if their golden vectors belong to other inputs than the current
    ones: they can't be replayed.

    Args:
        folder: the exports folder; created if absent.
        name: the file's name.
        content: the file's bytes.
        entry: its entry in the manifest.

    Raises:
        ModelFileError: the manifest is damaged; nothing is written.
    """
    inputs = draw_golden_inputs()
    with lock(folder / LOCK):
        manifest = read_manifest(folder)
        files: dict[str, Any] = {}
        if manifest is not None and manifest.golden == tuple(golden.record for golden in inputs):
            files = dict(manifest.files)
        files[name] = dict(entry)
        _remove_partial_files(folder)
        write_golden_inputs(folder, inputs)
        write_bytes(folder / name, content)
        write_json(
            folder / MANIFEST,
            {
                "format": FORMAT,
                **CONTRACT,
                "golden": [_described(golden.record) for golden in inputs],
                "files": dict(sorted(files.items())),
            },
        )


def _remove_partial_files(folder: Path) -> None:
    """Remove the temporary files of exports that were killed. Whoever holds the lock knows that no other is writing."""
    for pattern in (".*.onnx.*.partial", f".{MANIFEST}.*.partial", "golden/.*.bin.*.partial"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _described(record: GoldenRecord) -> dict[str, Any]:
    return {"file": record.file, "shape": list(record.shape), "sha256": record.sha256}
