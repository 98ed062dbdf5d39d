"""Pictures in folders: which level is which, what is left out, and every fault in one line."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from drawn_layouts import draw, listed, pixels, text, tree, words
from PIL import Image

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError
from fer_deploy.faces import file_sets
from fer_deploy.faces.dataset import SPLITS, Dataset
from fer_deploy.faces.decode import decode
from fer_deploy.faces.levels import split_in
from fer_deploy.tars import LARGEST_RATIO

OTHER_NAMES = ("Anger", "DISGUSTED", "fearful", "Happiness", "SAD", "suprise", "Neutral")
NUMBERED = tuple(f"{number}_{name}" for number, name in enumerate(EMOTIONS))
ALL = {(split, name): 2 for split in SPLITS for name in EMOTIONS}


def write_tree(
    root: Path,
    dataset: Dataset,
    *,
    folders: tuple[str | None, str | None, str | None] = ("train", "validation", "test"),
    names: tuple[str, ...] = EMOTIONS,
    stems: tuple[str, str, str] = ("face", "face", "face"),
) -> Path:
    """A data set as pictures in folders."""
    for split, folder, stem in zip(SPLITS, folders, stems, strict=True):
        faces = dataset.split(split)
        if folder is None:
            continue
        for place, (image, label) in enumerate(zip(faces.images, faces.labels.tolist(), strict=True)):
            path = root / folder / names[label] / f"{stem}_{place:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root


@pytest.mark.parametrize(
    ("pattern", "splits", "labels"),
    [
        ("{split}/{label}/{number}.png", ("train", "validation", "test"), EMOTIONS),
        ("{split}/{label}/{number}.png", ("Training", "PublicTest", "PrivateTest"), OTHER_NAMES),
        ("{split}/{label}/{number}.png", ("TRAIN", "val", "Testing"), tuple(map(str.upper, EMOTIONS))),
        ("{split}/{label}/{number}.png", ("train", "valid", "test"), NUMBERED),
        ("fer/images/{split}/{label}/{number}.png", ("train", "valid", "test"), EMOTIONS),
        ("{split}/{split}/{label}/{number}.png", ("train", "validation", "test"), EMOTIONS),
        ("{label}/{split}/{number}.png", ("train", "validation", "test"), EMOTIONS),
        ("{split}/{label}/{number}.png", ("FER2013Train", "FER2013Valid", "FER2013Test"), EMOTIONS),
        ("{split}/{label}/{number}.png", ("train_images", "my-val-set", "images_test"), EMOTIONS),
        ("{split}/{label}/person {number}/a.png", ("train", "validation", "test"), EMOTIONS),
        ("{split}/{split}/{label}/{number}.png", ("train", "dev", "test"), EMOTIONS),
        ("{label}/{split}_{number}.png", ("Training", "PublicTest", "PrivateTest"), EMOTIONS),
        ("part {split}/{split}/{label}/{number}.webp", ("train", "val", "test"), NUMBERED),
    ],
)
def test_folders_in_every_common_order(
    tmp_path: Path, pattern: str, splits: tuple[str, ...], labels: tuple[str, ...]
) -> None:
    listing = listed(tree(tmp_path, pattern, splits=splits, labels=labels))
    assert words(listing) == ALL
    assert listing.notes[0].startswith("folders such as ")
    assert listing.rows.tolist() == list(range(len(listing)))
    assert not listing.left_out.counts


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "bztar", "xztar"])
@pytest.mark.parametrize("ending", ["png", "tiff", "jpg", "bmp", "gif"])
def test_archives_are_read_as_their_folders(tmp_path: Path, kind: str, ending: str) -> None:
    root = tree(tmp_path / "set", "fer/{split}/{label}/{number}." + ending, count=1)
    text(root, "fer/train/sad/notes.txt", "x")
    text(root, "__MACOSX/fer/train/sad/._0.png", "x")
    packed = listed(Path(shutil.make_archive(str(tmp_path / "packed"), kind, root)))
    folder = listed(root)
    assert words(packed) == words(folder)
    assert list(packed.places) == list(folder.places)
    assert all(map(np.array_equal, pixels(packed), pixels(folder)))
    assert str(packed.left_out) == str(folder.left_out) == "left out: 1 *.txt, 1 __MACOSX"


def test_a_zip_packed_on_windows(tmp_path: Path) -> None:
    root = tree(tmp_path / "set")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in root.rglob("*.png"):
            member = zipfile.ZipInfo("x")
            member.filename = "fer\\" + str(path.relative_to(root)).replace("/", "\\")
            archive.writestr(member, path.read_bytes())
    assert words(listed(tmp_path / "a.zip")) == ALL


@pytest.mark.parametrize(
    ("labels", "option", "classes"),
    [
        (("böse", "froh"), "", ("böse", "froh")),
        (("1", "2", "3"), "raf-db", ("disgust", "fear", "surprise")),
        (("class001", "class002"), "affectnet", ("happy", "sad")),
        (("0", "7"), "affectnet", ("contempt", "neutral")),
        (("0_on", "1_off"), "", ("off", "on")),
        ((*EMOTIONS, "contempt"), "", (*EMOTIONS, "contempt")),
        (("喜び", "悲しみ"), "", ("喜び", "悲しみ")),
    ],
)
def test_classes_of_any_names(tmp_path: Path, labels: tuple[str, ...], option: str, classes: tuple[str, ...]) -> None:
    found = words(listed(tree(tmp_path, labels=labels)), option)
    assert found == {(split, name): 2 for split in SPLITS for name in classes}


def test_folders_that_state_no_split_leave_it_open(tmp_path: Path) -> None:
    found = words(listed(tree(tmp_path, "{label}/{number}.png", splits=("",))))
    assert found == {(None, name): 2 for name in EMOTIONS}


@pytest.mark.parametrize("splits", [("train", "validation"), ("train", "test"), ("images/train", "images/validation")])
def test_a_split_that_is_not_there_is_no_fault(tmp_path: Path, splits: tuple[str, ...]) -> None:
    listing = listed(tree(tmp_path, splits=splits))
    assert set(listing.splits) == {split_in(split.rpartition("/")[2]) for split in splits}


def test_a_merged_test_folder_is_split_by_the_names_of_its_files(tmp_path: Path) -> None:
    tree(tmp_path, splits=("train",))
    for split in ("PublicTest", "PrivateTest"):
        tree(tmp_path, "test/{label}/" + split + "_{number}.png", splits=("",))
    listing = listed(tmp_path)
    assert words(listing) == ALL
    assert "split into PublicTest and PrivateTest" in listing.notes[1]
    draw(tmp_path, "test/sad/unnamed.png")
    assert "validation" not in listed(tmp_path).splits


def test_files_that_are_not_pictures_are_left_out_with_a_count(tmp_path: Path) -> None:
    tree(tmp_path)
    for name in ("README.md", "train/labels.csv", "train/sad/.DS_Store", "train/sad/Thumbs.db", ".git/train/odd/x.png",
                 "train/sad/._face_003.png", "train/sad/@eaDir/face_003.png/SYNOPHOTO_THUMB_M.png", "train/sad/x.heic",
                 "train/sad/.ipynb_checkpoints/face-checkpoint.png", "__MACOSX/train/sad/._face_003.png"):  # fmt: skip
        text(tmp_path, name, "x")
    draw(tmp_path, "preview.png", "train/overview.jpg")
    listing = listed(tmp_path)
    assert words(listing) == ALL
    assert str(listing.left_out) == (
        "left out: 4 hidden, 2 pictures outside the folders of classes, 1 *.csv, 1 *.heic (save as JPEG), 1 *.md, "
        "1 @eaDir, 1 Thumbs.db, 1 __MACOSX"
    )


def test_a_linked_folder_of_pictures_is_read_once(tmp_path: Path) -> None:
    tree(tmp_path / "data")
    (tmp_path / "data" / "train" / "sad").rename(tmp_path / "elsewhere")
    (tmp_path / "data" / "train" / "sad").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "train" / "sad" / "again").symlink_to(tmp_path / "elsewhere")
    listing = listed(tmp_path / "data")
    assert words(listing) == ALL
    assert str(listing.left_out) == "left out: 1 link to a folder that is read already"


def numbered(root: Path) -> None:
    tree(root, labels=("1", "2", "3"))


def two_trees(root: Path) -> None:
    tree(tree(root), "copy/{split}/{label}/{number}.png")


def two_validations(root: Path) -> None:
    tree(root, splits=("train", "val", "validation"))


def nested_copy(root: Path) -> None:
    tree(tree(root), "train/{split}/{label}/{number}.png", splits=("train",))


def two_parts_of_training(root: Path) -> None:
    tree(root, splits=("train_part_1", "train_part_2", "test"))


def two_levels(root: Path) -> None:
    tree(root, "{label}/{number}/{split}.png", labels=("böse", "froh"))


def one_class(root: Path) -> None:
    tree(root, labels=("happy",))


def no_folders(root: Path) -> None:
    draw(root, "1.png", "2.png")


def yolo(root: Path) -> None:
    tree(root, "{split}/images/{number}.png", labels=("",))
    text(root, "train/labels/0.txt", "3 0.5 0.5 1 1")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (numbered, r"numbers without names: 1 \(6 pictures\), 2 \(6\), 3 \(6\): .*--labels.*raf-db \(1 surprise"),
        (two_trees, r"several trees of pictures \(\., copy\): name the one to read"),
        (two_validations, "the folders val and validation are both the validation split: keep one"),
        (nested_copy, "the folders train and train/train are both the training split: keep one"),
        (two_parts_of_training, "train_part_1 and train_part_2 are both the training split"),
        (two_levels, r"2 levels that could be the classes \(böse, froh; 0, 1\): expected one folder for each class"),
        (one_class, r"2 to 1,000 classes, not 1 \('happy'\)"),
        (no_folders, r"holds no data set: found 2 files \(2 \.png\) and no folders: expected a folder for each class"),
        (yolo, r"found 7 files \(6 \.png, 1 \.txt\) in folders such as test/images, train/images, train/labels: exp"),
    ],
)
def test_folders_that_are_not_clear_are_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        words(listed(tmp_path))
    assert "\n" not in str(caught.value)


def test_every_picture_that_cannot_be_read_names_itself(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "train" / "sad" / "0.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "train" / "sad" / "1.png").write_bytes(b"")
    (tmp_path / "test" / "sad" / "gone.png").symlink_to("nowhere.png")
    listing = listed(tmp_path)
    assert listing.pictures.read is not None
    faults = {}
    for place, name in enumerate(listing.places):
        try:
            listing.pictures.read(place)
        except DataError as error:
            faults[name] = str(error)
    assert {name: error.partition("sad/")[2] for name, error in faults.items()} == {
        "train/sad/0.png": "0.png is a Git LFS pointer, not the file itself: run `git lfs pull` to get it",
        "train/sad/1.png": "1.png: the file is empty (0 bytes)",
        "test/sad/gone.png": "gone.png: a symbolic link to nothing",
    }


def test_loops_of_links_end(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "train" / "sad" / "again").symlink_to(tmp_path / "train", target_is_directory=True)
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert Counter(listed(tmp_path).splits) == dict.fromkeys(SPLITS, 14)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_does_not_hang_the_reader(tmp_path: Path) -> None:
    tree(tmp_path)
    os.mkfifo(tmp_path / "train" / "sad" / "pipe.png")
    assert words(listed(tmp_path)) == ALL


def test_linked_pictures_and_folders_are_read(tmp_path: Path) -> None:
    real = tree(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    for folder in ("train", "validation", "test"):
        (tmp_path / "linked" / folder).symlink_to(real / folder, target_is_directory=True)
    assert words(listed(tmp_path / "linked")) == ALL


def test_grey_pictures_keep_their_exact_values_in_every_format(tmp_path: Path, small: Dataset) -> None:
    face = small.training.images[0]
    for name in ("a.png", "a.bmp", "a.pgm", "a.webp"):
        Image.fromarray(face).save(tmp_path / name, lossless=True)
        found = decode((tmp_path / name).read_bytes(), name)
        assert np.array_equal(found.grey, face)
        assert not found.reduced


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_a_bomb_among_pictures_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Eight mebibytes of zeros against a limit of one: the same as gigabytes against the real one."""
    monkeypatch.setattr("fer_deploy.tars.RATIO_COUNTS_FROM", 1 << 20)
    tree(tmp_path / "set", count=1)
    (tmp_path / "set" / "train" / "sad" / "zz.png").write_bytes(b"\0" * (8 << 20))
    with pytest.raises(DataError, match=f"unpacks to more than {LARGEST_RATIO} times its size"):
        listed(Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path / "set")))


def test_a_picture_that_is_too_large_is_refused_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_sets, "LARGEST_PICTURE", 1 << 20)
    tree(tmp_path / "set", count=1)
    (tmp_path / "set" / "train" / "sad" / "zz.png").write_bytes(b"\0" * (2 << 20))
    for path in (tmp_path / "set", Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "set"))):
        listing = listed(path)
        assert listing.pictures.read is not None
        with pytest.raises(DataError, match=r"train/sad/zz\.png.*(over 1 MiB|2 MiB)"):
            listing.pictures.read(list(listing.places).index("train/sad/zz.png"))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("trainset", "training"), ("TestData", "test"), ("dataset", None),
        ("train-set", "training"), ("TrainingData", "training"), ("val2017", "validation"),
        ("test_images", "test"), ("PrivateTest", "test"), ("latest", None), ("train_test", None), ("contest", None),
        ("devil", None), ("validation-00000", "validation"), ("AffectNet_val", "validation"), ("", None), ("12", None),
    ],
)  # fmt: skip
def test_names_of_splits(name: str, split: str | None) -> None:
    assert split_in(name) == split
