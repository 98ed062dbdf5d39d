"""Names of splits, and the validation split that is held out where a data set has none."""

from __future__ import annotations

import numpy as np
import pytest

from fer_deploy.faces.dataset import Faces, pixel_keys
from fer_deploy.faces.splits import hold_out, split_of
from fer_deploy.faces.synthetic import synthetic_faces


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "training"), ("Training", "training"), ("TRAIN", "training"),
        ("val", "validation"), ("Valid", "validation"), ("validation", "validation"), ("PublicTest", "validation"),
        ("public_test", "validation"), ("test", "test"), ("Testing", "test"), ("PrivateTest", "test"),
        ("Private Test", "test"), ("faces", None), ("", None), ("trainer", None),
    ],
)  # fmt: skip
def test_names(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.fixture(scope="module")
def training() -> Faces:
    """210 different faces, 40 copies of the first of them, and 2 faces that the test split has too."""
    faces = synthetic_faces(210, seed=9)
    which = np.concatenate([np.arange(210), np.zeros(40, np.int64)])
    return Faces(faces.images[which], faces.labels[which], np.arange(250))


@pytest.fixture(scope="module")
def test_faces(training: Faces) -> Faces:
    return training.take(np.array([5, 6]))


def test_one_in_eight_of_each_class_is_held_out(training: Faces, test_faces: Faces) -> None:
    stays, held = hold_out(training, test_faces)
    assert sorted([*stays.rows, *held.rows]) == list(range(250))
    assert stays.counts != training.counts
    for kept, all_of_class in zip(held.counts, training.counts, strict=True):
        assert kept == pytest.approx(all_of_class / 8, abs=0.5)


def test_copies_stay_together_and_test_faces_are_never_chosen_on(training: Faces, test_faces: Faces) -> None:
    for seed in range(20):
        stays, held = hold_out(training, test_faces, seed=seed)
        assert not set(pixel_keys(stays)) & set(pixel_keys(held))
        assert not set(pixel_keys(test_faces)) & set(pixel_keys(held))


def test_the_choice_depends_on_pixels_and_seed_alone(training: Faces, test_faces: Faces) -> None:
    order = np.random.default_rng(0).permutation(len(training))
    _, held = hold_out(training, test_faces)
    _, held_of_shuffled = hold_out(training.take(order), test_faces)
    _, held_by_other_seed = hold_out(training, test_faces, seed=1)
    assert sorted(held.rows) == sorted(held_of_shuffled.rows)
    assert sorted(held.rows) != sorted(held_by_other_seed.rows)


def test_a_class_with_one_face_keeps_it_for_training() -> None:
    few = synthetic_faces(8, seed=3)  # two angry faces, one of each other class
    stays, held = hold_out(few, Faces.empty())
    assert stays.counts == (1, 1, 1, 1, 1, 1, 1)
    assert held.counts == (1, 0, 0, 0, 0, 0, 0)
