"""Which column is which: the one description of the tables that people have, for CSV, JSON Lines and Parquet alike."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fer_deploy.errors import DataError, printable
from fer_deploy.faces.splits import split_of

LABELS = (
    # Names before numbers: a table with both needs no numbering.
    "labelname", "classname", "emotionname", "expressionname", "labeltext", "labelstr", "emotiontext",
    "emotion", "label", "expression", "class", "emotions", "labels", "expressions", "category", "target",
    "emotionlabel", "emotionclass", "facialexpression", "emotionid", "labelid", "classid", "classlabel", "expr",
    "mood", "y",
)  # fmt: skip
"""Names of the column that holds the labels, the preferred one first; small letters and digits only."""

PIXELS = ("pixels", "pixel", "pixelvalues", "imagepixels", "face", "image", "img")
"""Names of the column that holds grey values as text or as lists."""

PATHS = (
    "subdirectoryfilepath", "path", "filepath", "imagepath", "imgpath", "file", "filename", "imagefile",
    "imagefilename", "imgfile", "imgname", "imagename", "image", "img", "images", "relativepath", "picture", "photo",
    "pth", "src", "name", "imageid", "id",
)  # fmt: skip
"""Names of the column that holds the picture's file, relative to the table."""

PICTURES = ("image", "img", "imgbytes", "imagebytes", "picture", "photo", "face", "bytes", "jpg", "png", *PIXELS)
"""Names of the column that holds encoded pictures, in Parquet."""

SPLITS = ("usage", "split", "subset", "partition", "datasplit", "set", "phase", "fold")
"""Names of the column that holds the split."""

SURE_SPLITS = ("usage", "split", "subset", "partition", "datasplit")
"""Of these, the names that mean nothing else: a value that is no split is an error."""

PEOPLE = (
    "subject", "person", "identity", "participant", "subjectid", "personid", "identityid", "participantid", "actor",
    "actorid", "userid", "speaker", "individual", "subjectname",
)  # fmt: skip
"""Names of the column that tells who is in the picture."""

_PIXEL_COLUMN = re.compile(r"(?:pixels?|px|p|x|image|f)?[\s_.]*([0-9]{1,6})", re.IGNORECASE)

_SMALLEST = 8
"""Fewer pixels a side are no picture."""


@dataclass(frozen=True)
class Columns:
    """The places of a table's columns.

    Attributes:
        count: how many columns the table has.
        label: the labels.
        pixels: the grey values: one column of texts, or one for each pixel in their order; empty if there are none.
        path: the pictures' files; None if there is no such column.
        split: the split; None if there is no such column.
        person: who is in the picture; None if there is no such column.
        names: the names of all columns, as the table writes them.
    """

    count: int
    label: int
    pixels: tuple[int, ...] = ()
    path: int | None = None
    split: int | None = None
    person: int | None = None
    names: tuple[str, ...] = ()

    @property
    def fer2013(self) -> bool:
        """Whether these are the columns of FER2013's own tables: emotion, pixels, and Usage or no split."""
        plain = [plain_name(name) for name in self.names]
        return (
            plain[self.label] == "emotion"
            and [plain[place] for place in self.pixels] == ["pixels"]
            and (self.split is None or plain[self.split] == "usage")
        )

    @property
    def note(self) -> str:
        """Which column was read as what, one sentence; empty for FER2013's own columns."""
        if self.fer2013 and self.split is not None:
            return ""
        parts = {
            "labels": self.label, "pixels": self.pixels[0] if self.pixels else None, "pictures": self.path,
            "splits": self.split, "persons": self.person,
        }  # fmt: skip
        read = [f"{what} from {printable(self.names[place])!r}" for what, place in parts.items() if place is not None]
        return f"the table's columns were read as {', '.join(read)}"


def plain_name(name: str) -> str:
    """A column's name in small letters and digits only.

    >>> plain_name(" Image_Path")
    'imagepath'
    """
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def find_columns(names: Sequence[str], name: str, first_row: Sequence[str] = ()) -> Columns:
    """Find the columns by their names.

    Args:
        names: the table's header.
        name: the table's name, for errors.
        first_row: the first row of values, which tells pixels from names of files.

    Raises:
        DataError: there is no column of labels, or neither one of pixels nor one of files; or two have one name.
    """
    plain = [plain_name(each) for each in names]
    label = _first(plain, LABELS)
    numbered = pixel_columns(names)
    pixels = _first(plain, PIXELS)
    path = _first(plain, PATHS)
    value = first_row[pixels].strip() if pixels is not None and pixels < len(first_row) else None
    if value is not None and not re.match(r"[\s\[(\"'{]*[0-9.]+[\s,;]", value) and (value or path is not None):
        pixels = None  # a column 'image' of file names
    shown = ", ".join(repr(printable(each)[:30]) for each in names[:8]) + (", ..." if len(names) > 8 else "")
    expected = "expected are a label ('emotion' or 'label'), and pixels ('pixels') or a file ('path')"
    if label is None:
        raise DataError(f"{name} has no column of labels: its columns are {shown}: {expected}")
    if pixels is None and path is None and not numbered:
        raise DataError(f"{name} has no column of pixels or files: its columns are {shown}: {expected}")
    split, person = _first(plain, SPLITS), _first(plain, PEOPLE)
    used = [place for place in (label, pixels, split) if place is not None]
    for place in used:
        if plain.count(plain[place]) > 1:
            raise DataError(f"{name} has two columns {printable(names[place])!r}: keep one")
    if split is not None and plain[split] not in SURE_SPLITS and first_row and split_of(first_row[split]) is None:
        split = None
    chosen = numbered or (() if pixels is None else (pixels,))
    return Columns(len(names), label, chosen, None if chosen else path, split, person, tuple(names))


def _first(plain: Sequence[str], known: Sequence[str]) -> int | None:
    return next((plain.index(name) for name in known if name in plain), None)


def pixel_columns(names: Sequence[str]) -> tuple[int, ...]:
    """The columns pixel0, pixel1, ... in the order of their numbers, if their number is that of a square picture."""
    numbers = {int(match.group(1)): place for place, name in enumerate(names)
               if (match := _PIXEL_COLUMN.fullmatch(name.strip(' "')))}  # fmt: skip
    count = len(numbers)
    if count < _SMALLEST**2 or math.isqrt(count) ** 2 != count:
        return ()
    ordered = sorted(numbers)
    return tuple(numbers[number] for number in ordered) if ordered[-1] - ordered[0] == count - 1 else ()
