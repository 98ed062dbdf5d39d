"""Blocks of a Markdown page that a script fills: what lies between `<!-- NAME -->` and `<!-- /NAME -->`."""

from __future__ import annotations

from fer_deploy.errors import MeasurementError


def with_block(text: str, name: str, content: str) -> str:
    """`text` with the block's content replaced; everything around the block stays.

    Raises:
        MeasurementError: the block is missing, or has no end.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, opened, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened:
        raise MeasurementError(f"the page has no block {name!r}: add {begin} and {end}")
    if not closed:
        raise MeasurementError(f"the block {name!r} has no end: add {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"
