"""Editing a graph's lists in place, which several steps need."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def keep(field: Any, wanted: Collection[int]) -> None:
    """Keep the items of a repeated field (nodes, weights, outputs) whose positions are in `wanted`, in their order."""
    chosen = set(wanted)
    for position in range(len(field) - 1, -1, -1):
        if position not in chosen:
            del field[position]
