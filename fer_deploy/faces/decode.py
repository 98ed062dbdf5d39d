"""Encoded pictures as grey pictures of their own size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fer_deploy.pictures import read_picture, to_grey

LARGEST_SIDE = 512
"""A picture whose shorter side has more pixels is reduced to this when it is stored: no network sees more."""

MOST_PIXELS = 64_000_000
"""Pixels that one picture may have before it is reduced."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """A picture that was decoded.

    Attributes:
        grey: uint8 (height, width).
        colour: whether its channels differed.
        reduced: whether it was larger.
    """

    grey: NDArray[np.uint8]
    colour: bool
    reduced: bool


def decode(content: bytes, name: str) -> Decoded:
    """A picture as grey values (Rec. 601 luma), its shorter side at most `LARGEST_SIDE`. DataError, with `name`."""
    pixels = read_picture(content, name=name, maximum_pixels=MOST_PIXELS).pixels
    red = pixels[..., 0]
    colour = not (np.array_equal(red, pixels[..., 1]) and np.array_equal(red, pixels[..., 2]))
    grey = to_grey(pixels) if colour else np.ascontiguousarray(red)
    height, width = grey.shape
    shorter = min(height, width)
    if shorter <= LARGEST_SIDE:
        return Decoded(grey, colour, reduced=False)
    size = (max(1, round(height * LARGEST_SIDE / shorter)), max(1, round(width * LARGEST_SIDE / shorter)))
    return Decoded(resize(grey, *size), colour, reduced=True)


def resize(grey: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A grey picture at another size, uint8 (height, width): Pillow's bilinear filter with antialiasing.

    The exported graph resizes in the same way (its antialiased Resize).
    """
    if grey.shape == (height, width):
        return grey
    from PIL import Image

    return np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR))
