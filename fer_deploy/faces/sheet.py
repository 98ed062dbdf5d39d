"""A contact sheet: some pictures of each class, side by side, to see wrong labels and bad crops at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import DataError
from fer_deploy.files import replacing, shown

if TYPE_CHECKING:
    from PIL import Image, ImageFont

CELL = 72
"""Side of a picture on the sheet, in pixels."""

COLUMNS = 16
"""Pictures in a row of the sheet."""

ROWS = 2
"""Rows of a class; one where there are more than 20 classes."""

_MANY_CLASSES = 20
_GAP = 4
_TITLE = 26
_POINTS = 14


@dataclass(frozen=True, eq=False)
class Band:
    """A class on the sheet."""

    title: str
    """Its name and counts."""
    pictures: Sequence[NDArray[np.uint8]]
    """Grey pictures, uint8 (height, width) each."""


def pictures_per_class(classes: int) -> int:
    """How many pictures of each class fit."""
    return COLUMNS * (1 if classes > _MANY_CLASSES else ROWS)


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` places of `count`, evenly spread, int64."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64)) if count else np.arange(0)


def write_sheet(path: Path, bands: Sequence[Band]) -> None:
    """Write the sheet as a PNG: a title and rows of pictures for each class, in order.

    Raises:
        DataError: the file cannot be written.
    """
    image = _draw(bands)
    try:
        with replacing(path) as temporary:
            image.save(temporary, "PNG")
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be written: {error.strerror or error}") from error


def _draw(bands: Sequence[Band]) -> Image.Image:
    from PIL import Image, ImageDraw

    step = CELL + _GAP
    heights = [_TITLE + step * max(1, -(-len(band.pictures) // COLUMNS)) for band in bands]
    image = Image.new("L", (COLUMNS * step + _GAP, sum(heights) + _GAP), 255)
    draw = ImageDraw.Draw(image)
    top = 0
    for number, (band, height) in enumerate(zip(bands, heights, strict=True)):
        text, font = _drawable(band.title, number)
        draw.text((_GAP, top + 6), text, fill=0, font=font)
        if not band.pictures:
            draw.text((_GAP, top + _TITLE + 6), "no picture", fill=96, font=font)
        for place, picture in enumerate(band.pictures):
            row, column = divmod(place, COLUMNS)
            cell = _fitted(picture)
            left, upper = _GAP + column * step, top + _TITLE + row * step
            image.paste(cell, (left + (CELL - cell.width) // 2, upper + (CELL - cell.height) // 2))
        top += height
    return image


def _fitted(picture: NDArray[np.uint8]) -> Image.Image:
    """A picture with its longer side as long as a cell."""
    from PIL import Image

    image = Image.fromarray(picture)
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _drawable(text: str, number: int) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """A text and a font that has its characters; the class's number instead where no font has them."""
    from fer_deploy.fonts import BUILT_IN, font_for, load_font

    font = font_for(text)
    if font is not None:
        return text, load_font(font, _POINTS)
    plain = "".join(character for character in text.partition(":")[2] if character.isascii())
    return f"class {number}:{plain}", load_font(BUILT_IN, _POINTS)
