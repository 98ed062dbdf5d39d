"""Recipes from TOML: by name from the package or the workspace, or by path, with single values changed by `--set`."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from fer_deploy.errors import RecipeError, one_line
from fer_deploy.files import parse_toml, read_toml, shown
from fer_deploy.recipes.schema import LATER, Recipe
from fer_deploy.recipes.values import KeyPath, build
from fer_deploy.study import STUDY_VARIANTS

RELEASED = ("plain-small-distilled", "lite-mini-taught", "lite-five-taught", "plain-distilled-2", "lite2-96-taught-3")
"""The networks of the released files, by cost. The package's further recipes are the teachers and first weights of
these, and `plain-small`, which the quick start trains."""

EXPERIMENTS = Path("training", "recipes")
"""The folder of a workspace that holds recipes of its own."""

MAXIMUM_DEPTH = 20
"""Parts of a key of `--set`; a recipe's own keys have four at most, and a network's options a few more."""


def list_recipes() -> tuple[str, ...]:
    """Names of the package's recipes: the study's in the order of its table, the released ones, then the others."""
    names = {entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml")}
    first = (*STUDY_VARIANTS, *RELEASED)
    return (*first, *sorted(names - set(first)))


def list_experiments(workspace: Path) -> tuple[str, ...]:
    """Names of the recipes in a workspace's `training/recipes/`, sorted."""
    return tuple(sorted(path.stem for path in (workspace / EXPERIMENTS).glob("*.toml")))


def load_recipe(name: str | Path, *, workspace: Path | None = None) -> Recipe:
    """Read a recipe.

    Args:
        name: one of the package's, else the stem of a file in the workspace's `training/recipes/`; or the path of a
            TOML file, which ends in `.toml`.
        workspace: the current folder where it is None.

    Raises:
        RecipeError: no such recipe or file, or a key or value in it is wrong; names the file and the key.
    """
    if str(name).endswith(".toml"):
        return _read(Path(name))
    known = list_recipes()
    if name in known:
        return parse_recipe((_folder() / f"{name}.toml").read_text(encoding="utf-8"), source=f"{name}.toml")
    experiments = list_experiments(workspace or Path())
    if name in experiments:
        return _read((workspace or Path()) / EXPERIMENTS / f"{name}.toml")
    every = (*known, *experiments)
    same = [entry for entry in every if entry.lower() == str(name).lower()]
    near = same or get_close_matches(str(name), every, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "`ferdeploy variants --all` lists them; a path must end in .toml"
    raise RecipeError(f"there is no variant {one_line(repr(str(name)))}: {hint}")


def parse_recipe(text: str, *, source: str) -> Recipe:
    """Read a recipe from TOML text; `source` names it in errors.

    The tables are those of `fer_deploy.recipes.schema`; `[[stage]]` is repeated for each stage.
    """
    return recipe_from_dict(parse_toml(text, source=source, what="recipe"), source=source)


def recipe_from_dict(content: object, *, source: str) -> Recipe:
    """Make a recipe from nested dictionaries, as TOML or `recipe_to_dict` give them.

    Raises:
        RecipeError: the content is not a recipe; names `source` and the key.
    """
    if isinstance(content, Mapping):  # records of earlier runs hold the study's figures, which decide nothing
        content = {key: value for key, value in content.items() if key != "study"}
    try:
        return build(Recipe, content, KeyPath(source))
    except RecursionError:
        raise RecipeError(f"{source}: damaged recipe: its values are nested too deep") from None


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
            raise RecipeError(f"--set {one_line(setting)}: write it as key=value, such as stage.0.optimiser.lr=1e-3")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            value = text.strip()
        keys = key.strip().split(".")
        if len(keys) > MAXIMUM_DEPTH:
            raise RecipeError(f"--set {one_line(setting)}: no key of a recipe has {len(keys)} parts")
        _put(content, keys, value, f"--set {one_line(setting)}")
    source = one_line("--set " + " ".join(settings)) if settings else recipe.name
    return recipe_from_dict(content, source=source)


def field_documentation(table: type) -> dict[str, str]:
    """The string under each field of a dataclass, by field name; empty where its source is not installed."""
    import ast
    import inspect
    import textwrap

    try:
        source = textwrap.dedent(inspect.getsource(table))
    except OSError:
        return {}
    body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
    documentation = {}
    for statement, following in pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            documentation[statement.target.id] = str(following.value.value)
    return documentation


def _folder() -> Any:
    return resources.files("fer_deploy.recipes")


def _read(path: Path) -> Recipe:
    return recipe_from_dict(read_toml(path, what="recipe"), source=shown(path))


def _put(content: Any, keys: list[str], value: Any, source: str) -> None:
    key, *rest = keys
    quoted = one_line(repr(key), limit=40)
    if isinstance(content, list):
        if key == "*":
            targets: list[Any] = list(range(len(content)))
        elif key in map(str, range(len(content))):
            targets = [int(key)]
        else:
            raise RecipeError(f"{source}: there is no stage {quoted}: stages are 0 to {len(content) - 1}, or *")
    elif isinstance(content, dict):
        targets = [key]
    else:
        raise RecipeError(f"{source}: {quoted} lies below a single value")
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
            and not (entry.metadata == LATER and getattr(value, entry.name) == entry.default)
        }
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value
