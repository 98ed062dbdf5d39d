"""Find a font that has the characters of a text: labels may be words of any language.

Pillow's built-in font has English letters only, so the fonts that are installed on this machine are searched. A label
that none of them has is drawn as its number, and `missing_notes` states which.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

BUILT_IN = ""
"""The name of Pillow's own font in place of a path."""

MAXIMUM_FONTS = 3000
"""At most so many font files are tried."""

_ENDINGS = (".ttf", ".otf", ".ttc")

_FANCY = (
    "bold",
    "italic",
    "oblique",
    "light",
    "thin",
    "black",
    "mono",
    "serif",
    "condensed",
    "narrow",
    "emoji",
    "math",
)
"""Parts of the names of fonts that are tried last."""

_PLACEHOLDERS = "LastResort"
"""A font that has every character, each as a box."""

_NO_CHARACTER = "\U0010fffe"
"""No font has this one: it is drawn as the box that stands for a missing character."""

_SAMPLE_POINTS = 24


@lru_cache(maxsize=4096)
def font_for(text: str) -> str | None:
    """The file of a font that has every character of a text, BUILT_IN, or None if no font here has them all."""
    if joins_letters(text) and not features.check("raqm"):
        return None  # without Raqm, letters would stand in the wrong order and shape
    return next((font for font in (BUILT_IN, *_installed()) if _has(font, text)), None)


def load_font(font: str, points: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font of `font_for` in a size."""
    return ImageFont.load_default(points) if font == BUILT_IN else ImageFont.truetype(font, points)


def drawable(label: str, labels: Sequence[str]) -> str:
    """The label, or its number among `labels` if no font here has its characters."""
    return label if font_for(label) is not None else numbered(label, labels)


def numbered(label: str, labels: Sequence[str]) -> str:
    """What is drawn instead of a label: `label 3` for the third."""
    return f"label {labels.index(label) + 1}"


def missing_notes(labels: Sequence[str], *, missing: Sequence[str] | None = None) -> list[str]:
    """One line about the labels that are drawn as numbers, if there are any.

    Args:
        labels: the model's labels.
        missing: those that cannot be drawn; None finds them.
    """
    if missing is None:
        missing = [label for label in labels if font_for(label) is None]
    if not missing:
        return []
    listed = ", ".join(f"{numbered(label, labels)} is {label}" for label in missing[:8])
    more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    return [
        f"no font on this machine can draw these labels, so their numbers are drawn: {listed}{more}: install a font "
        "that has their characters, such as Noto Sans"
    ]


def joins_letters(text: str) -> bool:
    """Whether the letters of a text change shape or order when they are drawn: Arabic, Hebrew, the scripts of India."""
    return any(
        unicodedata.bidirectional(character) in ("R", "AL") or "\u0900" <= character <= "\u109f" for character in text
    )


@lru_cache(maxsize=4096)
def _has(font: str, text: str) -> bool:
    try:
        loaded = load_font(font, _SAMPLE_POINTS)
        missing = _shape(loaded, _NO_CHARACTER)
        return all(
            not np.array_equal(_shape(loaded, character), missing)
            for character in dict.fromkeys(text)
            if not character.isspace() and unicodedata.category(character) != "Cf"
        )
    except (OSError, ValueError):  # not a font that can be read, or one of bitmaps
        return False


def _shape(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, character: str) -> np.ndarray:
    image = Image.new("L", (3 * _SAMPLE_POINTS, 3 * _SAMPLE_POINTS))
    ImageDraw.Draw(image).text((_SAMPLE_POINTS, _SAMPLE_POINTS // 2), character, font=font, fill=255)
    return np.asarray(image)


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    """The fonts of this machine and Matplotlib's, plain ones first."""
    files = [path for folder in _folders() for path in _fonts_in(folder)][:MAXIMUM_FONTS]

    def order(path: Path) -> tuple[int, str]:
        name = path.stem.lower()
        return sum(part in name for part in _FANCY), name

    return tuple(str(path) for path in sorted(files, key=order))


def _folders() -> Iterator[Path]:
    home = Path.home()
    if sys.platform == "win32":
        yield Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"
        yield Path(os.environ.get("LOCALAPPDATA", home)) / "Microsoft" / "Windows" / "Fonts"
    elif sys.platform == "darwin":
        yield from (home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts"))
    else:
        shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
        yield from (home / ".fonts", Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / "fonts")
        yield from (Path(folder) / "fonts" for folder in shared.split(":") if folder)
    matplotlib = find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin:
        yield Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf"


def _fonts_in(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (
            Path(place) / name
            for name in sorted(names)
            if name.lower().endswith(_ENDINGS) and _PLACEHOLDERS not in name
        )
