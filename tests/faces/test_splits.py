"""Names of splits, and the splits that are drawn where a data set has none."""

from __future__ import annotations

import numpy as np
import pytest

from fer_deploy.errors import DataError
from fer_deploy.faces.dataset import Faces, pixel_keys
from fer_deploy.faces.request import SplitRequest
from fer_deploy.faces.splits import Drawn, Rows, draw_splits, split_of
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
def faces() -> Faces:
    """210 different training faces, 40 copies of the first of them, and copies of two of them for the test split."""
    drawn = synthetic_faces(210, seed=9)
    which = np.concatenate([np.arange(210), np.zeros(40, np.int64), [5, 6]])
    return Faces(drawn.images[which], drawn.labels[which], np.arange(252))


STATED = np.array([0] * 250 + [2] * 2, np.int8)
"""The splits of `faces`: 250 for training and 2 for the test."""


def draw(
    faces: Faces, stated: np.ndarray | None = None, text: str = "seed=0", groups: list[str | None] | None = None
) -> Drawn:
    rows = Rows(faces.labels, faces.pictures, groups, "person")
    return draw_splits(STATED if stated is None else stated, rows, SplitRequest.parse(text), name="data")


def unstated(faces: Faces) -> np.ndarray:
    return np.full(len(faces), -1, np.int8)


def counts(faces: Faces, splits: np.ndarray, split: int) -> list[int]:
    return list(faces.take(splits == split).counts)


def test_one_in_eight_of_each_class_is_drawn_where_one_split_is_missing(faces: Faces) -> None:
    drawn = draw(faces)
    totals = faces.take(STATED == 0).counts
    for taken, total in zip(counts(faces, drawn.splits, 1), totals, strict=True):
        assert taken == pytest.approx(total / 8, abs=0.5)
    assert (drawn.splits[STATED == 2] == 2).all()
    assert drawn.record == {"splits": ["validation"], "shares": [0.125], "seed": 0, "by": "picture"}
    assert "there is no validation split" in drawn.notes[0]


def test_a_test_split_is_drawn_where_there_are_training_and_validation(faces: Faces) -> None:
    stated = np.where(STATED == 2, 1, STATED).astype(np.int8)
    drawn = draw(faces, stated)
    assert (drawn.splits[stated == 1] == 1).all()
    assert 0.1 < (drawn.splits == 2).mean() < 0.15
    assert "there is no test split" in drawn.notes[0]


def test_two_splits_are_drawn_where_there_is_none(faces: Faces) -> None:
    drawn = draw(faces, unstated(faces))
    for split in (1, 2):
        for taken, total in zip(counts(faces, drawn.splits, split), faces.counts, strict=True):
            assert taken == pytest.approx(total / 10, abs=0.5)
    assert drawn.record is not None
    assert drawn.record["splits"] == ["validation", "test"]
    assert len(drawn.notes) == 2


def test_shares_are_those_that_were_asked_for(faces: Faces) -> None:
    drawn = draw(faces, unstated(faces), "50/20/30")
    for split, share in ((0, 0.5), (1, 0.2), (2, 0.3)):
        assert (drawn.splits == split).mean() == pytest.approx(share, abs=0.03)
    only = draw(faces, None, "50/20/30")  # the test split is there already: 50 to 20
    assert (only.splits[STATED == 0] == 1).mean() == pytest.approx(2 / 7, abs=0.03)


@pytest.mark.parametrize("seed", range(10))
def test_copies_stay_together_and_test_faces_are_never_chosen_on(faces: Faces, seed: int) -> None:
    splits = draw(faces, None, f"seed={seed}").splits
    parts = [set(pixel_keys(faces.take(splits == split))) for split in range(3)]
    assert not parts[0] & parts[1]
    assert not parts[2] & parts[1]
    splits = draw(faces, unstated(faces), f"seed={seed}").splits
    parts = [set(pixel_keys(faces.take(splits == split))) for split in range(3)]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]


def test_the_choice_depends_on_pixels_and_seed_alone(faces: Faces) -> None:
    order = np.random.default_rng(0).permutation(len(faces))
    chosen = np.flatnonzero(draw(faces).splits == 1)
    shuffled = order[draw(faces.take(order), STATED[order]).splits == 1]
    other = np.flatnonzero(draw(faces, None, "seed=1").splits == 1)
    assert sorted(chosen) == sorted(shuffled)
    assert sorted(chosen) != sorted(other)


