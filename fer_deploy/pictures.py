"""Pictures from files, bytes, Pillow and arrays, as uint8 RGB: upright, bounded in size, and never blocking.

A picture from outside can be damaged, enormous, no picture at all, or no file at all (a named pipe blocks its reader).
Whatever is wrong with one becomes a `DataError` of one line that names the file.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import DataError, one_line
from fer_deploy.files import read_file, shown

if TYPE_CHECKING:
    from PIL import Image

PICTURE_SUFFIXES = frozenset(
    {
        ".apng", ".avif", ".bmp", ".dib", ".gif", ".jfi", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pgm",
        ".pjp", ".pjpeg", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
    }
)  # fmt: skip
"""Endings, lower case, of the pictures that a search of a folder finds. A file that is named may end in anything."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF", "JPEG2000", "AVIF")
"""Pillow's names of the formats that are read, as far as its build has them. Others are refused: for PostScript, Pillow
would start a program."""

MAXIMUM_BYTES = 256 * 1024 * 1024
"""A larger picture file is refused before it is read."""

MAXIMUM_PIXELS = 80_000_000
"""A picture with more pixels is refused by its header, before it is decoded: 80 megapixels are 240 MB as RGB."""

MAXIMUM_SCANS = 64
"""A JPEG with more scans is refused. Encoders write about ten. Each scan takes 42 bytes and can cost a pass over all
pixels, so that decoding a malicious file of one megabyte takes half an hour."""

_BAND = 2**18
"""Pixels that are converted at a time: a whole picture in wider numbers would take several times its memory."""

_COUNTED_FRAMES = 256
"""The frames of a TIFF are counted up to here: each takes a step through the file."""

_BLANK_FRAMES = 16
"""Animations may begin with blank frames: so many frames are searched for one with something in it."""

_COUNTED_SEGMENTS = 1000
"""A JPEG of one scan has about ten segments, or a hundred with a large colour profile."""

_DARK = 65536 // 16 - 1
"""16-bit samples that stay below a sixteenth of their range are probably samples of 12 bits or fewer."""

_FEWER_BITS = (
    "its 16-bit samples use less than a sixteenth of their range, and were read as nearly black: if they have fewer "
    "bits, save it with 8 bits"
)

_ORIENTATION = 0x0112
"""EXIF's tag for the rotation and reflection of a picture."""

LUMA: tuple[float, float, float] = (0.299, 0.587, 0.114)
"""The shares of red, green and blue in grey: ITU-R BT.601, as in Pillow's convert("L")."""

_LONGEST_FACE = 8
"""A picture more than this many times as wide as high, or the other way round, shows no face."""

_SMALLEST_FLAT = 16
"""Side of the smallest face that a flat table holds, in pixels."""

Pixels = NDArray[np.uint8]
"""A picture: uint8 (height, width, 3), RGB, C-contiguous, values 0 to 255."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that was read.

    Attributes:
        pixels: uint8 (height, width, 3), RGB, turned upright by its EXIF orientation.
        frames: how many frames or pages the file has, of which the first was read. A TIFF's are counted up to 256.
        icc_profile: the file's colour profile, if it describes `pixels`: copies that carry it keep their colours.
        notes: what a user should know about the reading, one line each, such as "2 frames or pages: only the first was
            read". Nothing was wrong enough to refuse the picture.
        turned: whether its EXIF orientation was applied.
    """

    pixels: Pixels
    frames: int = 1
    icc_profile: bytes | None = None
    notes: tuple[str, ...] = ()
    turned: bool = False


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
        The picture, upright (EXIF orientation applied). Transparent parts become white; CMYK and palettes become RGB;
        16-bit grey is divided by 257; of an animation the first frame is read. A JPEG may lack its end marker, and have
        line breaks before its start marker, as cameras' streams leave them.

    Raises:
        DataError: it is not a picture, is damaged or truncated, or is larger than the limits; an array or image has
            values of another type or range, and the message states how to convert these values.
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
        remedy = "numpy.asarray of it" if hasattr(source, "__array__") else "a path, bytes, a Pillow image or an array"
        raise DataError(f"cannot read a picture from {kind}: give {remedy}")
    content = _without_line_breaks(content)
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
        return _from_pillow(image, label, maximum_pixels, content)


