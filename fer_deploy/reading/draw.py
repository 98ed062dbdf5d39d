"""Annotate a picture: a box and a label for each face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fer_deploy.errors import DataError
from fer_deploy.files import replacing
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
"""RGB colour for each label: Okabe and Ito's palette, which colour-blind people can distinguish
(https://jfly.uni-koeln.de/color/)."""

_SAVED_AS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".pjpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
}


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
        colour = COLOURS.get(face.label, (255, 255, 255))
        draw.rectangle(edges, outline=(0, 0, 0), width=line + 1)
        draw.rectangle(edges, outline=colour, width=line)
        text = f"{names[position]} " if names else ""
        text += f"{face.label} {face.probability:.0%}"
        _write(draw, text, edges, colour, (width, height))
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


def _write(
    draw: ImageDraw.ImageDraw,
    text: str,
    edges: tuple[float, float, float, float],
    colour: tuple[int, int, int],
    size: tuple[int, int],
) -> None:
    """Write text on a plate of the box's colour: above the box, or inside it if there is no room above."""
    width, height = size
    points = min(max(11.0, (edges[2] - edges[0]) / 7), max(11.0, height / 12))
    font = ImageFont.load_default(points)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    across, down = right - left + 6, bottom - top + 6
    x = min(max(0.0, edges[0]), max(0.0, width - across))
    y = edges[1] - down if edges[1] >= down else min(max(0.0, edges[1]), max(0.0, height - down))
    draw.rectangle((x, y, x + across, y + down), fill=colour)
    # Rec. 601 luma decides whether white or black text is easier to read.
    dark = sum(share * channel for share, channel in zip(LUMA, colour, strict=True)) < 110
    draw.text((x + 3 - left, y + 3 - top), text, font=font, fill=(255, 255, 255) if dark else (0, 0, 0))