def test_the_choice_is_that_of_earlier_versions() -> None:
    """Runs name the validation faces that were held out by a hash."""
    drawn = synthetic_faces(70, seed=9)
    rows = np.flatnonzero(draw(drawn, np.array([0] * 63 + [2] * 7, np.int8)).splits == 1)
    assert rows.tolist() == [2, 4, 8, 24, 28, 34, 40]


def test_a_class_with_one_face_keeps_it_for_training() -> None:
    few = Faces(synthetic_faces(9, seed=3).images, np.array([0, 0, 0, 1, 2, 3, 4, 5, 6]), np.arange(9))
    splits = draw(few, np.zeros(9, np.int8)).splits
    assert counts(few, splits, 0) == [1, 1, 1, 1, 1, 1, 1]
    assert counts(few, splits, 1) == counts(few, splits, 2) == [1, 0, 0, 0, 0, 0, 0]


def test_rows_without_a_split_beside_others_are_training_rows(faces: Faces) -> None:
    stated = STATED.copy()
    stated[:9] = -1
    drawn = draw(faces, stated)
    assert drawn.notes[0] == "9 pictures have no split: they count as training"
    complete = draw(faces, np.array([0] * 100 + [1] * 100 + [2] * 51 + [-1], np.int8))
    assert complete.splits[-1] == 0
    assert complete.record is None


def test_what_states_all_splits_is_not_drawn_again(faces: Faces) -> None:
    stated = np.array([0] * 150 + [1] * 50 + [2] * 52, np.int8)
    drawn = draw(faces, stated, "70/20/10")
    assert drawn.splits.tolist() == stated.tolist()
    assert drawn.notes == ("--split draws nothing: the data set states all three splits",)
    assert draw(faces, stated).notes == ()


def test_a_split_for_which_no_picture_can_be_drawn_is_refused(faces: Faces) -> None:
    places = np.unique(faces.labels, return_index=True)[1]
    one_each = faces.take(places)
    with pytest.raises(DataError, match=r"^data: no picture can be drawn for the test split.*3 different pictures"):
        draw(one_each, unstated(one_each))
    with pytest.raises(DataError, match=r"for the validation split.*other shares with --split"):
        draw(faces.take(np.arange(14)), np.full(14, -1, np.int8), "1/1/98")


def test_without_training_pictures_nothing_can_be_drawn(faces: Faces) -> None:
    with pytest.raises(DataError, match="data has no training pictures, only test"):
        draw(faces, np.full(len(faces), 2, np.int8))


def people(count: int, faces: Faces) -> list[str | None]:
    """Persons with different numbers of pictures of all classes."""
    return [f"P{int(row**1.7) % count}" for row in range(len(faces))]


@pytest.mark.parametrize("seed", range(5))
def test_a_person_stays_in_one_split(seed: int) -> None:
    drawn_faces = synthetic_faces(700, seed=4)
    who = people(40, drawn_faces)
    drawn = draw(drawn_faces, unstated(drawn_faces), f"seed={seed}", who)
    splits_of = {person: {int(drawn.splits[row]) for row in range(700) if who[row] == person} for person in who}
    assert all(len(splits) == 1 for splits in splits_of.values())
    for split in (1, 2):
        share = np.array(counts(drawn_faces, drawn.splits, split)) / drawn_faces.counts
        assert share.min() > 0.02
        assert share.max() < 0.25
    assert "groups by person" in drawn.notes[0]


def test_a_person_of_a_stated_split_is_not_drawn_into_another(faces: Faces) -> None:
    who: list[str | None] = [None] * 252
    who[10], who[250] = "A", "A"  # a training face of somebody in the test split
    for seed in range(30):
        assert draw(faces, None, f"30/70/10 seed={seed}", who).splits[10] == 0


def test_too_few_persons_are_drawn_by_picture_unless_the_user_named_them(faces: Faces) -> None:
    who: list[str | None] = ["A", "B"] * 126
    drawn = draw(faces, unstated(faces), "seed=0", who)
    assert "too few to draw 2 splits" in drawn.notes[0]
    assert set(drawn.splits.tolist()) == {0, 1, 2}
    with pytest.raises(DataError, match="too few to draw 2 splits"):
        draw(faces, unstated(faces), "by=person", who)
