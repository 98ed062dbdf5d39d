"""The layouts of published data sets: their own labels, splits and persons, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drawn_layouts import draw, listed, text, words

from fer_deploy.errors import DataError

VOTES = ["0", "0", "0", "0", "0", "0", "0", "0", "0", "0"]
RAF = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
AFFECTNET = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")


def ferplus(root: Path) -> Path:
    """Nine pictures a split: eight with a clear vote for each expression, one that is no face."""
    for start, folder in ((0, "FER2013Train"), (9, "FER2013Valid"), (18, "FER2013Test")):
        files = [f"fer{start + number:07}.png" for number in range(9)]
        draw(root, *(f"{folder}/{file}" for file in files))
        rows = [[*VOTES[:number], "8", *VOTES[number + 1 :]] for number in (*range(8), 9)]
        rows[0][3] = "1"  # a single vote counts nothing
        text(root, f"{folder}/label.csv", *(f'{file},"(0, 0, 48, 48)",{",".join(row)}'
                                            for file, row in zip(files, rows, strict=True)))  # fmt: skip
    return root


def raf_db(root: Path, folder: str = "basic/Image/aligned", end: str = "_aligned") -> Path:
    names = [f"{split}_{number:05}" for split in ("train", "test") for number in range(1, 8)]
    draw(root, *(f"{folder}/{name}{end}.jpg" for name in names))
    return text(root, "basic/EmoLabel/list_patition_label.txt", *(f"{name}.jpg {int(name[-1])}" for name in names))


HEADER = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"


def affectnet_table(root: Path) -> Path:
    draw(root, *(f"Manually_Annotated_Images/{number}/{number}.jpg" for number in range(16)))
    for name, numbers in (("training", range(8)), ("validation", range(8, 16))):
        rows = [f'{number}/{number}.jpg,1,2,30,40,"1.5;2.5",{number % 8},0.1,-0.2' for number in numbers]
        text(root, f"{name}.csv", HEADER, *rows, "0/0.jpg,1,2,3,4,5;6,9,-2,-2", "0/0.jpg,1,2,3,4,5;6,10,-2,-2")
    return root


def affectnet_folders(root: Path) -> Path:
    for folder in ("train_set", "val_set"):
        draw(root, *(f"{folder}/images/{number}.jpg" for number in range(9)))
        (root / folder / "annotations").mkdir()
        for number in range(9):
            np.save(root / folder / "annotations" / f"{number}_exp.npy", np.array(str(number)))
            np.save(root / folder / "annotations" / f"{number}_val.npy", np.array("0.1"))
    return root


def ck_plus(root: Path) -> Path:
    for person in range(5, 12):
        frames = [f"S{person:03}_001_{frame:08}" for frame in (1, 2, 11)]
        draw(root, *(f"cohn-kanade-images/S{person:03}/001/{frame}.png" for frame in frames))
        label = f"   {person - 4}.0000000e+00"
        text(root, f"Emotion/S{person:03}/001/{frames[-1]}_emotion.txt", label)
    return draw(root, "cohn-kanade-images/S099/001/S099_001_00000001.png")


def kdef(root: Path) -> Path:
    people = ("AF01", "AM02", "BF01")
    return draw(root, *(f"{who}/{who}{what}S.JPG" for who in people for what in ("AF", "AN", "DI", "HA", "NE", "SA")))


def jaffe(root: Path) -> Path:
    names = [
        f"{who}.{what}{number}.{number}.tiff"
        for who in ("KA", "KL")
        for what in ("AN", "FE", "SU")
        for number in (1, 2)
    ]
    return draw(text(root, "README_FIRST.txt", "x"), *names)


def test_ferplus_folders_are_read_by_the_majority_of_votes(tmp_path: Path) -> None:
    listing = listed(ferplus(tmp_path))
    expected = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt")
    assert words(listing) == {(split, name): 1 for split in ("training", "validation", "test") for name in expected}
    assert str(listing.left_out) == (
        "left out: 3 pictures without a label, 3 without a majority of votes for an expression"
    )
    assert listing.labels[0] == "neutral"


def test_ferplus_votes_that_do_not_agree_leave_the_picture_out(tmp_path: Path) -> None:
    ferplus(tmp_path)
    path = tmp_path / "FER2013Valid" / "label.csv"
    path.write_text(path.read_text().replace("8,0,0,1,", "4,4,1,1,"))
    assert ("validation", "neutral") not in words(listed(tmp_path))


@pytest.mark.parametrize(("folder", "end"), [("basic/Image/aligned", "_aligned"), ("basic/Image/original", "")])
def test_raf_db_is_read_by_its_list(tmp_path: Path, folder: str, end: str) -> None:
    listing = listed(raf_db(tmp_path, folder, end))
    assert words(listing) == {(split, name): 1 for split in ("training", "test") for name in RAF}
    assert f"{14 if end else 0} of 14 pictures are aligned" in listing.notes[0]


def test_raf_dbs_aligned_pictures_come_before_its_originals(tmp_path: Path) -> None:
    raf_db(raf_db(tmp_path), "basic/Image/original", "")
    listing = listed(tmp_path)
    assert all("_aligned" in place for place in listing.places)
    assert "14 pictures that are not listed, or whose aligned copy is read" in str(listing.left_out)


def test_affectnets_table_has_its_own_numbers(tmp_path: Path) -> None:
    listing = listed(affectnet_table(tmp_path))
    assert words(listing) == {(split, name): 1 for split in ("training", "validation") for name in AFFECTNET}
    assert str(listing.left_out) == "left out: 4 of AffectNet's classes 8, 9 and 10, which are no expressions"


def test_affectnets_folders_have_its_own_numbers(tmp_path: Path) -> None:
    listing = listed(affectnet_folders(tmp_path))
    assert words(listing) == {(split, name): 1 for split in ("training", "validation") for name in AFFECTNET}
    assert "2 without an expression (8, 9 and 10)" in str(listing.left_out)


def test_ck_plus_is_read_by_its_emotion_files(tmp_path: Path) -> None:
    listing = listed(ck_plus(tmp_path))
    expected = ("angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
    assert words(listing) == {(None, name): 1 for name in expected}
    assert all(place.endswith("00000011.png") for place in listing.places)
    assert "15 pictures without a label" in str(listing.left_out)


def test_kdef_and_jaffe_are_read_by_the_names_of_their_files(tmp_path: Path) -> None:
    listing = listed(kdef(tmp_path / "kdef"))
    assert words(listing) == {(None, name): 3 for name in ("fear", "angry", "disgust", "happy", "neutral", "sad")}
    listing = listed(jaffe(tmp_path / "jaffe"))
    assert words(listing) == {(None, name): 4 for name in ("angry", "fear", "surprise")}
    assert str(listing.left_out) == "left out: 1 *.txt"


def test_folders_of_expressions_come_before_coded_names(tmp_path: Path) -> None:
    draw(tmp_path, "happy/AF01HAS.JPG", "sad/AF01SAS.JPG", "sad/AM02SAS.JPG")
    assert words(listed(tmp_path)) == {(None, "happy"): 1, (None, "sad"): 2}


def no_pictures_of_ferplus(root: Path) -> None:
    ferplus(root)
    for path in root.rglob("*.png"):
        path.unlink()
    draw(root, "x.png")


def damaged_votes(root: Path) -> None:
    ferplus(root)
    with (root / "FER2013Test" / "label.csv").open("a") as file:
        file.write("fer0.png,1,2\n")


def damaged_list(root: Path) -> None:
    text(raf_db(root), "basic/EmoLabel/list_patition_label.txt", "train_00001.jpg 8")


def damaged_annotation(root: Path) -> None:
    affectnet_folders(root)
    (root / "val_set" / "annotations" / "3_exp.npy").write_bytes(b"\x80\x04N.")


def damaged_emotion(root: Path) -> None:
    text(ck_plus(root), "Emotion/S005/001/S005_001_00000011_emotion.txt", "happy")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_pictures_of_ferplus, r"label\.csv names 27 pictures, and none of them is there: expected them beside it"),
        (damaged_votes, r"FER2013Test/label\.csv, line 10 is not a row of FER\+'s votes"),
        (
            damaged_list,
            r"list_patition_label\.txt, line 1 is 'train_00001\.jpg 8': expected a file and a number from 1",
        ),
        (damaged_annotation, r"val_set/annotations/3_exp\.npy holds None: expected an expression from 0 to 10"),
        (damaged_emotion, r"S005_001_00000011_emotion\.txt holds 'happy': expected an emotion from 0 to 7"),
    ],
)
def test_damaged_labels_are_refused_in_one_line(tmp_path: Path, make, message: str) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        listed(tmp_path)
    assert "\n" not in str(caught.value)
