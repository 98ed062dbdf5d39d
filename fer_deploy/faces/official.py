"""Whether faces are the official FER2013, a damaged copy of it, or another data set.

Only the official one is ever called FER2013. A copy with other class counts, or with pixels that cannot be FER2013's,
is refused, because every figure measured on it would be wrong unnoticed. Any other data set keeps its own name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import permutations
from types import MappingProxyType

import numpy as np

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError
from fer_deploy.faces.dataset import OFFICIAL_COUNTS, SPLITS, Faces

OFFICIAL_NAMES = {"training": "Training", "validation": "PublicTest", "test": "PrivateTest"}

_TOTAL = sum(map(sum, OFFICIAL_COUNTS.values()))
_MERGED_TEST = tuple(a + b for a, b in zip(OFFICIAL_COUNTS["validation"], OFFICIAL_COUNTS["test"], strict=True))
_REMEDY = "get FER2013 again from its source"

OFFICIAL_GREY: Mapping[str, tuple[tuple[float, float], ...]] = MappingProxyType(
    {
        "training": (
            (126.2, 3.1), (135.2, -2.4), (135.5, -0.8), (129.4, -1.1), (121.3, 0.1), (146.2, -4.9), (123.9, -6.7),
        ),
        "validation": (
            (127.1, 1.9), (135.8, -5.1), (135.3, -1.4), (127.8, -2.5), (120.2, -0.1), (146.4, -4.9), (124.4, -7.7),
        ),
        "test": (
            (128.5, 3.8), (133.4, 3.4), (134.8, -2.2), (127.6, -1.6), (120.0, 1.2), (146.5, -4.2), (123.3, -6.8),
        ),
    }
)  # fmt: skip
"""Measured for each split and class of FER2013: the mean grey value, and the upper half's mean minus the lower's."""

TOLERANCE = 1.0
"""Grey values by which a copy may differ. Shuffled labels, or flipped, inverted or blank faces, differ by more."""


def is_official(splits: Mapping[str, Faces]) -> bool:
    """Whether every class of every split has the count of FER2013."""
    return all(splits[name].counts == OFFICIAL_COUNTS[name] for name in SPLITS)


def refuse_damaged(splits: Mapping[str, Faces], name: str) -> None:
    """Refuse faces that claim to be FER2013 and are not.

    They claim it with 35,887 rows in total, or with FER2013's name and at least half as many. Faces without a
    validation split are compared with the common copy whose test split holds PublicTest and PrivateTest.

    Raises:
        DataError: the splits are swapped, a class count is wrong, or the pixels are not FER2013's.
    """
    counts = {split: splits[split].counts for split in SPLITS}
    if is_official(splits):
        _refuse_other_pixels(splits, name)
        return
    total = sum(map(sum, counts.values()))
    claims = total == _TOTAL or (is_called_fer2013(name) and total * 2 >= _TOTAL)
    if not claims:
        return
    merged = not sum(counts["validation"])
    if merged and counts["training"] == OFFICIAL_COUNTS["training"] and counts["test"] == _MERGED_TEST:
        return
    for order in permutations(SPLITS):
        if all(counts[split] == OFFICIAL_COUNTS[other] for split, other in zip(SPLITS, order, strict=True)):
            swapped = [
                f"{OFFICIAL_NAMES[split]} holds {OFFICIAL_NAMES[other]}'s faces"
                for split, other in zip(SPLITS, order, strict=True)
                if split != other
            ]
            raise DataError(f"{name}: the splits of FER2013 are swapped: {', '.join(swapped)}: {_REMEDY}")
    official = {"training": OFFICIAL_COUNTS["training"], "test": _MERGED_TEST} if merged else dict(OFFICIAL_COUNTS)
    for split, expected in official.items():
        for label, (got, wanted) in enumerate(zip(counts[split], expected, strict=True)):
            if got != wanted:
                raise DataError(
                    f"{name} is a damaged copy of FER2013: {OFFICIAL_NAMES[split]} has {got:,} faces of "
                    f"{EMOTIONS[label]}, and FER2013 has {wanted:,}: {_REMEDY}, "
                    "or, if you changed it on purpose, give the file another name"
                )


def is_called_fer2013(name: str) -> bool:
    """Whether a file or folder has one of FER2013's usual names."""
    return re.match(r"(fer[-_ ]?2013|icml_face_data)", name, re.IGNORECASE) is not None


def is_merged_copy(counts: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether these are the counts of FER2013's classes with PublicTest and PrivateTest merged in the test split."""
    return (
        not any(counts["validation"])
        and counts["training"] == OFFICIAL_COUNTS["training"]
        and counts["test"] == _MERGED_TEST
    )


def grey_of(faces: Faces) -> list[tuple[float, float]]:
    """For each class: the mean grey value, and the upper half's mean minus the lower half's."""
    halves = faces.images.reshape(len(faces), 2, -1).mean(axis=2)
    return [
        (float(upper + lower) / 2, float(upper - lower))
        for upper, lower in (halves[faces.labels == label].mean(axis=0) for label in range(len(EMOTIONS)))
    ]


def _refuse_other_pixels(splits: Mapping[str, Faces], name: str) -> None:
    for split, expected in OFFICIAL_GREY.items():
        for label, (got, wanted) in enumerate(zip(grey_of(splits[split]), expected, strict=True)):
            if np.abs(np.subtract(got, wanted)).max() > TOLERANCE:
                raise DataError(
                    f"{name} has FER2013's class counts and other pixels: {OFFICIAL_NAMES[split]}'s "
                    f"{EMOTIONS[label]} faces have the mean grey {got[0]:.1f}, FER2013's {wanted[0]:.1f}: {_REMEDY}"
                )
