"""Faces written to files in the layouts that people have, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fer_deploy.faces.dataset import SPLITS, Dataset, Faces

USAGES = {"training": "Training", "validation": "PublicTest", "test": "PrivateTest"}
"""What FER2013's table calls each split."""


def write_table(path: Path, splits: Mapping[str, Faces]) -> None:
    """Write faces as Kaggle's fer2013.csv, in the order of their rows."""
    rows = sorted((int(row), split, place) for split in SPLITS for place, row in enumerate(splits[split].rows))
    digits = np.array([list(f"{value} ".encode().ljust(4, b"\0")) for value in range(256)], np.uint8)
    with path.open("wb") as file:
        file.write(b"emotion,pixels,Usage\n")
        for _, split, place in rows:
            numbers = digits[splits[split].images[place].ravel()].ravel()
            text = numbers[numbers != 0].tobytes()[:-1]
            file.write(b"%d,%s,%s\n" % (splits[split].labels[place], text, USAGES[split].encode()))


def splits_of(dataset: Dataset) -> dict[str, Faces]:
    """The three splits, with rows numbered as if they lay in one table one after the other."""
    numbered, first = {}, 0
    for split in SPLITS:
        faces = dataset.split(split)
        numbered[split] = Faces(faces.images, faces.labels, np.arange(first, first + len(faces)))
        first += len(faces)
    return numbered
