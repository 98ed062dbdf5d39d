"""Only the official FER2013 is FER2013: damaged copies are refused, other data sets keep their own names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fer_deploy.errors import DataError
from fer_deploy.faces.dataset import OFFICIAL_COUNTS, SPLITS, Dataset, Faces
from fer_deploy.faces.official import is_merged_copy, is_official, refuse_damaged

Splits = dict[str, Faces]


def blank(counts: tuple[int, ...]) -> Faces:
    """Faces without any memory: the counts are what matters."""
    labels = np.repeat(np.arange(7), counts)
    return Faces(np.broadcast_to(np.uint8(128), (len(labels), 48, 48)), labels, np.arange(len(labels)))


@pytest.fixture
def official() -> Splits:
    return {split: blank(OFFICIAL_COUNTS[split]) for split in SPLITS}


def swapped(splits: Splits) -> Splits:
    return splits | {"validation": splits["test"], "test": splits["validation"]}


def turned(splits: Splits) -> Splits:
    return {"training": splits["test"], "validation": splits["training"], "test": splits["validation"]}


def one_label_changed(splits: Splits) -> Splits:
    labels = splits["test"].labels.copy()
    labels[0] = 1
    return splits | {"test": Faces(splits["test"].images, labels, splits["test"].rows)}


def one_row_lost(splits: Splits) -> Splits:
    return splits | {"training": splits["training"].take(slice(1, None))}


def one_row_moved(splits: Splits) -> Splits:
    counts = OFFICIAL_COUNTS["training"]
    return splits | {
        "training": blank((counts[0] - 1, *counts[1:])),
        "validation": blank((OFFICIAL_COUNTS["validation"][0] + 1, *OFFICIAL_COUNTS["validation"][1:])),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            swapped,
            "the splits of FER2013 are swapped: PublicTest holds PrivateTest's faces, PrivateTest holds PublicTest's",
        ),
        (turned, "the splits of FER2013 are swapped: Training holds PrivateTest's faces"),
        (one_label_changed, "damaged copy of FER2013: PrivateTest has 490 faces of angry, and FER2013 has 491"),
        (one_row_lost, "damaged copy of FER2013: Training has 3,994 faces of angry, and FER2013 has 3,995"),
        (one_row_moved, "damaged copy of FER2013: Training has 3,994 faces of angry"),
    ],
)
def test_copies_with_other_counts_are_refused(
    official: Splits, change: Callable[[Splits], Splits], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        refuse_damaged(change(official), "fer2013.csv")
    assert str(caught.value).startswith("fer2013.csv")
    assert "get FER2013 again" in str(caught.value)


@pytest.mark.parametrize("change", [swapped, turned, one_label_changed, one_row_moved])
def test_another_file_name_does_not_hide_that_all_35887_faces_are_there(
    official: Splits, change: Callable[[Splits], Splits]
) -> None:
    with pytest.raises(DataError):
        refuse_damaged(change(official), "faces.csv")


def test_other_data_sets_are_let_through_and_are_not_official(official: Splits) -> None:
    cleaned = one_row_lost(official)
    refuse_damaged(cleaned, "cleaned.csv")
    assert not is_official(cleaned)
    small = {split: blank((10, 10, 10, 10, 10, 10, 10)) for split in SPLITS}
    refuse_damaged(small, "fer2013.csv")
    assert not is_official(small)


def test_the_copy_with_one_test_split_is_known(official: Splits) -> None:
    both = tuple(a + b for a, b in zip(OFFICIAL_COUNTS["validation"], OFFICIAL_COUNTS["test"], strict=True))
    merged = {"training": official["training"], "validation": Faces.empty(), "test": blank(both)}
    refuse_damaged(merged, "archive")
    assert is_merged_copy({split: faces.counts for split, faces in merged.items()})
    assert not is_official(merged)
    merged["test"] = blank((both[0] - 1, both[1] + 1, *both[2:]))
    assert not is_merged_copy({split: faces.counts for split, faces in merged.items()})
    with pytest.raises(DataError, match="PrivateTest has 957 faces of angry, and FER2013 has 958"):
        refuse_damaged(merged, "archive")


def test_right_counts_with_other_pixels_are_refused(official: Splits) -> None:
    assert is_official(official)
    with pytest.raises(DataError, match="has FER2013's class counts and other pixels: Training's angry faces"):
        refuse_damaged(official, "fer2013.csv")


def real(fer2013: Dataset) -> Splits:
    return {split: fer2013.split(split) for split in SPLITS}


def test_the_real_one_is_official(fer2013: Dataset) -> None:
    refuse_damaged(real(fer2013), "fer2013.csv")
    assert is_official(real(fer2013))


def shuffled_labels(faces: Faces) -> Faces:
    return Faces(faces.images, np.random.default_rng(0).permutation(faces.labels), faces.rows)


@pytest.mark.parametrize(
    "change",
    [
        shuffled_labels,
        lambda faces: Faces(np.ascontiguousarray(faces.images[:, ::-1]), faces.labels, faces.rows),
        lambda faces: Faces(255 - faces.images, faces.labels, faces.rows),
    ],
    ids=["labels shuffled", "upside down", "inverted"],
)
@pytest.mark.parametrize("split", SPLITS)
def test_real_faces_whose_pixels_do_not_fit_their_labels_are_refused(
    fer2013: Dataset, change: Callable[[Faces], Faces], split: str
) -> None:
    splits = real(fer2013)
    with pytest.raises(DataError, match="other pixels"):
        refuse_damaged(splits | {split: change(splits[split])}, "fer2013.csv")
