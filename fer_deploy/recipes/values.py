"""From plain values, as TOML gives them, to the schema's dataclasses, with the key named where one is wrong."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from fer_deploy.errors import RecipeError, one_line

T = TypeVar("T")

SPELLINGS = {"stages": "stage"}
"""Fields that TOML spells otherwise: `[[stage]]` is repeated for each of the stages."""

NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


@dataclass(frozen=True)
class KeyPath:
    """The key of a value within a file, such as `stage.0.optimiser.lr`."""

    source: str
    key: str = ""

    def __truediv__(self, name: object) -> KeyPath:
        spelled = SPELLINGS.get(str(name), str(name))
        return KeyPath(self.source, f"{self.key}.{spelled}" if self.key else spelled)

    def wrong(self, message: str) -> RecipeError:
        """An error that begins with the file and the key."""
        return RecipeError(f"{self.source}: {one_line(self.key, limit=120) if self.key else 'the recipe'} {message}")


def build(table: type[T], content: object, place: KeyPath) -> T:
    """Make a dataclass from a table.

    Raises:
        RecipeError: a key is unknown or missing, or a value is wrong; names the file and the key.
    """
    if not isinstance(content, Mapping):
        raise place.wrong(f"must be a table, got {_brief(content)}")
    fields = {SPELLINGS.get(field.name, field.name): field for field in dataclasses.fields(typing.cast(Any, table))}
    for key in content:
        if key not in fields:
            near = get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}"
            raise RecipeError(f"{place.source}: unknown key {_brief((place / key).key)}: {hint}")
    for key, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if key not in content and not optional:
            raise RecipeError(f"{place.source}: key {_brief((place / key).key)} is missing")
    hints = typing.get_type_hints(table)
    values = {fields[key].name: convert(hints[fields[key].name], entry, place / key) for key, entry in content.items()}
    try:
        return table(**values)
    except ValueError as error:  # the schema's own checks, which begin with the field
        prefix = one_line(place.key, limit=120) + "." if place.key else ""
        raise RecipeError(f"{place.source}: {prefix}{one_line(error)}") from error


def convert(hint: Any, value: object, place: KeyPath) -> Any:
    """Convert a value to an annotated type.

    Raises:
        RecipeError: the value does not fit the type; names the file and the key.
    """
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, place)
    converter = CONVERTERS.get(typing.get_origin(hint) or hint)
    if converter is not None:
        return converter(hint, value, place)
    # bool is a kind of int in Python, and `patience = true` is a mistake
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise place.wrong(f"must be {NAMES[hint]}, got {_brief(value)}")


def _union(hint: Any, value: object, place: KeyPath) -> Any:
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if len(kinds) == 1:
        return convert(kinds[0], value, place)
    if len(kinds) == 2:  # a list or a table, or else a text
        other, text = kinds
        return convert(text if isinstance(value, str) else other, value, place)
    if isinstance(value, list):  # a network's option: lists become tuples, so that recipes can be compared and hashed
        return tuple(convert(hint, entry, place) for entry in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise place.wrong(f"must be a finite number, got {value}")
    if isinstance(value, bool | int | float | str | tuple):
        return value
    raise place.wrong(f"must be a plain value, got {_brief(value)}")


def _choice(hint: Any, value: object, place: KeyPath) -> Any:
    choices = typing.get_args(hint)
    if value in choices:
        return value
    raise place.wrong(f"must be one of {', '.join(map(repr, choices))}, got {_brief(value)}")


def _list(hint: Any, value: object, place: KeyPath) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise place.wrong(f"must be a list, got {_brief(value)}")
    kinds = typing.get_args(hint)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise place.wrong(f"needs {len(kinds)} values, got {len(value)}")
    return tuple(convert(kind, entry, place / i) for i, (kind, entry) in enumerate(zip(kinds, value, strict=True)))


def _mapping(hint: Any, value: object, place: KeyPath) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise place.wrong(f"must be a table, got {_brief(value)}")
    kind = typing.get_args(hint)[1]
    return {key: convert(kind, entry, place / key) for key, entry in value.items()}


def _number(_hint: Any, value: object, place: KeyPath) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise place.wrong(f"must be a number, got {_brief(value)}")
    try:
        number = float(value)
    except OverflowError as error:
        raise place.wrong("must be a finite number, got one too large for a float") from error
    if not math.isfinite(number):
        raise place.wrong(f"must be a finite number, got {_brief(value)}")
    return number


def _brief(value: object) -> str:
    """A value as a short line: a wrong one can be a whole file."""
    return one_line(repr(value), limit=80)


CONVERTERS: dict[Any, Callable[[Any, object, KeyPath], Any]] = {
    typing.Union: _union,
    types.UnionType: _union,
    typing.Literal: _choice,
    tuple: _list,
    Mapping: _mapping,
    float: _number,
}
"""How each kind of annotation is converted; all others must match without conversion."""
