"""What a data set's summary counts: classes, sizes, copies and near copies."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fer_deploy.faces.dataset import Dataset, Faces
from fer_deploy.faces.store import Pictures
from fer_deploy.faces.summary import (
    PictureFacts,
    Placed,
    Summary,
    described_copies,
    exact_copies,
    near_copies,
    sizes_of,
)
from fer_deploy.faces.synthetic import synthetic_dataset, synthetic_faces

LABELS = ("calm", "stern", "merry")


def three_classes(images: NDArray[np.uint8] | Pictures, labels: list[int]) -> Faces:
    rows = np.arange(len(labels))
    return Faces(images, np.array(labels, np.int64), rows, classes=3)


def small_dataset() -> Dataset:
    """Six training faces, two in each other split; one copy across splits, one with another label, one near copy."""
    faces = synthetic_faces(12, seed=3).images
    brighter = np.minimum(faces[5].astype(int) + 9, 255).astype(np.uint8)
    training = np.stack([faces[0], faces[1], faces[1], faces[3], faces[4], faces[5]])
    return Dataset.of(
        "small",
        three_classes(training, [0, 1, 2, 2, 2, 2]),
        validation=three_classes(np.stack([faces[0], faces[7]]), [0, 1]),
        test=three_classes(np.stack([brighter, faces[9]]), [2, 1]),
        official=False,
        labels=LABELS,
    )


def test_a_summary_counts_classes_and_copies() -> None:
    summary = small_dataset().summary()
    assert [(split.name, split.classes) for split in summary.splits] == [
        ("training", (1, 1, 4)),
        ("validation", (1, 1, 0)),
        ("test", (0, 1, 1)),
    ]
    assert summary.labels == LABELS
    assert summary.pictures == 10
    assert summary.balance == ("merry", 4, "calm", 1)
    assert summary.copies.repeated == {"training": 1}
    assert summary.copies.across == {"training, validation": 1}
    assert summary.copies.other_label == 2
    assert summary.near_copies.repeated == {}
    assert summary.near_copies.across == {"training, test": 1}
    assert summary.near_copies.other_label == 0
    assert summary.problems == ()


def test_its_lines_name_what_is_unusual_and_nothing_else() -> None:
    lines = small_dataset().summary().short()
    assert lines == (
        "10 pictures, 48x48 pixels; 3 classes",
        "balance: merry has 4 training pictures, calm 1: 4.0 to 1",
        "exact copies: 1 of training in validation, 1 repeated in training, 2 with another label",
        "near copies: 1 of training in test",
    )


def test_it_becomes_json_and_every_key_has_a_meaning() -> None:
    values = small_dataset().summary().to_dict()
    again = json.loads(json.dumps(values, ensure_ascii=False))
    assert again["splits"][0] == {"name": "training", "title": "training", "pictures": 6, "classes": [1, 1, 4]}
    assert again["balance"] == {"largest": "merry", "largest_pictures": 4, "smallest": "calm", "smallest_pictures": 1}
    assert again["near_copies"]["hash_bits"] == 256
    assert set(again) == {field.name for field in fields(Summary)} | {"format", "pictures", "balance"}


def test_the_copies_of_training_are_those_that_train_leaves_out() -> None:
    dataset = synthetic_dataset(140)
    training = dataset.training
    images = np.concatenate([training.images, dataset.test.images[:5], dataset.validation.images[:3]])
    labels = np.concatenate([training.labels, dataset.test.labels[:5], dataset.validation.labels[:3]])
    more = Faces(images, labels, np.arange(len(labels)))
    summary = replace(dataset, training=more).summary()
    assert summary.copies.across == {"training, validation": 3, "training, test": 5}
    assert replace(dataset, training=more).copies.sum() == 8


def test_sizes_are_height_and_width() -> None:
    sizes = sizes_of(np.array([[48, 48], [200, 100], [30, 40], [48, 48]]))
    assert (sizes.smallest, sizes.median, sizes.largest) == ((30, 40), (48, 48), (200, 100))
    assert (sizes.distinct, sizes.not_square, sizes.small) == (3, 2, 1)


def test_pictures_of_several_sizes_are_summarised() -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, shape, np.uint8) for shape in ((60, 60), (50, 70), (60, 60))]
    training = three_classes(Pictures.ragged([*pictures, np.full((80, 80), 7, np.uint8)]), [0, 1, 2, 0])
    other = three_classes(Pictures.ragged(pictures[:1]), [0])
    summary = Dataset.of(
        "any", training, validation=other, test=three_classes(Pictures.ragged(pictures[1:2]), [1]), official=False,
        labels=LABELS,
    ).summary()  # fmt: skip
    assert summary.sizes.distinct == 3
    assert summary.blank == 1
    assert summary.copies.across == {"training, validation": 1, "training, test": 1}
    assert summary.near_copies.across == {}


def test_blank_pictures_are_no_near_copies_of_each_other() -> None:
    blank = np.stack([np.full((48, 48), value, np.uint8) for value in (0, 90, 255)])
    facts = PictureFacts.of(Pictures.of(blank))
    placed = Placed(("training",), np.zeros(3, np.int64), np.zeros(3, np.int64))
    copies, groups = exact_copies(facts.keys, placed)
    assert copies.repeated == {}
    assert near_copies(facts, groups, placed).repeated == {}


def test_examples_begin_with_the_copies_that_have_different_labels() -> None:
    keys = [b"a", b"b", b"a", b"c", b"b", b"c"]
    splits, labels = np.array([0, 0, 0, 0, 1, 0]), np.array([0, 1, 0, 2, 1, 1])
    copies, _ = exact_copies(keys, Placed(("training", "test"), splits, labels, lambda picture: f"{picture}.png"))
    assert copies.examples == (("3.png", "5.png"), ("1.png", "4.png"), ("0.png", "2.png"))


def test_a_data_set_without_copies_says_nothing_of_them() -> None:
    faces = synthetic_faces(9, seed=8).images
    parts = [three_classes(faces[start : start + 3], [0, 1, 2]) for start in (0, 3, 6)]
    summary = Dataset.of("clean", parts[0], validation=parts[1], test=parts[2], official=False, labels=LABELS).summary()
    assert described_copies(summary) == []
    assert summary.short() == ("9 pictures, 48x48 pixels; 3 classes",)


@pytest.mark.real
def test_fer2013_has_its_known_copies(fer2013: Dataset) -> None:
    summary = fer2013.summary()
    assert summary.copies.across == {"training, validation": 351, "training, test": 387, "validation, test": 46}
    assert summary.balance == ("happy", 7215, "disgust", 436)
    assert 300 < summary.near_copies.across["training, test"] < 450
