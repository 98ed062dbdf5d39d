"""A run's record, `run.json`: read, checked and compared without loading PyTorch.

Records come from elsewhere too, with downloaded runs: whatever the package uses of one has been checked here first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import RecipeError, RunError, brief, one_line
from fer_deploy.files import read_json, shown
from fer_deploy.labels import check_labels
from fer_deploy.recipes import Recipe, recipe_from_dict, recipe_to_dict

if TYPE_CHECKING:
    from fer_deploy.faces import Dataset

RUN_FORMAT = 1
"""Version of run.json's layout."""


MAXIMUM_BYTES = 8 * 1024 * 1024
"""Of a record. Usual ones have 5 kB."""


@dataclass(frozen=True)
class _Kind:
    """What a value of the record may be."""

    words: str
    accepts: Callable[[Any], bool]


def _whole(low: int, high: int) -> _Kind:
    return _Kind(
        f"a whole number from {low:,} to {high:,}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
    )


def _number(low: float, high: float) -> _Kind:
    return _Kind(
        f"a number from {low:,} to {high:,}",
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high,
    )


def _optional(kind: _Kind) -> _Kind:
    return _Kind(f"{kind.words}, or null", lambda value: value is None or kind.accepts(value))


_TEXT = _Kind(
    "printable text of at most 2,000 characters",
    lambda value: isinstance(value, str) and len(value) <= 2000 and value.isprintable(),
)
_TABLE = _Kind("a table", lambda value: isinstance(value, dict))
_FLAG = _Kind("true or false", lambda value: isinstance(value, bool))
_SHA256 = _Kind(
    "64 hexadecimal digits", lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
)
_COUNT = _whole(0, 10**15)


def _are_labels(value: Any) -> bool:
    """Whether a value is a list of class names that `check_labels` leaves unchanged."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return False
    with suppress(ValueError):
        return list(check_labels(value)) == value
    return False


_KINDS: Mapping[str, _Kind] = {
    "status": _Kind("'training' or 'complete'", lambda value: value in ("training", "complete")),
    "name": _TEXT,
    "title": _Kind("text", lambda value: isinstance(value, str)),
    "best": _optional(_TABLE),
    "best.stage": _whole(1, 10**12),
    "best.epoch": _whole(1, 10**12),
    "best.validation_accuracy": _number(0, 1),
    "best.validation_macro_f1": _number(0, 1),
    "temperature": _optional(_number(0.05, 20)),  # the range of ensemble.fit_temperature
    "weights_sha256": _Kind("64 hexadecimal digits, or empty", lambda value: value == "" or _SHA256.accepts(value)),
    "parameters": _COUNT,
    "gflops": _number(0, 10**6),  # the largest network of the registry has 0.9
    "epochs_run": _whole(0, 10**12),
    "epochs_planned": _whole(0, 10**12),
    "images_seen": _COUNT,
    "initialisation": _TEXT,
    "seed": _whole(0, 2**63),
    "data": _TABLE,
    "data.name": _TEXT,
    "data.official": _FLAG,
    "data.labels": _Kind("a list of 2 to 1,000 different class names", _are_labels),
    "data.sha256": _SHA256,
    "data.training_rows": _COUNT,
    "data.copies_left_out": _COUNT,
    "data.validation_rows": _COUNT,
    "data.label_map": _TABLE,
    "data.split": _TABLE,
    "data.summary": _TABLE,
    "data.class_weights": _Kind("a list of numbers", lambda value: isinstance(value, list)),
    "data.unlabelled_faces": _COUNT,
    "data.unlabelled_sha256": _SHA256,
    "started": _TEXT,
    "finished": _optional(_TEXT),
    "seconds": _number(0, 10**10),
    "machine": _TABLE,
    "machine.device": _TEXT,
    "versions": _TABLE,
    "recipe": _TABLE,
    "fingerprint": _TABLE,
}
"""The values that a record may have, by key; `a.b` is key b of table a. Other keys are not used by anything."""


def has_record(folder: Path) -> bool:
    """Whether a folder is a run's: it has a `run.json`, whatever is in it. The name may come from a model file."""
    return os.path.isfile(folder / "run.json")  # noqa: PTH113  Path.is_file raises for names that are too long


