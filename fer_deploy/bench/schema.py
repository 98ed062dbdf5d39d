"""Checks a value against a JSON Schema, so that the file of the schema is the only place with types and ranges.

Only the keywords of `KEYWORDS` are understood; a test holds the report's schema to them. An installation need not have
a general validator for that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from fer_deploy.errors import brief

KEYWORDS = frozenset(
    {
        "$schema", "$defs", "$ref", "title", "description", "type", "const", "enum", "oneOf", "required", "properties",
        "additionalProperties", "items", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "pattern",
    }
)  # fmt: skip
"""The keywords that are understood."""

_TYPES: Mapping[str, Callable[[Any], bool]] = MappingProxyType(
    {
        "null": lambda value: value is None,
        "boolean": lambda value: isinstance(value, bool),
        "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
        "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
        "string": lambda value: isinstance(value, str),
        "array": lambda value: isinstance(value, list),
        "object": lambda value: isinstance(value, dict),
    }
)


def check_schema(value: Any, schema: Mapping[str, Any]) -> None:
    """Check a value that was read from JSON.

    Raises:
        ValueError: it does not match; the message names the place: `rows[3].accuracy: 7.5 is more than 1`.
    """
    _check(value, schema, "", schema.get("$defs", {}))


def _check(value: Any, schema: Mapping[str, Any], where: str, definitions: Mapping[str, Any]) -> None:
    if "$ref" in schema:
        _check(value, definitions[schema["$ref"].rpartition("/")[2]], where, definitions)
    if "oneOf" in schema:
        alternatives = schema["oneOf"]  # in our schema: null, and one other
        _check(value, alternatives[0 if value is None else -1], where, definitions)
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_TYPES[kind](value) for kind in kinds):
            _refuse(where, f"{brief(value)} is not {' or '.join(kinds)}")
    for keyword in ("const", "enum"):
        allowed = [schema[keyword]] if keyword == "const" and "const" in schema else schema.get(keyword)
        if allowed is not None and value not in allowed:
            _refuse(where, f"{brief(value)} is none of {', '.join(map(str, allowed))}")
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        _refuse(where, f"{brief(value)} does not match {schema['pattern']}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_range(value, schema, where)
    if isinstance(value, list):
        _check_list(value, schema, where, definitions)
    if isinstance(value, dict):
        _check_object(value, schema, where, definitions)


def _check_range(value: float, schema: Mapping[str, Any], where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        _refuse(where, f"{value} is not finite")
    if "minimum" in schema and value < schema["minimum"]:
        _refuse(where, f"{brief(value)} is less than {schema['minimum']}")
    if "maximum" in schema and value > schema["maximum"]:
        _refuse(where, f"{brief(value)} is more than {schema['maximum']}")
    if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
        _refuse(where, f"{brief(value)} is not more than {schema['exclusiveMinimum']}")


def _check_list(value: list[Any], schema: Mapping[str, Any], where: str, definitions: Mapping[str, Any]) -> None:
    least, most = schema.get("minItems", 0), schema.get("maxItems", len(value))
    if not least <= len(value) <= most:
        _refuse(where, f"{len(value)} entries, {least} to {most} are allowed")
    if "items" in schema:
        for index, item in enumerate(value):
            _check(item, schema["items"], f"{where}[{index}]", definitions)


def _check_object(value: dict[str, Any], schema: Mapping[str, Any], where: str, definitions: Mapping[str, Any]) -> None:
    prefix = f"{where}." if where else ""
    for key in schema.get("required", ()):
        if key not in value:
            _refuse(prefix + key, "is missing")
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key, item in value.items():
        if key in properties:
            _check(item, properties[key], prefix + key, definitions)
        elif others is False:
            _refuse(prefix + key[:40], "is not a key of a report")
        elif isinstance(others, Mapping):
            _check(item, others, prefix + key[:40], definitions)


def _refuse(where: str, problem: str) -> None:
    raise ValueError(f"{where or 'the report'}: {problem}" if problem != "is missing" else f"{where} is missing")
