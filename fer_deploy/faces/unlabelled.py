"""Faces that nobody labelled: a folder of pictures, for the teachers of a recipe to name."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fer_deploy.errors import DataError
from fer_deploy.faces.dataset import SIZE, Dataset, pixel_keys
from fer_deploy.faces.tree import LARGEST_PICTURE, face_from_picture, walk
from fer_deploy.files import read_file, shown
from fer_deploy.pictures import PICTURE_SUFFIXES


def read_unlabelled(folder: Path, dataset: Dataset) -> NDArray[np.uint8]:
    """The faces of a folder's pictures, in the order of their names, those of the later splits left out.

    Args:
        folder: holds pictures of one face each, framed as FER2013's are (brow to chin, with a margin), in folders
            or not; files of other kinds are passed over.
        dataset: whose validation and test faces must not be learned from.

    Returns:
        uint8 (n, 48, 48), 0 black to 255 white, n at least 1; no two are equal.

    Raises:
        DataError: there is no such folder, it holds no usable face, or a picture is damaged; names it.
    """
    if not folder.is_dir():
        raise DataError(
            f"{shown(folder)}: no such folder: it should hold the recipe's unlabelled faces, a picture each"
        )
    known = {*pixel_keys(dataset.validation), *pixel_keys(dataset.test)}
    found: dict[bytes, None] = {}
    for name in sorted(walk(folder)):
        if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES:
            face, _ = face_from_picture(
                read_file(folder / name, maximum_bytes=LARGEST_PICTURE, what="picture"), shown(folder / name)
            )
            found[face.tobytes()] = None
    kept = [pixels for pixels in found if pixels not in known]
    if not kept:
        raise DataError(f"{shown(folder)}: holds no picture that is not a validation or test face")
    return np.frombuffer(b"".join(kept), np.uint8).reshape(-1, SIZE, SIZE).copy()