def read_record(path: Path) -> dict[str, Any]:
    """A `run.json`'s content, which has at least `format` and `status`; every value in it has its type and range.

    Raises:
        RunError: it cannot be read, is no record of this format, or a value is of another type or out of range.
    """
    try:
        record = read_json(path, what="run record", error=RunError, maximum_bytes=MAXIMUM_BYTES)
    except RunError as error:
        raise RunError(f"{error}: {REMEDY}") from error
    if not isinstance(record, dict) or record.get("format") != RUN_FORMAT or "status" not in record:
        raise RunError(f"{shown(path)}: is not a run record of format {RUN_FORMAT}")
    for key, kind in _KINDS.items():
        table: Any = record
        *tables, name = key.split(".")
        for part in tables:
            table = table.get(part) or {}
        if name in table and not kind.accepts(table[name]):
            value = one_line(repr(table[name]), limit=60)
            raise RunError(f"{shown(path)}: damaged run record: {key} must be {kind.words}, got {value}: {REMEDY}")
    return record


REMEDY = "fetch the run again, or train it with --restart"


def required(record: Mapping[str, Any], key: str, path: Path) -> Any:
    """A value that a use of the record needs.

    Args:
        record: from `read_record`.
        key: the value's, `a.b` for key b of table a.
        path: the record's, for the error.

    Raises:
        RunError: it is missing.
    """
    value: Any = record
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
        raise RunError(f"{shown(path)}: damaged run record: {key} is missing: {REMEDY}")
    return value


def recorded_recipe(record: Mapping[str, Any], path: Path) -> Recipe:
    """The recipe of a record.

    Raises:
        RunError: it is missing, or has a key or value that the schema refuses.
    """
    try:
        return recipe_from_dict(required(record, "recipe", path), source="recipe")
    except RecipeError as error:
        raise RunError(f"{shown(path)}: damaged run record: {error}: {REMEDY}") from error


def fingerprint(recipe: Recipe, dataset: Dataset, *, seed: int) -> dict[str, Any]:
    """What must be equal for a run to be resumed: recipe, data and seed."""
    return {"recipe": recipe_to_dict(recipe), "data": dataset.sha256, "seed": seed}


def is_complete(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether a run folder holds the complete run of a fingerprint.

    Raises:
        RunError: it holds another run, or its record is damaged.
    """
    path = folder / "run.json"
    if not os.path.lexists(path):
        return False
    try:
        record = read_record(path)
    except RunError as error:
        raise RunError(f"{error}; --restart replaces it") from error
    difference = _first_difference(_comparable(record.get("fingerprint"), path), _comparable(wanted, path))
    if difference:
        raise RunError(
            f"{folder}: holds a run that differs in {difference}: train with the same value to resume it, choose "
            "another name with --name, or replace the run with --restart"
        )
    return bool(record["status"] == "complete")


def _comparable(content: Any, path: Path) -> Any:
    """A fingerprint without the recipe's title, which changes nothing, and with defaults for keys newer than it."""
    if not isinstance(content, dict) or not isinstance(content.get("recipe"), dict):
        return content
    recipe = content["recipe"]
    with suppress(RecipeError):
        recipe = recipe_to_dict(recipe_from_dict(recipe, source=str(path)))
    return {**content, "recipe": {key: value for key, value in recipe.items() if key != "title"}}


def _first_difference(old: Any, new: Any, where: str = "") -> str:
    """The first key at which two nested values differ, with both values; empty if they are equal."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*new, *(key for key in old if key not in new)]:
            difference = _first_difference(old.get(key), new.get(key), f"{where}{key}.")
            if difference:
                return difference
        return ""
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        for place, (left, right) in enumerate(zip(old, new, strict=True)):
            difference = _first_difference(left, right, f"{where}{place}.")
            if difference:
                return difference
        return ""
    if old == new:
        return ""
    return f"{where.rstrip('.')} (the folder's: {brief(old)}, yours: {brief(new)})"


def labels_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of a record; records without them are of runs with the seven."""
    return tuple((record.get("data") or {}).get("labels") or EMOTIONS)
