"""The registry of networks by name, and the one way to build any of them."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from torch import nn

from fer_deploy.errors import RecipeError
from fer_deploy.models.entry import NetworkEntry
from fer_deploy.models.inception import INCEPTION_NETWORKS
from fer_deploy.models.mobile import MOBILE_NETWORKS
from fer_deploy.models.plain import PLAIN_NETWORKS
from fer_deploy.models.study import STUDY_NETWORKS
from fer_deploy.models.timm_networks import LARGEST_NUMBER, build_timm, is_timm, timm_options

_entries: dict[str, NetworkEntry] = {}

NETWORKS: Mapping[str, NetworkEntry] = MappingProxyType(_entries)
"""Every registered network by its name. Read-only: use `register_network` to add one."""


def register_network(entry: NetworkEntry) -> NetworkEntry:
    """Add a network to `NETWORKS`, where recipes find it and every test of the registry covers it.

    Raises:
        ValueError: the name is taken, or a field of its options has no default.
    """
    if entry.name in _entries:
        raise ValueError(f"a network named '{entry.name}' is registered already")
    try:
        entry.options_type()
    except TypeError as error:
        raise ValueError(f"network '{entry.name}': every option needs a default ({error})") from error
    _entries[entry.name] = entry
    return entry


def network_entry(name: str) -> NetworkEntry:
    """The entry of a network. RecipeError, with the nearest name, if it does not exist."""
    if name not in NETWORKS:
        raise RecipeError(f"there is no network '{name}'{_nearest(name, NETWORKS)}")
    return NETWORKS[name]


def network_options(name: str, options: Mapping[str, Any]) -> Any:
    """The checked options of network `name`: an instance of its frozen options dataclass; of timm's networks a dict.

    Lists are accepted as tuples and whole numbers as floats, as TOML and JSON write them.

    Raises:
        RecipeError: an option is unknown (with the nearest one), or has a wrong type or value.
    """
    if is_timm(name):
        return timm_options(name, options)
    entry = network_entry(name)
    hints = typing.get_type_hints(entry.options_type)
    known = [field.name for field in fields(entry.options_type)]
    checked = {}
    for key, value in options.items():
        if key not in known:
            raise RecipeError(f"network '{name}' has no option '{key}'{_nearest(key, known)}")
        checked[key] = _checked(name, key, value, hints[key])
    try:
        return entry.options_type(**checked)
    except ValueError as error:
        raise RecipeError(f"network '{name}': {error}") from error


def build_network(name: str, *, classes: int = 7, input_size: int = 48, **options: Any) -> nn.Module:
    """Build network `name` with its own default initialisation, in training mode.

    Args:
        name: of `NETWORKS`, or `timm/` and the name of a classification network of timm.
        classes: outputs.
        input_size: side of the faces in pixels. Only networks of timm with parameters for each position depend on it.
        options: the network's options.

    Returns:
        A module from float32 faces (n, 1, s, s), normalised to [-1, 1], to float32 logits (n, classes).

    Raises:
        RecipeError: the name, an option or the number of classes is not valid, or a network of timm does not take
            faces of that size.
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise RecipeError(f"network '{name}': classes must be a whole number of at least 1, got {classes!r}")
    if is_timm(name):
        return build_timm(name, classes=classes, input_size=input_size, options=options)
    checked = network_options(name, options)
    return network_entry(name).build(classes, checked)


def _nearest(word: str, known: typing.Iterable[str]) -> str:
    names = sorted(known)
    if not names:
        return "; it has no options"
    close = difflib.get_close_matches(word, names, n=1)
    return f": did you mean '{close[0]}'?" if close else f"; there is {', '.join(names)}"


def _checked(network: str, key: str, value: Any, wanted: Any) -> Any:
    for number in value if isinstance(value, list | tuple) else [value]:
        if type(number) is int and abs(number) > LARGEST_NUMBER:  # would fill the memory, or overflow a float
            raise RecipeError(f"network '{network}': option '{key}' must be at most {LARGEST_NUMBER:,}")
    if wanted == tuple[int, ...]:
        if isinstance(value, list | tuple) and all(type(item) is int for item in value):
            return tuple(value)
        raise RecipeError(f"network '{network}': option '{key}' must be a list of whole numbers, got {value!r}")
    if wanted is float and type(value) in (int, float):
        return float(value)
    if type(value) is not wanted:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
        raise RecipeError(
            f"network '{network}': option '{key}' must be {words.get(wanted, str(wanted))}, got {value!r}"
        )
    return value


for _entry in (*STUDY_NETWORKS, *MOBILE_NETWORKS, *INCEPTION_NETWORKS, *PLAIN_NETWORKS):
    register_network(_entry)
