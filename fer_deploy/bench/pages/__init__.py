"""The report as people read it: in a terminal, as Markdown and as a web page."""

from typing import Literal, get_args

SortKey = Literal["accuracy", "gflops", "efficiency", "latency", "name"]
"""What the rows of the main table can be sorted by."""

SORT_KEYS: tuple[SortKey, ...] = get_args(SortKey)
