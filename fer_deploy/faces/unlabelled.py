"""Unlabelled faces: a folder of pictures that the teachers of a recipe label."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import DataError
from fer_deploy.faces.dataset import Dataset, pixel_keys
from fer_deploy.faces.decode import MOST_PIXELS, resize
from fer_deploy.faces.file_sets import LARGEST_PICTURE, files_in
from fer_deploy.faces.store import SIZE, Pictures
from fer_deploy.files import read_file, shown
from fer_deploy.folders import LeftOut
from fer_deploy.pictures import PICTURE_SUFFIXES, read_picture, to_grey


def read_unlabelled(
    folder: Path, dataset: Dataset, *, side: int = SIZE, message: Callable[[str], None] = lambda _line: None
) -> NDArray[np.uint8]:
    """The faces in a folder's pictures, in the order of their names, without copies of validation or test faces.

    Args:
        folder: holds pictures of one face each, framed as in FER2013 (brow to chin, with a margin), in subfolders or
            not. It is searched by the rule of `folders.walk`.
        dataset: training must not see its validation and test faces.
        side: the height and width to which the faces are resized, each once and from its original.
        message: is called with one line about what was read and what was left out.

    Returns:
        uint8 (n, side, side), 0 black to 255 white, n at least 1; no two are equal.

    Raises:
        DataError: there is no such folder, it holds no usable face, or a picture is damaged.
    """
    if not folder.is_dir():
        raise DataError(
            f"{shown(folder)}: no such folder: it should hold the recipe's unlabelled faces, one picture each"
        )
    known = {*pixel_keys(dataset.validation), *pixel_keys(dataset.test)}
    left_out = LeftOut()
    faces: dict[bytes, NDArray[np.uint8]] = {}
    copies: set[bytes] = set()  # of validation and test faces, in the original or in the new size
    pictures = resized = 0
    for name in sorted(files_in(folder, left_out)):
        if PurePosixPath(name).suffix.lower() not in PICTURE_SUFFIXES:
            left_out.add_file(name)
            continue
        content = read_file(folder / name, maximum_bytes=LARGEST_PICTURE, what="picture")
        picture = read_picture(content, name=shown(folder / name), maximum_pixels=MOST_PIXELS)
        original = to_grey(picture.pixels)
        face = resize(original, side, side)
        keys = [Pictures(each[None]).keys()[0] for each in (face, original)]
        faces.setdefault(keys[0], face)
        if not known.isdisjoint(keys):
            copies.add(keys[0])
        pictures, resized = pictures + 1, resized + (original.shape != face.shape)
    kept = [face for key, face in faces.items() if key not in copies]
    if not kept:
        raise DataError(f"{shown(folder)}: holds no picture that is not a validation or test face")
    for reason, count in (
        ("equal to another picture", pictures - len(faces)),
        ("equal to a validation or test face", len(faces) - len(kept)),
    ):
        if count:
            left_out.counts[reason] = count
    parts = [
        f"{shown(folder)}: {len(kept):,} unlabelled faces",
        f"{resized:,} pictures of another size were resized to {side}x{side}" if resized else "",
        str(left_out),
    ]
    message("; ".join(filter(None, parts)))
    return np.stack(kept)