def to_grey(pixels: Pixels) -> NDArray[np.uint8]:
    """A picture's grey levels by LUMA, rounded: uint8 (height, width, 3) to uint8 (height, width)."""
    red, green, blue = (round(share * 1000) for share in LUMA)  # in whole numbers: the same bits on every machine
    wide = pixels.astype(np.uint32)
    return ((wide[:, :, 0] * red + wide[:, :, 1] * green + wide[:, :, 2] * blue + 500) // 1000).astype(np.uint8)


def array_to_rgb(array: NDArray[Any], *, name: str = "array") -> Pixels:
    """One picture's array as uint8 (height, width, 3), RGB, C-contiguous. Transparent parts become white.

    Raises:
        DataError: not uint8, or not of shape (height, width) or (height, width, 1, 3 or 4), or without pixels. The
            message states how to convert the array, judged by its values.
    """
    require_uint8(array, name=name)
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise DataError(
            f"{name}: shape (height, width) or (height, width, 1, 3 or 4) is needed, got {array.shape}"
            f"{channel_first_remedy(array.shape)}"
        )
    if array.size == 0:
        raise DataError(f"{name}: a picture without pixels, shape {array.shape}")
    if array.shape[2] == 1:
        array = np.broadcast_to(array, (*array.shape[:2], 3))
    elif array.shape[2] == 4:
        array = _in_bands(array, _lay_on_white, channels=3)
    return np.ascontiguousarray(array)


def require_uint8(array: NDArray[Any], *, name: str = "array") -> None:
    """Refuse an array of another type than uint8 (DataError). The message states how to convert these values."""
    if array.dtype != np.uint8:
        raise DataError(
            f"{name}: uint8 pixels, 0 to 255, are needed, got {array.dtype}{_conversion(array)}"
            f"{channel_first_remedy(array.shape)}"
        )


def channel_first_remedy(shape: Sequence[int]) -> str:
    """What to add to an error about an array whose channels come before height and width, as PyTorch has them.

    >>> channel_first_remedy((8, 3, 48, 48))
    ': its channels come first: use array.transpose(0, 2, 3, 1)'
    """
    if len(shape) not in (3, 4) or shape[-3] not in (1, 3, 4) or min(shape[-2:]) <= 4:
        return ""
    return f": its channels come first: use array.transpose({'1, 2, 0' if len(shape) == 3 else '0, 2, 3, 1'})"


def refuse_flat_table(array: NDArray[Any], *, name: str = "array") -> None:
    """Refuse a 2-D array that may be a table with one flat face in each row, as FER2013's is (DataError).

    That is an array of width 2304, which is 48x48, and one whose shape no face has and whose width is another square.
    """
    if array.ndim != 2 or not array.size:
        return
    height, width = array.shape
    side = math.isqrt(width)
    is_strip = max(height, width) > _LONGEST_FACE * min(height, width)
    if width == 2304 or (side * side == width and side >= _SMALLEST_FLAT and is_strip):
        raise DataError(
            f"{name}: shape {array.shape} may be one picture, or a table with a face of {side}x{side} in each row: use "
            f"array.reshape(-1, {side}, {side}), or array[:, :, None] for one picture"
        )


def _conversion(array: NDArray[Any]) -> str:
    """How an array that is not uint8 becomes uint8 without changing its picture, as the end of an error's sentence.

    Samples of 10, 12 or 14 bits are stored in 16: the largest value tells which it is, never the type alone.
    """
    if array.dtype == object:
        return ", of arrays of unequal shapes: give a list of arrays"
    if array.dtype == bool:
        return ": use (array * 255).astype('uint8')"
    if array.dtype.kind not in "fiu" or not array.size:
        return ": numbers are needed"
    low, high = float(array.min()), float(array.max())  # NaN, if there is one, is both
    if not np.isfinite((low, high)).all():
        return " with values that are not finite"
    values = f" with values from {low:.6g} to {high:.6g}: "
    if array.dtype.kind == "f":
        return values + _float_conversion(low, high)
    if low < 0:
        is_shifted = array.dtype == np.int8
        return values + ("use (array.astype('int16') + 128).astype('uint8')" if is_shifted else _UNKNOWN_SCALE)
    return values + ("use array.astype('uint8')" if high <= 255 else _conversion_of_bits(high))


_UNKNOWN_SCALE = "undo their normalisation, or scale them to 0 to 255"


def _float_conversion(low: float, high: float) -> str:
    """The scale of floating-point samples by their range. Resizing and arithmetic overshoot a scale a little."""
    if low >= -0.1 and high <= 1.1:
        clip = "" if low >= 0 and high <= 1 else ".clip(0, 1)"
        return f"use (array{clip} * 255).round().astype('uint8')"
    if low >= -1.1 and high <= 1.1:
        return "use ((array + 1) * 127.5).round().clip(0, 255).astype('uint8')"
    if low >= -40 and 16 < high <= 295:
        clip = "" if low >= 0 and high <= 255 else ".clip(0, 255)"
        return f"use array{clip}.round().astype('uint8')"
    return _conversion_of_bits(high) if low >= 0 and high > 295 else _UNKNOWN_SCALE


def _conversion_of_bits(high: float) -> str:
    """The scale of samples above 255 by their largest value."""
    for bits in (10, 12, 14, 16):
        if high < 2**bits:
            return f"if they have {bits} bits, use (array / {(2**bits - 1) / 255:.6g}).round().astype('uint8')"
    return _UNKNOWN_SCALE


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


def stated_pixels(content: bytes) -> int:
    """The pixels of an encoded picture by its header, without decoding it; 0 where `read_picture` reports an error."""
    try:
        with _open_pillow(content) as image:
            return image.width * image.height
    except Exception:  # Pillow's readers raise nearly anything on damaged headers
        return 0


def _open_pillow(content: bytes) -> Image.Image:
    """Open with the plugins that Pillow has loaded, and load the rest (20 ms) only for a picture that needs them."""
    from PIL import Image, UnidentifiedImageError

    Image.preinit()
    try:
        return Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        Image.init()
        return Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])


