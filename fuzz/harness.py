"""What all checks share: valid inputs changed at random, and the one property that every reader must have.

A check runs Hypothesis again and again, with new random inputs, until its share of FUZZ_SECONDS is over. Inputs
that fail are kept in .fuzz/, so that the next run tries them first; when one is understood, it becomes a test in tests/
and, if it is short, an example here.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase

from fer_deploy.errors import FerDeployError, printable

ROOT = Path(__file__).resolve().parents[1]
SECONDS = float(os.environ.get("FUZZ_SECONDS", "600"))
EXAMPLES_PER_ROUND = 50
KEPT = Path(os.environ.get("FUZZ_KEPT", ROOT / ".fuzz"))
"""Folder of the inputs that failed, by check."""

_share = SECONDS


def share_time(checks: int) -> None:
    """Give each of so many checks an equal share of the time."""
    global _share
    _share = SECONDS / max(checks, 1)


def search(check: Callable[..., None], /, **strategies: st.SearchStrategy[Any]) -> None:
    """Try `check` on drawn values until its share of the time is over.

    Raises:
        Exception: whatever `check` raises, after Hypothesis has made the input as small as it can.
    """
    end = math.inf  # until the first input: Hypothesis takes seconds to start
    tried = 0
    failing = False

    def counted(**values: Any) -> None:
        nonlocal end, tried, failing
        if not tried:
            end = time.monotonic() + _share
        if failing or time.monotonic() < end:  # a failing input is made smaller, however long that takes
            tried += 1
            failing = True
            check(**values)
            failing = False

    counted.__name__ = counted.__qualname__ = name = check.__qualname__.partition(".")[0]
    configured = settings(
        max_examples=EXAMPLES_PER_ROUND,
        deadline=timedelta(seconds=20),  # a reader that takes longer hangs
        database=DirectoryBasedExampleDatabase(KEPT / name),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        report_multiple_bugs=False,
    )
    while time.monotonic() < end:
        configured(given(**strategies)(counted))()
    print(f"{name}: {tried:,} inputs in {_share:.0f} s")


def refuses_cleanly(read: Callable[[], object]) -> bool:
    """Read hostile input: it is accepted, or refused with one short line. Anything else is a fault.

    Returns:
        Whether it was accepted.
    """
    try:
        read()
    except FerDeployError as error:
        text = str(error)
        assert text, "an error without a message"
        assert text == printable(text), f"control characters in an error: {text!r}"
        assert len(text) < 4000, f"an error of {len(text):,} characters"
        return False
    return True


EXTREMES = (
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\x80",
    b"\xff" * 9 + b"\x01",
    b"\x80" * 12,
)
"""Numbers at the ends of their ranges, and varints that do not end."""


@st.composite
def changed_bytes(draw: st.DrawFn, originals: Sequence[bytes], words: Sequence[bytes] = ()) -> bytes:
    """One of the originals with up to eight changes: bytes replaced, inserted, removed, repeated or moved."""
    content = bytearray(draw(st.sampled_from(originals)))
    pieces = st.one_of(st.binary(max_size=12), st.sampled_from((*EXTREMES, *words)))
    for _ in range(draw(st.integers(0, 8))):
        start = draw(st.integers(0, len(content)))
        length = draw(st.one_of(st.integers(0, 8), st.integers(0, max(0, len(content) - start))))
        change = draw(st.sampled_from(("replace", "insert", "remove", "repeat", "cut", "flip")))
        if change == "replace":
            piece = draw(pieces)
            content[start : start + len(piece)] = piece
        elif change == "insert":
            content[start:start] = draw(pieces)
        elif change == "remove":
            del content[start : start + length]
        elif change == "repeat":
            content[start:start] = bytes(content[start : start + length]) * draw(st.integers(1, 4))
        elif change == "cut":
            del content[start:]
        elif start < len(content):
            content[start] ^= 1 << draw(st.integers(0, 7))
        del content[1_000_000:]
    return bytes(content)


NUMBERS = st.one_of(
    st.integers(-3, 10),
    st.integers(),
    st.sampled_from([2**31, 2**63, -(2**63), 2**64, 10**400]),
    st.floats(),
)

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), NUMBERS, st.text(max_size=20), st.sampled_from(["\x1b[2J", "../../x", "a" * 5000])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)


@st.composite
def changed_json(draw: st.DrawFn, originals: Sequence[Any]) -> Any:
    """One of the originals with up to four values or keys replaced, removed or added, at any depth."""
    document = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        holder: Any = None
        key: Any = None
        value = document
        while isinstance(value, dict | list) and value and (holder is None or draw(st.integers(0, 3))):
            holder = value
            key = (
                draw(st.sampled_from(sorted(value)))
                if isinstance(value, dict)
                else draw(st.integers(0, len(value) - 1))
            )
            value = holder[key]
        change = draw(st.sampled_from(("replace", "replace", "remove", "add")))
        if holder is None or (change == "replace" and draw(st.integers(0, 30)) == 0):
            return draw(JSON_VALUES)
        if change == "replace":
            holder[key] = draw(JSON_VALUES)
        elif change == "remove":
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=10))] = draw(JSON_VALUES)
        else:
            holder.insert(key, draw(JSON_VALUES))
    return document


def json_bytes(document: Any) -> bytes:
    """A document as Python writes it, NaN and huge numbers included."""
    return json.dumps(document, allow_nan=True).encode("utf-8", "surrogatepass")
