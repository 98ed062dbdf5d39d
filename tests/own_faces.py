"""Drawn data sets with any labels and picture sizes, for tests of what comes after the reading of data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fer_deploy.faces.dataset import Dataset, Faces
from fer_deploy.faces.store import Pictures
from fer_deploy.faces.synthetic import colour_faces

_CHANGES = (lambda face: face, np.flipud, lambda face: 255 - face, np.transpose, lambda face: 255 - np.flipud(face))
"""The expressions are drawn for labels 0 to 6 (0 angry, 1 happy, 2 neutral), upside down for 7 to 13, and so on."""


def own_faces(count: int, *, classes: int, sizes: Sequence[int], seed: int) -> Faces:
    """`count` square faces of the classes in turn, the sizes in turn."""
    numbers = np.arange(count, dtype=np.int64) % classes
    pictures = []
    for place, number in enumerate(numbers):
        size = sizes[place % len(sizes)]
        (face,) = colour_faces([3 * number % 7], height=size, width=size, seed=1000 * seed + place, grey=True)
        pictures.append(np.ascontiguousarray(_CHANGES[number // 7](face[..., 0])))
    stored = Pictures.ragged(pictures) if len(sizes) > 1 else Pictures.of(np.stack(pictures))
    return Faces(stored, numbers, np.arange(count, dtype=np.int64), classes=classes)


def own_dataset(labels: tuple[str, ...], *, training: int = 420, sizes: Sequence[int] = (48,)) -> Dataset:
    """A data set called "own" with these labels: a third as many faces for validation and for test."""
    splits = [
        own_faces(count, classes=len(labels), sizes=sizes, seed=seed)
        for seed, count in enumerate((training, training // 3, training // 3))
    ]
    return Dataset.of("own", splits[0], validation=splits[1], test=splits[2], official=False, labels=labels)