def _from_pillow(image: Image.Image, name: str, maximum_pixels: int, content: bytes = b"") -> Picture:
    """Decode an opened image; `content` is the file that it was opened from, empty for an image made in memory."""
    from PIL import ImageOps

    width, height = image.size
    if width * height > maximum_pixels:
        raise DataError(f"{name}: {width}x{height} pixels, more than the {maximum_pixels:,} that a picture may have")
    if width * height == 0:
        raise DataError(f"{name}: a picture without pixels ({width}x{height})")
    frames = _count_frames(image)
    notes: list[str] = []
    turned = False
    try:
        is_wide = image.mode != "I" and ";16" in str(getattr(image, "tile", ""))  # Pillow drops the lower 8 bits
        image = _load(image, content)
        profile = _rgb_profile(image)
        with suppress(Exception):  # damaged EXIF does not spoil the picture
            if image.getexif().get(_ORIENTATION, 1) != 1:  # transposing an upright picture would copy it
                image = ImageOps.exif_transpose(image) or image
                turned = True
        pixels = _pillow_to_rgb(image, name, notes)
        if is_wide and not image.mode.startswith("I") and 0 < pixels.max() <= _DARK >> 8:
            notes.append(_FEWER_BITS)
        if frames > 1:
            number, pixels = _first_with_content(image, pixels, frames, name)
            read = f"number {number + 1} was read: those before it are blank" if number else "the first was read"
            notes.insert(0, f"{frames} frames or pages: only {read}")
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{name}: {width}x{height} pixels do not fit into memory") from error
    except Exception as error:
        raise DataError(f"{name}: damaged or truncated: {one_line(error)}") from error
    return Picture(pixels, frames, profile, tuple(notes), turned)


def _first_with_content(image: Image.Image, first: Pixels, frames: int, name: str) -> tuple[int, Pixels]:
    """The first frame that is not of one colour, and its number from 0; the first frame if there is none."""
    pixels = first
    for number in range(min(frames, _BLANK_FRAMES)):
        try:
            if number:
                image.seek(number)
                pixels = _pillow_to_rgb(image, name, [])
        except Exception:  # a damaged later frame does not spoil the first
            break
        if (pixels != pixels[0, 0]).any():
            return number, pixels
    return 0, first


def _load(image: Image.Image, content: bytes) -> Image.Image:
    """Decode the first frame. A JPEG without its end marker is accepted if none of its pixels is missing."""
    try:
        image.seek(0)
        image.load()
    except OSError:
        if image.format not in ("JPEG", "MPO") or (whole := _with_end_marker(content)) is None:
            raise
        image = _open_pillow(whole)
        image.load()
    return image


def _rgb_profile(image: Image.Image) -> bytes | None:
    """An image's ICC profile, if it is one for RGB: bytes 16 to 19 of its header name the colour space."""
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and profile[16:20] == b"RGB " else None


