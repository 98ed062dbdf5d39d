"""Write docs/recipes.md, the page of recipe keys, from the documentation of the schema's fields.

    python docs/tools/recipes.py

A test fails when the page is not current.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fer_deploy.recipes import Augmentation, Distillation, Loss, Mixing, Network, Optimiser, Recipe, Schedule, Stage
from fer_deploy.recipes.load import RELEASED, field_documentation, list_recipes
from fer_deploy.study import STUDY_VARIANTS

PAGE = Path(__file__).resolve().parents[1] / "recipes.md"

TABLES: dict[str, type] = {
    "Top level": Recipe,
    "network": Network,
    "stage": Stage,
    "stage.optimiser": Optimiser,
    "stage.schedule": Schedule,
    "stage.loss": Loss,
    "stage.mixing": Mixing,
    "augmentation": Augmentation,
    "distillation": Distillation,
}
"""Sections of the page, by the key of their table."""

HEAD = """\
# Recipes

A recipe is one TOML file that determines a trained network, except for the data and the seed.
`ferdeploy variants` lists the recipes, and `ferdeploy variants NAME` prints one with every value.
To make your own, copy one, change it and its `name`, and train it:

```sh
ferdeploy variants B > my.toml
ferdeploy train my.toml
```

To change single values for one run, use `--set`:

```sh
ferdeploy train B --set stage.0.optimiser.lr=5e-3 --set 'stage.*.clip=1' --name B-slow
```

`ferdeploy train NAME` finds recipes in two places: in the package, and in `training/recipes/` of the workspace.
The package's recipes come first.

{names}

This page is generated from `fer_deploy/recipes/schema.py`.
Every key is checked: a wrong key or value is an error that names the file, the key and the nearest known key.
"""


def render() -> str:
    """The page's text."""
    return "\n".join([HEAD.format(names=_names()), *(_section(key, table) for key, table in TABLES.items())])


def _names() -> str:
    others = [name for name in list_recipes() if name not in STUDY_VARIANTS and name not in RELEASED]
    return "\n".join(
        f"- {what}: {', '.join(f'`{name}`' for name in names)}."
        for what, names in (
            ("The study's variants", STUDY_VARIANTS),
            ("The released networks", RELEASED),
            ("What those need, and the quick start's `plain-small`", others),
        )
    )


def _section(key: str, table: type) -> str:
    title = key if key == "Top level" else f"`[[{key}]]`" if key == "stage" else f"`{key}`"
    documentation = field_documentation(table)
    hints = typing.get_type_hints(table)
    purpose = (table.__doc__ or "").partition("\n\n")[0]
    rows = [
        f"| `{'stage' if field.name == 'stages' else field.name}` | {_kind(hints[field.name])} | {_default(field)} "
        f"| {_cell(documentation[field.name])} |"
        for field in dataclasses.fields(table)
    ]
    return "\n".join(
        [
            f"## {title}\n",
            *_sentences(purpose),
            "",
            "| key | type | default | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _sentences(text: str) -> list[str]:
    """One sentence per line."""
    return re.sub(r"(?<=\.)\s+(?=[A-Z])", "\n", " ".join(text.split())).split("\n")


def _cell(text: str) -> str:
    """A field's documentation in one table cell; list items become lines."""
    lines: list[str] = []
    for line in text.strip().splitlines():
        stripped = line.strip()
        if stripped.startswith("- "):
            lines.append("<br>" + stripped[2:])
        elif stripped:
            lines.append(stripped)
    return " ".join(lines).replace("|", "\\|")


def _kind(hint: Any) -> str:
    """An annotation in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [argument for argument in arguments if argument is not type(None)]
        return " or ".join(map(_kind, kinds)) if len(kinds) <= 2 else "value"
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        repeated = arguments[-1] is Ellipsis
        return f"list of {_kind(arguments[0])}s" if repeated else f"{len(arguments)} {_kind(arguments[0])}s"
    if origin is Mapping or dataclasses.is_dataclass(hint):
        return "table"
    return {int: "whole number", float: "number", str: "string", bool: "true or false"}[hint]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "required"
    if field.default is dataclasses.MISSING or field.default is None:
        return ""
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{str(value).lower() if isinstance(value, bool) else repr(value)}`".replace("'", '"')


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
