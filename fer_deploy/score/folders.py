"""Values in the names of folders, as Hive, Spark and Arrow write them: `label=happy/part-0.parquet`.

Each name becomes a column of the output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import unquote

import pyarrow as pa

from fer_deploy.emotions import EMOTIONS
from fer_deploy.score.sources import output_name

MOST_COLUMNS = 32
"""More names of folders than this do not become columns."""

_NULL = "__HIVE_DEFAULT_PARTITION__"


def folder_values(path: str) -> dict[str, str | None]:
    """The values in a path's folders, by name.

    >>> folder_values("year=2024/label=very%20happy/a=b.png")
    {'year': '2024', 'label': 'very happy'}
    """
    values: dict[str, str | None] = {}
    for folder in path.split("/")[:-1]:
        name, mark, value = folder.partition("=")
        if name and mark:
            values[unquote(name)] = None if value == _NULL else unquote(value)
    return values


def folder_names(paths: Iterable[str]) -> tuple[str, ...]:
    """The names in the folders of all paths, in the order of their first occurrence; `MOST_COLUMNS` at most."""
    names: dict[str, None] = {}  # a set that keeps its order
    for path in paths:
        names.update(dict.fromkeys(folder_values(path)))
    return tuple(names)[:MOST_COLUMNS]


def add_folder_columns(keys: pa.Table, names: Sequence[str], *, labels: Sequence[str] = EMOTIONS) -> pa.Table:
    """Add one string column per name to a block's keys; null where a path has no such folder.

    Args:
        keys: the keys of a block. The first column is the path of the row's file.
        names: the names. A name that is a column of the file itself is not added again.
        labels: the model's labels.
    """
    if not names:
        return keys
    values = [folder_values(path) for path in keys.column(0).to_pylist()]
    for name in names:
        column = output_name(name, keys.column_names, labels=labels)
        if name not in keys.column_names and column not in keys.column_names:
            keys = keys.append_column(column, pa.array([row.get(name) for row in values], pa.string()))
    return keys
