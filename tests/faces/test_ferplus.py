"""FER+ votes: one row for each face, and never a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from face_files import USAGES

from fer_deploy.errors import DataError
from fer_deploy.faces.dataset import SPLITS, VOTE_NAMES, Dataset, Faces
from fer_deploy.faces.ferplus import add_votes, votes_beside

HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def lines_for(splits: dict[str, Faces]) -> list[str]:
    """Row i has i % 11 votes for neutral and the rest for happiness, as FER+'s file writes them."""
    usage = {int(row): USAGES[split] for split in SPLITS for row in splits[split].rows}
    rows = [f"{usage[row]},fer{row:07}.png,{row % 11},{10 - row % 11},0,0,0,0,0,0,0,0" for row in range(len(usage))]
    return [HEADER, *rows]


def write(folder: Path, lines: list[str]) -> Path:
    path = folder / "fer2013new.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_each_face_gets_its_row(tmp_path: Path, small_splits: dict[str, Faces]) -> None:
    found = add_votes(small_splits, write(tmp_path, lines_for(small_splits)))
    for split in SPLITS:
        votes = found[split].votes
        assert votes is not None
        assert votes[:, VOTE_NAMES.index("neutral")].tolist() == (found[split].rows % 11).tolist()
        assert (votes.sum(axis=1) == 10).all()
        assert np.array_equal(found[split].labels, small_splits[split].labels)


def test_the_file_is_found_beside_the_table_in_any_case(tmp_path: Path) -> None:
    assert votes_beside(tmp_path / "fer2013.csv") is None
    (tmp_path / "FER2013New.csv").touch()
    assert votes_beside(tmp_path / "fer2013.csv") == tmp_path / "FER2013New.csv"
    assert votes_beside(tmp_path / "nowhere" / "fer2013.csv") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "has votes for 90 faces, and the table has 91: they do not belong together"),
        (lambda lines: [HEADER], "has votes for 0 faces"),
        (lambda lines: [], "is not FER.'s file: its first line must be Usage,Image name,neutral"),
        (lambda lines: ["emotion,pixels,Usage", *lines[1:]], "is not FER.'s file"),
        (lambda lines: [HEADER.replace("fear,contempt", "contempt,fear"), *lines[1:]], "is not FER.'s file"),
        (
            lambda lines: [*lines[:3], lines[3].replace("Training", "PublicTest"), *lines[4:]],
            r"row 2 \(line 4\) has another split than the table",
        ),
        (
            lambda lines: [*lines[:3], "Training,a.png,x" + ",0" * 9, *lines[4:]],
            r"row 2 \(line 4\) is not a row of votes",
        ),
        (
            lambda lines: [*lines[:3], "Training,a.png,-1" + ",0" * 9, *lines[4:]],
            r"row 2 \(line 4\) is not a row of votes",
        ),
        (lambda lines: [*lines[:3], "Training,a.png,1,2", *lines[4:]], r"row 2 \(line 4\) is not a row of votes"),
    ],
)
def test_votes_that_do_not_fit_are_refused(
    tmp_path: Path, small_splits: dict[str, Faces], change, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        add_votes(small_splits, write(tmp_path, change(lines_for(small_splits))))
    assert str(caught.value).startswith("fer2013new.csv")


def test_the_real_votes_agree_with_the_labels_as_often_as_they_do(fer2013: Dataset) -> None:
    """FER+'s plurality agrees with FER2013's label on 64 % of PrivateTest: a shifted row would break it."""
    votes = fer2013.test.votes
    if votes is None:
        pytest.skip("the real data set that was named has no fer2013new.csv beside it")
    order = [
        VOTE_NAMES.index(name) for name in ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    ]
    agreement = float((votes[:, order].argmax(axis=1) == fer2013.test.labels).mean())
    assert agreement == pytest.approx(0.64, abs=0.03)