def _count_frames(image: Image.Image) -> int:
    """How many frames an image has, without decoding them."""
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


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The segments of a JPEG's first picture: the marker's second byte, and what follows the segment's length."""
    position = 2
    while content.startswith(b"\xff\xd8") and (found := _MARKER.search(content, position)):
        kind, position = content[found.end() - 1], found.end()
        if kind == 0xD9:  # the end of the picture: a phone's video may follow
            return
        if kind == 0x01:  # TEM is the only marker here that has no length
            continue
        length = max(int.from_bytes(content[position : position + 2]), 2)
        yield kind, content[position + 2 : position + length]
        position += length


def _has_too_many_scans(content: bytes) -> bool:
    """Whether a JPEG's first picture has more scans than are read. Decodes nothing."""
    scans = (kind for kind, _ in _segments(content) if kind == 0xDA)
    return next(islice(scans, MAXIMUM_SCANS, None), None) is not None


def _without_line_breaks(content: bytes) -> bytes:
    """A JPEG without the line breaks before it, which stay when a picture is cut out of a camera's stream."""
    start = re.match(rb"[\r\n]{1,8}(?=\xff\xd8)", content)
    return content[start.end() :] if start else content


def _with_end_marker(content: bytes) -> bytes | None:
    """A JPEG that ends without its end marker, as cameras write it, with the marker; None if pixels are missing.

    A decoder ignores what lies between the last pixel and the end marker. If two different continuations decode to one
    picture, no pixel was made from them. That holds for pictures of a single scan: others can lack whole scans.
    """
    segments = list(islice(_segments(content), _COUNTED_SEGMENTS))
    frames = [segment for kind, segment in segments if kind in (0xC0, 0xC1)]  # baseline and extended sequential
    scans = [segment for kind, segment in segments if kind == 0xDA]
    if len(frames) != 1 or len(scans) != 1 or frames[0][5:6] != scans[0][:1]:  # the numbers of colour components
        return None
    body = content.rstrip(b"\xff")
    # Where the picture has restart markers, a decoder looks for the next one: the continuations have them, too.
    passed = len(re.findall(rb"\xff[\xd0-\xd7]", body[body.rfind(scans[0]) :]))
    restarts = [bytes([0xFF, 0xD0 + (passed + following) % 8]) for following in range(8)]
    first, second = (
        np.asarray(_open_pillow(body + b"".join(filler * 64 + restart for restart in restarts) + b"\xff\xd9"))
        for filler in (b"\x00", b"\x35")
    )
    return body + b"\xff\xd9" if np.array_equal(first, second) else None


def _pillow_to_rgb(image: Image.Image, name: str, notes: list[str]) -> Pixels:
    """An image's pixels as RGB. Adds a note if they are 16-bit samples that look like fewer bits."""
    if image.mode.startswith("I"):
        return array_to_rgb(_in_bands(_sixteen_bits(image, name, notes), _to_8_bits, channels=1))
    if image.mode == "F":
        raise DataError(f"{name}: {_save_or_convert(image, 'floating-point samples')}")
    if image.mode == "La":  # Pillow converts it to LA only
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        return array_to_rgb(np.asarray(image if image.mode == "RGBA" else image.convert("RGBA")))
    return array_to_rgb(np.asarray(image if image.mode == "RGB" else image.convert("RGB")))


def _sixteen_bits(image: Image.Image, name: str, notes: list[str]) -> NDArray[Any]:
    """The samples of an image of mode I or I;16, 0 to 65535. Pillow's own conversion would clip them to 255."""
    samples = np.asarray(image)
    highest = int(samples.max())
    if samples.min() < 0 or highest > 65535:
        raise DataError(f"{name}: {_save_or_convert(image, '32-bit samples')}")
    if 0 < highest <= _DARK:
        if image.format is None and image.mode == "I" and highest <= 255:  # made in memory, of 8-bit values
            raise DataError(f"{name}: 32-bit samples from 0 to {highest}: use image.convert('L')")
        notes.append(_FEWER_BITS)
    return samples


def _save_or_convert(image: Image.Image, samples: str) -> str:
    """What to do about samples of a type that is not read: advice for a file, or for an image in memory."""
    if image.format is not None:
        return f"{samples}: save it with 8 or 16 bits"
    return f"{samples}{_conversion(np.asarray(image)).replace('array', 'np.asarray(image)')}"


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
