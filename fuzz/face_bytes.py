"""A small picture and a small table, to be changed."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(48 * 48, dtype=np.uint8).reshape(48, 48)).save(buffer, "PNG")
    return buffer.getvalue()


FACE = _png()
"""A grey picture of 48x48."""


def table(header: bytes = b"emotion,pixels,Usage") -> bytes:
    """A table with 28 rows, all labels in all three splits, in the order of the columns of FER2013's file."""
    rows = [header]
    for number in range(28):
        pixels = " ".join(str((number * 7 + i) % 256) for i in range(48 * 48)).encode()
        usage = (b"Training", b"Training", b"PublicTest", b"PrivateTest")[number // 7]
        values = (
            [b"%d" % (number % 7), pixels, usage]
            if b"emotion,pixels" in header
            else [b"%d" % (number % 7), usage, pixels]
        )
        rows.append(b",".join(values))
    return b"\n".join(rows) + b"\n"
