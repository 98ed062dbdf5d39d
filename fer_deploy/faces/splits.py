"""The usual names of the three splits, and a validation split for data sets that lack one."""

from __future__ import annotations

import hashlib
import re

import numpy as np
from numpy.typing import NDArray

from fer_deploy.faces.dataset import Faces, pixel_keys

HELD_OUT = 8
"""One training face in this many becomes a validation face, as in FER2013 (3,589 of 28,709)."""

_NAMES: dict[str, str] = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "publictest": "validation",
    "test": "test",
    "testing": "test",
    "privatetest": "test",
}


def split_of(name: str) -> str | None:
    """The split that a name means, in any case, with or without - and _; None for other names.

    >>> split_of("PublicTest"), split_of("private_test"), split_of("Train"), split_of("faces")
    ('validation', 'test', 'training', None)
    """
    return _NAMES.get(re.sub(r"[\s_-]+", "", name).lower())


def hold_out(training: Faces, test: Faces, *, seed: int = 0) -> tuple[Faces, Faces]:
    """Hold out one training face in eight of each class for validation.

    Faces with equal pixels are all kept or all held out. A face that is also in `test` is never held out, so that no
    choice is made on it. The selection depends on pixels, labels and `seed` only, not on names or order.

    Returns:
        The remaining training faces and the held-out ones, both in their old order. A class with fewer than eight
        candidates gives at least one face if another remains.
    """
    groups: dict[bytes, list[int]] = {}
    for row, key in enumerate(pixel_keys(training)):
        groups.setdefault(key, []).append(row)
    in_test = set(pixel_keys(test))
    by_class: dict[int, list[tuple[bytes, list[int]]]] = {}
    for key, rows in groups.items():
        if key not in in_test:
            pixels = training.pictures[rows[0]].tobytes()
            order = hashlib.sha256(seed.to_bytes(8, "little", signed=True) + pixels).digest()
            label = min(
                int(training.labels[row]) for row in rows
            )  # copies may have different labels: the first class counts
            by_class.setdefault(label, []).append((order, rows))
    held: NDArray[np.bool_] = np.zeros(len(training), bool)
    for label, candidates in by_class.items():
        members = int(np.count_nonzero(training.labels == label))
        wanted = max(1, round(members / HELD_OUT)) if members > 1 else 0
        taken = 0
        for _, rows in sorted(candidates):
            if taken + len(rows) > wanted:
                continue  # this group of copies is too large for what is missing; a later one may fit
            held[rows] = True
            taken += len(rows)
    return training.take(~held), training.take(held)
