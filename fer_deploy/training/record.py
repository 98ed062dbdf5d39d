"""A run's record, `run.json`: read and compared without loading PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_deploy.errors import RecipeError, RunError
from fer_deploy.files import read_json
from fer_deploy.recipes import Recipe, recipe_from_dict, recipe_to_dict

if TYPE_CHECKING:
    from fer_deploy.faces import Dataset

RUN_FORMAT = 1
"""Version of run.json's layout."""


def read_record(path: Path) -> dict[str, Any]:
    """A `run.json`'s content, which has at least `format` and `status`.

    Raises:
        RunError: it cannot be read, or is no record of this format.
    """
    try:
        record = read_json(path, what="run record", error=RunError)
    except RunError as error:
        raise RunError(f"{error}: fetch it again, or move its folder away") from error
    if not isinstance(record, dict) or record.get("format") != RUN_FORMAT or "status" not in record:
        raise RunError(f"{path}: is not a run record of format {RUN_FORMAT}")
    return record


def fingerprint(recipe: Recipe, dataset: Dataset, *, seed: int) -> dict[str, Any]:
    """What must be equal for a run to be resumed: recipe, data and seed."""
    return {"recipe": recipe_to_dict(recipe), "data": dataset.sha256, "seed": seed}


def is_complete(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether a run folder holds the complete run of a fingerprint.

    Raises:
        RunError: it holds another run, or its record is damaged.
    """
    path = folder / "run.json"
    if not path.exists():
        return False
    try:
        record = read_record(path)
    except RunError as error:
        raise RunError(f"{error}; --restart replaces it") from error
    difference = _first_difference(_comparable(record.get("fingerprint"), path), _comparable(wanted, path))
    if difference:
        raise RunError(
            f"{folder}: holds a run with another {difference}: train with the same value to resume it, choose another "
            "name with --name, or replace the run with --restart"
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
    return f"{where.rstrip('.')} (the folder's: {_short(old)}, yours: {_short(new)})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:18] + "…"
