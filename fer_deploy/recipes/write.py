"""A recipe as TOML with every value, ready to be copied and changed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from fer_deploy.recipes.load import recipe_to_dict
from fer_deploy.recipes.schema import Recipe


def recipe_to_toml(recipe: Recipe) -> str:
    """TOML text; `parse_recipe` reads it back as an equal recipe."""
    content = recipe_to_dict(recipe)
    stages = content.pop("stage")
    lines = [f"{key} = {_value(value)}" for key, value in content.items()]
    for number, stage in enumerate(stages, 1):
        lines += [
            "",
            f"[[stage]]  # {number} of {len(stages)}",
            *(f"{key} = {_value(value)}" for key, value in stage.items()),
        ]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        entries = ", ".join(f"{_key(key)} = {_value(entry)}" for key, entry in value.items())
        return f"{{ {entries} }}" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML forbids the character itself
    return repr(value)


def _key(key: str) -> str:
    """A key, quoted where TOML demands it: a network's option may have any name."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)
