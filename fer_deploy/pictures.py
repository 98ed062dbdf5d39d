"""Pictures from files, bytes, Pillow and arrays, as uint8 RGB: upright, bounded, and never hanging on a bad one.

A picture from outside can be damaged, enormous, not a picture at all, or not even a file (a named pipe blocks its
reader for ever). Everything that can be wrong with one is a `DataError` of one line that names the file.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import DataError, one_line
from fer_deploy.files import read_file, shown

if TYPE_CHECKING:
    from PIL import Image

PICTURE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jpe", ".jpeg", ".jpg", ".jp2", ".mpo", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Endings, lower case, of the files that a folder is searched for. A file named outright may end in anything."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF", "JPEG2000", "AVIF")
"""Pillow's names of the formats that are read, where its build has them. Others (PostScript, say, which starts a
program) are refused."""

MAXIMUM_BYTES = 256 * 1024 * 1024
"""Larger picture files are refused before they are read."""

MAXIMUM_PIXELS = 80_000_000
"""Pictures whose header promises more are refused before they are decoded: 80 megapixels are 240 MB as RGB."""

MAXIMUM_SCANS = 64
"""A JPEG of more scans is refused: encoders write about ten, and each can cost a pass over all pixels in 42 bytes, so
that a file of one megabyte would keep its reader busy for half an hour."""

_BAND = 2**18
"""Pixels that are computed with at a time: wider numbers of a whole picture would take several times its own bytes."""

_COUNTED_FRAMES = 256
"""Frames of a TIFF are counted only so far: each takes a step through the file."""

_ORIENTATION = 0x0112
"""EXIF's tag of how a picture lies."""

LUMA: tuple[float, float, float] = (0.299, 0.587, 0.114)
"""The shares of red, green and blue in grey: ITU-R BT.601, as in Pillow's convert("L")."""

Pixels = NDArray[np.uint8]
"""A picture: uint8 (height, width, 3), RGB, C-contiguous, values 0 to 255."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that was read.

    Attributes:
        pixels: uint8 (height, width, 3), RGB, turned upright by its EXIF orientation.
        frames: how many frames the file holds; more than one for an animation, of which the first was read. A TIFF's
            are counted up to 256.
    """

    pixels: Pixels
    frames: int = 1


