"""List the pictures in folders, on the disk or in an archive: the folders name the classes and the splits.

`faces.levels` tells which folder level is which. What does not belong to the tree is counted in a note.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fer_deploy.faces.dataset import SIZE
from fer_deploy.faces.file_sets import LARGEST_PICTURE as LARGEST_PICTURE
from fer_deploy.faces.file_sets import FileSet
from fer_deploy.faces.file_sets import files_in as files_in
from fer_deploy.faces.levels import Levels
from fer_deploy.faces.listing import Listing
from fer_deploy.faces.splits import split_of
from fer_deploy.pictures import read_picture, to_grey

MOST_PIXELS = 16_000_000
"""Pixels that one picture may have before it is resized."""


def tree_listing(files: FileSet, levels: Levels) -> Listing:
    """The listing of the pictures that lie in folders of classes.

    If no folder is validation and every test picture is called PublicTest… or PrivateTest…, as in a common copy of
    FER2013, the names of the files tell the two splits apart.
    """
    kept = [place for place, label in enumerate(levels.labels) if label is not None]
    names = [files.pictures[place] for place in kept]
    splits = [levels.splits[place] for place in kept]
    left_out = files.without(files.pictures)
    if outside := len(files.pictures) - len(kept):
        left_out.counts["pictures outside the folders of classes"] = outside
    notes = [levels.note]
    in_test = {name: _split_of_file(name) for name, split in zip(names, splits, strict=True) if split == "test"}
    if "validation" not in splits and set(in_test.values()) == {"validation", "test"}:
        splits = [in_test.get(name, split) for name, split in zip(names, splits, strict=True)]
        notes.append("the test folder was split into PublicTest and PrivateTest by the names of its files")
    labels = [label for label in levels.labels if label is not None]
    return files.listing(names, labels, splits, notes=notes, left_out=left_out)


def _split_of_file(name: str) -> str | None:
    return split_of(re.split(r"[_\-. ]", PurePosixPath(name).name, maxsplit=1)[0])


def face_from_picture(content: bytes, name: str) -> tuple[NDArray[np.uint8], bool]:
    """A picture as a grey face, uint8 (48, 48), and whether it was resized. DataError, with `name`, if damaged."""
    grey = to_grey(read_picture(content, name=name, maximum_pixels=MOST_PIXELS).pixels)
    if grey.shape == (SIZE, SIZE):
        return grey, False
    from PIL import Image

    return np.asarray(Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BILINEAR)), True
