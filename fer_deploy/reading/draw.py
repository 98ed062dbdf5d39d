"""Annotate a picture: a box and a label for each face."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw

from fer_deploy.errors import DataError
from fer_deploy.files import replacing
from fer_deploy.fonts import BUILT_IN, drawable, font_for, load_font
from fer_deploy.pictures import LUMA, Pixels
from fer_deploy.recognizer import Recognition

COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "angry": (213, 94, 0),
        "disgust": (0, 158, 115),
        "fear": (204, 121, 167),
        "happy": (230, 159, 0),
        "sad": (0, 114, 178),
        "surprise": (86, 180, 233),
        "neutral": (128, 128, 128),
    }
)
"""RGB colour for each of the seven labels: Okabe and Ito's palette, which colour-blind people can distinguish
(https://jfly.uni-koeln.de/color/)."""

_MORE_COLOURS = ((240, 228, 66), *COLOURS.values())
"""For other labels: the palette's last colour, then the others."""

_GOLDEN_ANGLE = 0.381966
"""Hues that are so much of a circle apart stay distinct, however many there are."""

_SAVED_AS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".pjpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
}


def colours_of(labels: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """An RGB colour for each label: the seven have their own, others the palette's rest, then evenly spread hues."""
    spare = [colour for colour in _MORE_COLOURS if colour not in {COLOURS.get(label) for label in labels}]
    colours: dict[str, tuple[int, int, int]] = {}
    for label in labels:
        if label in COLOURS:
            colours[label] = COLOURS[label]
        elif spare:
            colours[label] = spare.pop(0)
        else:
            hue = (0.25 + len(colours) * _GOLDEN_ANGLE) % 1
            red, green, blue = colorsys.hls_to_rgb(hue, (0.4, 0.6)[len(colours) % 2], 0.75)
            colours[label] = round(255 * red), round(255 * green), round(255 * blue)
    return colours


def annotate(pixels: Pixels, faces: Sequence[Recognition], *, names: Sequence[str] = ()) -> Pixels:
    """Copy a picture and draw each face's box, label and probability.

    Args:
        pixels: uint8 (height, width, 3).
        faces: the results; a face without a box fills the picture.
        names: a word before each label, such as a track's number; empty for none.

    Returns:
        uint8 (height, width, 3).
    """
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    height, width = pixels.shape[:2]
    line = max(2, round(max(height, width) / 300))
    for position, face in enumerate(faces):
        box = face.box
        edges = (0.0, 0.0, width - 1.0, height - 1.0) if box is None else (box.left, box.top, box.right, box.bottom)
        labels = tuple(face.probabilities)
        colour = colours_of(labels)[face.label]
        draw.rectangle(edges, outline=(0, 0, 0), width=line + 1)
        draw.rectangle(edges, outline=colour, width=line)
        before = f"{names[position]} " if names else ""
        _write(draw, _pieces(before, face, labels), edges, colour, (width, height))
    return np.asarray(image).copy()


def saved_as(path: Path) -> Path:
    """The path that `save` writes to: `path`, with .png appended if its ending names no format that is written."""
    return path if path.suffix.lower() in _SAVED_AS else path.with_name(f"{path.name}.png")


def save(path: Path, pixels: Pixels, *, icc_profile: bytes | None = None) -> Path:
    """Save a picture in the format of the path's ending, or as PNG.

    Args:
        path: where to save it.
        pixels: uint8 (height, width, 3), or (height, width) for grey.
        icc_profile: the colour profile of the pixels, which the file will carry; None for sRGB.

    Returns:
        The file's path, as `saved_as` gives it.

    Raises:
        DataError: the picture cannot be written.
    """
    path = saved_as(path)
    try:
        with replacing(path) as temporary:
            profile = {} if icc_profile is None else {"icc_profile": icc_profile}
            Image.fromarray(pixels).save(temporary, _SAVED_AS[path.suffix.lower()], quality=92, **profile)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def _pieces(before: str, face: Recognition, labels: Sequence[str]) -> list[tuple[str, str]]:
    """Texts to write one after the other, each with its font: a label may need another font than the numbers."""
    label, share = drawable(face.label, labels), f" {face.probability:.0%}"
    font = font_for(label) or BUILT_IN
    if font == BUILT_IN:
        return [(f"{before}{label}{share}", BUILT_IN)]
    return [(before, BUILT_IN), (label, font), (share, BUILT_IN)]


def _write(
    draw: ImageDraw.ImageDraw,
    pieces: Sequence[tuple[str, str]],
    edges: tuple[float, float, float, float],
    colour: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    """Write texts on a plate of the box's colour: above the box, or inside it if there is no room above.

    Args:
        draw: writes into the picture.
        pieces: the texts and their fonts, from left to right.
        edges: the box: left, top, right, bottom.
        colour: RGB of the plate.
        size: width and height of the picture.
    """
    width, height = size
    points = min(max(11.0, (edges[2] - edges[0]) / 7), max(11.0, height / 12))
    placed = []
    start = 0.0
    for text, name in pieces:
        font = load_font(name, points)
        placed.append((start, text, font))
        start += draw.textlength(text, font=font)
    boxes = [draw.textbbox((at, 0), text, font=font, anchor="ls") for at, text, font in placed if text]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
    across, down = right - left + 6, bottom - top + 6
    x = min(max(0.0, edges[0]), max(0.0, width - across))
    y = edges[1] - down if edges[1] >= down else min(max(0.0, edges[1]), max(0.0, height - down))
    draw.rectangle((x, y, x + across, y + down), fill=colour)
    # Rec. 601 luma decides whether white or black text is easier to read.
    dark = sum(share * channel for share, channel in zip(LUMA, colour, strict=True)) < 110
    for at, text, font in placed:
        place = (x + 3 - left + at, y + 3 - top)
        draw.text(place, text, font=font, fill=(255, 255, 255) if dark else (0, 0, 0), anchor="ls")