def read_picture(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[Any],
    *,
    name: str | None = None,
    maximum_pixels: int = MAXIMUM_PIXELS,
    maximum_bytes: int = MAXIMUM_BYTES,
) -> Picture:
    """Read one picture.

    Args:
        source: a path; an encoded picture's bytes; a Pillow image; or an array, uint8 (height, width) grey,
            (height, width, 1) grey, (height, width, 3) RGB or (height, width, 4) RGBA.
        name: what to call it in an error; the path where there is one.
        maximum_pixels: refuse a picture whose header promises more.
        maximum_bytes: refuse a larger file.

    Returns:
        The picture, upright (EXIF orientation applied). Transparent parts are laid on white; CMYK and palettes become
        RGB; 16-bit grey is scaled to 8 bits; of an animation the first frame is read.

    Raises:
        DataError: it is not a picture, is damaged or truncated, or is larger than the limits.
    """
    if isinstance(source, np.ndarray):
        return Picture(array_to_rgb(source, name=name or "array"))
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, Image.Image):
        return _from_pillow(source, name or "image", maximum_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        content, label = bytes(source), name or "bytes"
        if not content:
            raise DataError(f"{label}: empty (0 bytes), not a picture")
        if len(content) > maximum_bytes:
            raise DataError(f"{label}: {len(content)} bytes, more than the {maximum_bytes} that a picture may have")
    elif isinstance(source, (str, os.PathLike)):
        content, label = read_file(source, maximum_bytes=maximum_bytes, what="picture"), name or shown(source)
    else:  # mypy knows the kinds that may come, a caller without it may not
        kind = type(source).__name__  # type: ignore[unreachable]
        raise DataError(f"cannot read a picture from {kind}: give a path, bytes, a Pillow image or an array")
    if _has_too_many_scans(content):
        raise DataError(f"{label}: damaged: a JPEG of more than {MAXIMUM_SCANS} scans")
    try:
        image = _open_pillow(content)
    except UnidentifiedImageError as error:
        raise DataError(f"{label}: {_why_not_a_picture(content)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{label}: has far more pixels than the {maximum_pixels:,} that a picture may have") from error
    except Exception as error:  # Pillow's readers raise nearly anything on damaged headers
        raise DataError(f"{label}: damaged: {one_line(error)}") from error
    with image:
        return _from_pillow(image, label, maximum_pixels)


def to_grey(pixels: Pixels) -> NDArray[np.uint8]:
    """A picture's grey levels by LUMA, rounded: uint8 (height, width, 3) to uint8 (height, width)."""
    red, green, blue = (round(share * 1000) for share in LUMA)  # in whole numbers: the same bits on every machine
    wide = pixels.astype(np.uint32)
    return ((wide[:, :, 0] * red + wide[:, :, 1] * green + wide[:, :, 2] * blue + 500) // 1000).astype(np.uint8)


def array_to_rgb(array: NDArray[Any], *, name: str = "array") -> Pixels:
    """One picture's array as uint8 (height, width, 3), RGB, C-contiguous; alpha is laid on white.

    Raises:
        DataError: not uint8, or not of shape (height, width) or (height, width, 1, 3 or 4), or without pixels.
    """
    if array.dtype != np.uint8:
        remedy = "multiply by 255 and convert" if array.dtype.kind == "f" else "convert"
        raise DataError(
            f"{name}: uint8 pixels, 0 to 255, are needed, got {array.dtype}: {remedy} with .astype('uint8')"
        )
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise DataError(f"{name}: shape (height, width) or (height, width, 1, 3 or 4) is needed, got {array.shape}")
    if array.size == 0:
        raise DataError(f"{name}: a picture without pixels, shape {array.shape}")
    if array.shape[2] == 1:
        array = np.broadcast_to(array, (*array.shape[:2], 3))
    elif array.shape[2] == 4:
        array = _in_bands(array, _lay_on_white, channels=3)
    return np.ascontiguousarray(array)


def _in_bands(array: NDArray[Any], convert: Callable[[NDArray[Any]], NDArray[Any]], *, channels: int) -> Pixels:
    """What `convert` makes of a picture's pixels, (n, any) to (n, `channels`), _BAND of them at a time.

    Bands are of pixels and not of rows: one row may be the whole picture.
    """
    height, width = array.shape[:2]
    flat = array.reshape(height * width, -1)
    converted = np.empty((len(flat), channels), np.uint8)
    for start in range(0, len(flat), _BAND):
        converted[start : start + _BAND] = convert(flat[start : start + _BAND])
    return converted.reshape(height, width, channels)


def _lay_on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """RGBA to RGB: alpha of the colour and the rest of white, 65152 at most before the division."""
    alpha = pixels[:, 3:].astype(np.uint16)
    mixed: NDArray[np.uint16] = (pixels[:, :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return mixed


def _to_8_bits(samples: NDArray[Any]) -> NDArray[np.int32]:
    """0 to 65535 to 0 to 255, rounded."""
    scaled: NDArray[np.int32] = (samples.astype(np.int32) + 128) // 257
    return scaled


def _open_pillow(content: bytes) -> Image.Image:
    """Open with the plugins that Pillow has loaded, and load the rest (20 ms) only for a picture that needs them."""
    from PIL import Image, UnidentifiedImageError

    Image.preinit()
    try:
        return Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        Image.init()
        return Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])


def _from_pillow(image: Image.Image, name: str, maximum_pixels: int) -> Picture:
    from PIL import ImageOps

    width, height = image.size
    if width * height > maximum_pixels:
        raise DataError(f"{name}: {width}x{height} pixels, more than the {maximum_pixels:,} that a picture may have")
    if width * height == 0:
        raise DataError(f"{name}: a picture without pixels ({width}x{height})")
    frames = _count_frames(image)
    try:
        image.seek(0)
        image.load()
        with suppress(Exception):  # damaged EXIF: the picture itself is good
            if image.getexif().get(_ORIENTATION, 1) != 1:  # it would copy the picture for nothing
                image = ImageOps.exif_transpose(image) or image
        pixels = _pillow_to_rgb(image, name)
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{name}: {width}x{height} pixels do not fit into memory") from error
    except Exception as error:
        raise DataError(f"{name}: damaged or truncated: {one_line(error)}") from error
    return Picture(pixels, frames)


def _count_frames(image: Image.Image) -> int:
    try:
        if image.format != "TIFF":
            return int(getattr(image, "n_frames", 1))
    except Exception:  # a damaged later frame does not spoil the first
        return 1
    count = 1
    with suppress(Exception):
        while count < _COUNTED_FRAMES:
            image.seek(count)
            count += 1
    return count


_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""A JPEG marker after entropy-coded data: neither a stuffed zero nor a restart nor a fill byte."""


def _has_too_many_scans(content: bytes) -> bool:
    """Whether a JPEG's first picture has more scans than are read. Walks its segments, and decodes nothing."""
    if not content.startswith(b"\xff\xd8"):
        return False
    scans = 0
    position = 2
    while found := _MARKER.search(content, position):
        kind, position = content[found.end() - 1], found.end()
        if kind == 0xD9:  # the end of the picture: a phone's video may follow, which is not ours to read
            return False
        if kind != 0x01:  # TEM alone stands without a length here
            position += max(int.from_bytes(content[position : position + 2]), 2)
        scans += kind == 0xDA
        if scans > MAXIMUM_SCANS:
            return True
    return False


def _pillow_to_rgb(image: Image.Image, name: str) -> Pixels:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip instead of scale
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 65535:
            raise DataError(f"{name}: 32-bit samples: save it with 8 or 16 bits")
        return array_to_rgb(_in_bands(wide, _to_8_bits, channels=1))
    if image.mode == "F":
        raise DataError(f"{name}: floating-point samples: save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return array_to_rgb(np.asarray(image if image.mode == "RGBA" else image.convert("RGBA")))
    return array_to_rgb(np.asarray(image if image.mode == "RGB" else image.convert("RGB")))


def _why_not_a_picture(content: bytes) -> str:
    head = content[:512]
    known = {b"%PDF": "a PDF", b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip archive", b"%!": "PostScript"}
    for start, kind in known.items():
        if head.startswith(start):
            return f"{kind}, not a picture"
    if b"ftyphei" in head[:32] or b"ftypmif1" in head[:32]:
        return "a HEIC picture, which is not supported: save it as JPEG or PNG"
    try:
        text = head.decode("utf-8", "strict" if len(content) <= 512 else "ignore")
    except UnicodeDecodeError:
        text = ""
    if text and all(c.isprintable() or c.isspace() for c in text):
        return "a text file, not a picture"
    return "not a picture, or damaged from its first bytes on"
