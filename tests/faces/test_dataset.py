"""The data set's own promises: counts, copies, a hash that means the content and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError
from fer_deploy.faces.dataset import OFFICIAL_COUNTS, SPLITS, VOTE_NAMES, Dataset, Faces, content_sha256


def faces(values: list[int], labels: list[int] | None = None) -> Faces:
    """Plain faces, each of one grey value."""
    images = np.empty((len(values), 48, 48), np.uint8)
    images[:] = np.array(values, np.uint8)[:, None, None]
    return Faces(images, np.array(labels or [0] * len(values), np.int64), np.arange(len(values)))


def dataset(training: Faces, validation: Faces, test: Faces) -> Dataset:
    return Dataset.of("plain", training, validation=validation, test=test, official=False)


def test_the_official_counts_are_those_of_the_protocol() -> None:
    assert [sum(OFFICIAL_COUNTS[split]) for split in SPLITS] == [28709, 3589, 3589]
    assert OFFICIAL_COUNTS["training"][EMOTIONS.index("disgust")] == 436
    assert OFFICIAL_COUNTS["validation"][EMOTIONS.index("happy")] == 895
    assert OFFICIAL_COUNTS["test"][EMOTIONS.index("neutral")] == 626


def test_copies_are_training_rows_that_occur_in_a_later_split() -> None:
    data = dataset(faces([1, 2, 3, 3, 4]), faces([3, 9]), faces([1, 8, 9, 2]))
    assert data.copies.tolist() == [True, True, True, True, False]
    assert data.clean_training.rows.tolist() == [4]


def test_unseen_test_rows_occur_in_no_other_split_whatever_their_label() -> None:
    data = dataset(faces([1, 2], [0, 0]), faces([3]), faces([1, 8, 3, 8], [6, 1, 1, 1]))
    assert data.unseen_test.tolist() == [False, True, False, True]


def test_the_hash_does_not_depend_on_the_order_of_rows() -> None:
    training, later = faces([1, 2, 3], [0, 1, 2]), faces([9])
    turned = training.take(np.array([2, 0, 1]))
    assert dataset(training, later, later).sha256 == dataset(turned, later, later).sha256


@pytest.mark.parametrize(
    "changed",
    [
        (faces([1, 2, 4], [0, 1, 2]), faces([9]), faces([7])),
        (faces([1, 2, 3], [0, 1, 3]), faces([9]), faces([7])),
        (faces([1, 2, 3], [1, 0, 2]), faces([9]), faces([7])),
        (faces([1, 2, 3], [0, 1, 2]), faces([7]), faces([9])),
        (faces([1, 2, 3, 3], [0, 1, 2, 2]), faces([9]), faces([7])),
    ],
    ids=["pixel", "label", "labels exchanged", "splits exchanged", "a row twice"],
)
def test_the_hash_depends_on_pixels_labels_and_splits(changed: tuple[Faces, Faces, Faces]) -> None:
    original = dataset(faces([1, 2, 3], [0, 1, 2]), faces([9]), faces([7]))
    assert dataset(*changed).sha256 != original.sha256


def test_the_hash_is_the_same_for_ever() -> None:
    """Committed run records and reports name data by it."""
    splits = {"training": faces([1, 2], [3, 4]), "validation": faces([5]), "test": faces([6], [6])}
    assert content_sha256(splits) == "80caca7be323fa4346aefd4c9888202dd638a41df2d20580d4360bbbd98826b4"


def test_a_split_without_a_face_is_refused() -> None:
    with pytest.raises(DataError, match="plain: the validation split has no face"):
        dataset(faces([1]), Faces.empty(), faces([2]))


def test_a_share_is_of_the_training_faces_alone_and_lies_in_any_larger_one() -> None:
    fer_like = dataset(faces(list(range(1, 101))), faces([101]), faces([102]))
    quarter, half = fer_like.with_share(0.25), fer_like.with_share(0.5)
    assert [len(quarter.training), len(half.training)] == [round(len(fer_like.training) * s) for s in (0.25, 0.5)]
    assert set(quarter.training.rows) < set(half.training.rows) < set(fer_like.training.rows)
    assert quarter.validation is fer_like.validation
    assert quarter.test is fer_like.test
    assert len({fer_like.sha256, quarter.sha256, half.sha256}) == 3
    assert "25%" in quarter.name
    assert not quarter.official
    assert fer_like.with_share(1) is fer_like
    for wrong in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
            fer_like.with_share(wrong)


def test_take_keeps_images_labels_rows_and_votes_together() -> None:
    whole = faces([5, 6, 7], [1, 2, 3])
    whole = Faces(whole.images, whole.labels, whole.rows, np.arange(30, dtype=np.uint8).reshape(3, len(VOTE_NAMES)))
    part = whole.take(np.array([2, 0]))
    assert (part.images[:, 0, 0].tolist(), part.labels.tolist(), part.rows.tolist()) == ([7, 5], [3, 1], [2, 0])
    assert part.votes is not None
    assert part.votes[:, 0].tolist() == [20, 0]
    assert whole.take(np.array([False, True, False])).rows.tolist() == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pictures": np.zeros((2, 48), np.uint8)}, r"pictures must be \(n, height, width\)"),
        ({"pictures": np.zeros((2, 48, 48), np.float32)}, "pictures must be uint8"),
        ({"labels": np.array([0, 7])}, "labels must be 0 to 6, got 0 to 7"),
        ({"labels": np.array([-1, 0])}, "labels must be 0 to 6, got -1 to 0"),
        ({"labels": np.array([0])}, "labels must be int64"),
        ({"rows": np.array([0.0, 1.0])}, "rows must be int64"),
        ({"votes": np.zeros((2, 9), np.uint8)}, "votes must be uint8"),
    ],
)
def test_faces_that_are_none_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    good = {"pictures": np.zeros((2, 48, 48), np.uint8), "labels": np.array([0, 1]), "rows": np.array([0, 1])}
    Faces(**good)
    with pytest.raises(ValueError, match=message):
        Faces(**(good | change))


def test_splits_have_fer2013s_names_in_fer2013_alone() -> None:
    one = faces([1])
    official = Dataset.of("FER2013", one, validation=one, test=one, official=True)
    assert list(official.split_names.values()) == ["Training", "PublicTest", "PrivateTest"]
    assert list(dataset(one, one, one).split_names.values()) == ["training", "validation", "test"]
    assert official.split("test") is one
    with pytest.raises(ValueError, match="no split 'PrivateTest'"):
        official.split("PrivateTest")


def test_described_says_every_count() -> None:
    lines = dataset(faces([1, 2, 3], [0, 0, 6]), faces([4], [1]), faces([5], [2])).described()
    assert lines[0] == "plain, 5 faces"
    assert lines[1] == "training: 3 (2 angry, 0 disgust, 0 fear, 0 happy, 0 sad, 0 surprise, 1 neutral)"
    assert lines[3].startswith("test: 1 (0 angry, 0 disgust, 1 fear")


def test_the_real_copies_are_those_of_the_protocol(fer2013: Dataset) -> None:
    assert {split: fer2013.split(split).counts for split in SPLITS} == dict(OFFICIAL_COUNTS)
    assert int(fer2013.copies.sum()) == 703
    assert len(fer2013.clean_training) == 28006
    assert int(fer2013.unseen_test.sum()) == 3275
    assert not fer2013.copies[np.isin(fer2013.training.rows, fer2013.clean_training.rows)].any()
