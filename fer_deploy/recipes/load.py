"""Recipes from TOML: the package's own by name, a user's by path, single values changed by `--set`."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from fer_deploy.errors import RecipeError
from fer_deploy.recipes.schema import Recipe
from fer_deploy.study import STUDY_VARIANTS

T = TypeVar("T")


def list_recipes() -> tuple[str, ...]:
    """Names of the package's recipes: the study's in the order of its table, then ours by name."""
    found = {entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml")}
    return (*(name for name in STUDY_VARIANTS if name in found), *sorted(found - set(STUDY_VARIANTS)))


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe by its name, or from a TOML file when `name` ends in `.toml`.

    Raises:
        RecipeError: no such recipe or file, or a key or value in it is wrong; names the file and the key.
    """
    if str(name).endswith(".toml"):
        path = Path(name)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"{path}: {error.strerror or error}: give the path of a recipe") from error
        except UnicodeDecodeError as error:
            raise RecipeError(f"{path}: is not UTF-8 text (byte {error.start})") from error
        return parse_recipe(text, source=str(path))
    known = list_recipes()
    if str(name) not in known:
        same = [entry for entry in known if entry.lower() == str(name).lower()]
        near = same or get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "`ferdeploy variants` lists them; a path must end in .toml"
        raise RecipeError(f"there is no variant {str(name)!r}: {hint}")
    return parse_recipe((_folder() / f"{name}.toml").read_text(encoding="utf-8"), source=f"{name}.toml")


def parse_recipe(text: str, *, source: str) -> Recipe:
    """Read a recipe from TOML text; `source` names it in errors.

    The tables are those of `fer_deploy.recipes.schema`; `[[stage]]` is repeated for each stage.
    """
    try:
        content = tomllib.loads(text)
    except ValueError as error:  # tomllib's own, or that of int() for thousands of digits
        raise RecipeError(f"{source}: is not TOML: {error}") from error
    return recipe_from_dict(content, source=source)


def recipe_from_dict(content: Mapping[str, Any], *, source: str) -> Recipe:
    """Make a recipe from nested dictionaries, as TOML or `recipe_to_dict` give them."""
    content = dict(content)
    content.pop("study", None)  # records of earlier runs hold the study's figures, which decide nothing about a run
    if "stage" in content:
        content["stages"] = content.pop("stage")
    recipe: Recipe = _build(Recipe, content, source, "")
    return recipe


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """A recipe as nested dictionaries and lists of JSON's types; `recipe_from_dict` reads it back equal."""
    content: dict[str, Any] = _plain(recipe)
    content["stage"] = content.pop("stages")
    return content


def apply_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Change single values: each setting reads `key.key=value`, stages by number from 0 (`stage.0.optimiser.lr=1e-3`).

    `stage.*.key=value` changes all stages. The value is TOML; a bare word is a string.

    Raises:
        RecipeError: the setting has no `=`, or names a key or value that the schema refuses.
    """
    content = recipe_to_dict(recipe)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set {setting}: write it as key=value, such as stage.0.optimiser.lr=1e-3")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except ValueError:
            value = text.strip()
        _put(content, key.strip().split("."), value, f"--set {setting}")
    return recipe_from_dict(content, source="--set " + " ".join(settings) if settings else recipe.name)


def field_documentation(table: type) -> dict[str, str]:
    """The string under each field of a schema's dataclass, by field name."""
    import ast
    import inspect
    import textwrap

    body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(table))).body[0]).body
    found = {}
    for statement, following in pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            found[statement.target.id] = str(following.value.value)
    return found


def _folder() -> Any:
    return resources.files("fer_deploy.recipes")


def _put(content: Any, keys: list[str], value: Any, source: str) -> None:
    key, *rest = keys
    if isinstance(content, list):
        if key == "*":
            targets: list[Any] = list(range(len(content)))
        elif key in map(str, range(len(content))):
            targets = [int(key)]
        else:
            raise RecipeError(f"{source}: there is no stage {key!r}: stages are 0 to {len(content) - 1}, or *")
    elif isinstance(content, dict):
        targets = [key]
    else:
        raise RecipeError(f"{source}: {key!r} lies below a single value")
    for target in targets:
        if not rest:
            content[target] = value
        else:
            if isinstance(content, dict) and content.get(target) is None:
                content[target] = {}
            _put(content[target], rest, value, source)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            entry.name: _plain(getattr(value, entry.name))
            for entry in dataclasses.fields(value)
            if getattr(value, entry.name) is not None
        }
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value


def _build(table: type[T], content: Any, source: str, where: str) -> T:
    if not isinstance(content, Mapping):
        raise RecipeError(f"{source}: {where or 'the recipe'} must be a table, got {content!r}")
    hints = typing.get_type_hints(table)
    fields = {entry.name: entry for entry in dataclasses.fields(typing.cast(Any, table))}
    for key in content:
        if key not in fields:
            near = get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}"
            raise RecipeError(f"{source}: unknown key {where + key!r}: {hint}")
    values = {key: _convert(hints[key], entry, source, where + key) for key, entry in content.items()}
    for key, entry in fields.items():
        needed = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if needed and key not in values:
            raise RecipeError(f"{source}: key {where + ('stage' if key == 'stages' else key)!r} is missing")
    try:
        return table(**values)
    except ValueError as error:
        raise RecipeError(f"{source}: {where}{error}") from error


def _convert(hint: Any, value: Any, source: str, where: str) -> Any:
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        options = [argument for argument in arguments if argument is not type(None)]
        if len(options) == 1:
            return _convert(options[0], value, source, where)
        if isinstance(value, list):  # OptionValue: any plain value, lists frozen
            return tuple(_convert(hint, entry, source, where) for entry in value)
        if isinstance(value, bool | int | float | str | tuple):
            return value
    elif origin is typing.Literal:
        if value in arguments:
            return value
        expected = ", ".join(repr(argument) for argument in arguments)
        raise RecipeError(f"{source}: {where} must be one of {expected}, got {value!r}")
    elif origin is tuple:
        if not isinstance(value, list | tuple):
            raise RecipeError(f"{source}: {where} must be a list, got {value!r}")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            name = "stage" if where == "stages" else where
            return tuple(_convert(arguments[0], entry, source, f"{name}.{i}") for i, entry in enumerate(value))
        if len(value) != len(arguments):
            raise RecipeError(f"{source}: {where} needs {len(arguments)} values, got {len(value)}")
        return tuple(
            _convert(argument, entry, source, f"{where}.{i}")
            for i, (argument, entry) in enumerate(zip(arguments, value, strict=True))
        )
    elif origin is not None and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {key: _convert(arguments[1], entry, source, f"{where}.{key}") for key, entry in value.items()}
        raise RecipeError(f"{source}: {where} must be a table, got {value!r}")
    elif dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, source, where + ".")
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError as error:
            raise RecipeError(f"{source}: {where} must be a finite number, got one too large for a float") from error
        if not math.isfinite(number):
            raise RecipeError(f"{source}: {where} must be a finite number, got {value}")
        return number
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    raise RecipeError(f"{source}: {where} must be {names.get(hint, 'a plain value')}, got {value!r}")
