"""Pictures in folders: any case, any alias, and every fault named with its file."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError
from fer_deploy.faces.dataset import SPLITS, Dataset, Faces
from fer_deploy.faces.source import SourceFaces
from fer_deploy.faces.tree import Tree, face_from_picture, files_in, folder_tree, read_tree, tree_key, zip_tree
from fer_deploy.folders import LeftOut

OTHER_NAMES = ("Anger", "DISGUSTED", "fearful", "Happiness", "SAD", "suprise", "Neutral")


def write_tree(
    root: Path,
    dataset: Dataset,
    *,
    folders: tuple[str | None, str | None, str | None] = ("train", "validation", "test"),
    names: tuple[str, ...] = EMOTIONS,
    stems: tuple[str, str, str] = ("face", "face", "face"),
) -> Path:
    for split, folder, stem in zip(SPLITS, folders, stems, strict=True):
        faces = dataset.split(split)
        if folder is None:
            continue
        for place, (image, label) in enumerate(zip(faces.images, faces.labels.tolist(), strict=True)):
            path = root / folder / names[label] / f"{stem}_{place:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root


def find(root: Path) -> Tree | None:
    left_out = LeftOut()
    return folder_tree(root, files_in(root, left_out), left_out)


def read(root: Path) -> SourceFaces:
    tree = find(root)
    assert tree is not None
    return read_tree(tree)


def same_faces(found: Faces, wanted: Faces) -> bool:
    def key(faces: Faces) -> list[tuple[int, bytes]]:
        return sorted((int(label), image.tobytes()) for label, image in zip(faces.labels, faces.images, strict=True))

    return key(found) == key(wanted)


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (("train", "validation", "test"), EMOTIONS),
        (("Training", "PublicTest", "PrivateTest"), OTHER_NAMES),
        (("TRAIN", "val", "Testing"), tuple(name.upper() for name in EMOTIONS)),
        (("fer/images/train", "fer/images/valid", "fer/images/test"), EMOTIONS),
    ],
)
def test_names_in_any_case_and_alias(
    tmp_path: Path, small: Dataset, folders: tuple[str, str, str], names: tuple[str, ...]
) -> None:
    found = read(write_tree(tmp_path, small, folders=folders, names=names)).splits
    assert all(same_faces(found[split], small.split(split)) for split in SPLITS)
    rows = np.concatenate([found[split].rows for split in SPLITS])
    assert rows.tolist() == list(range(len(rows)))


def test_train_and_test_alone_leave_validation_empty(tmp_path: Path, small: Dataset) -> None:
    found = read(write_tree(tmp_path, small, folders=("train", None, "test"))).splits
    assert [len(found[split]) for split in SPLITS] == [63, 0, 14]


def test_a_merged_test_folder_is_split_by_the_names_of_its_files(tmp_path: Path, small: Dataset) -> None:
    write_tree(tmp_path, small, folders=("train", "test", "test"), stems=("Training", "PublicTest", "PrivateTest"))
    found = read(tmp_path)
    assert all(same_faces(found.splits[split], small.split(split)) for split in SPLITS)
    assert "split into PublicTest and PrivateTest" in found.notes[0]
    extra = next((tmp_path / "test" / "sad").glob("PrivateTest*"))
    extra.rename(extra.with_name("unnamed.png"))
    assert len(read(tmp_path).splits["validation"]) == 0


def test_files_that_are_not_pictures_are_left_out_with_a_note(tmp_path: Path, small: Dataset) -> None:
    write_tree(tmp_path, small)
    face = next((tmp_path / "train" / "sad").iterdir()).read_bytes()
    for name in ("README.md", "train/labels.csv", "train/sad/.DS_Store", "train/sad/Thumbs.db", ".git/train/odd/x.png",
                 "train/sad/._face_003.png", "train/sad/@eaDir/face_003.png/SYNOPHOTO_THUMB_M.png", "train/sad/x.heic",
                 "train/sad/.ipynb_checkpoints/face-checkpoint.png", "__MACOSX/train/sad/._face_003.png"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(face)
    faces = read(tmp_path)
    assert [len(split) for split in faces.splits.values()] == [63, 14, 14]
    assert faces.notes == (
        "left out: 4 hidden, 1 *.csv, 1 *.heic (save as JPEG), 1 *.md, 1 @eaDir, 1 Thumbs.db, 1 __MACOSX",
    )


def test_a_linked_folder_of_pictures_is_read_once(tmp_path: Path, small: Dataset) -> None:
    write_tree(tmp_path / "data", small)
    (tmp_path / "data" / "train" / "sad").rename(tmp_path / "elsewhere")
    (tmp_path / "data" / "train" / "sad").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "train" / "sad" / "again").symlink_to(tmp_path / "elsewhere")
    faces = read(tmp_path / "data")
    assert [len(split) for split in faces.splits.values()] == [63, 14, 14]
    assert faces.notes == ("left out: 1 link to a folder that is read already",)


def test_labels_that_are_read_as_others_are_noted(tmp_path: Path, small: Dataset) -> None:
    root = write_tree(tmp_path, small)
    assert read(root).notes == ()
    (root / "train" / "calm").mkdir()
    next((root / "train" / "neutral").iterdir()).rename(root / "train" / "calm" / "x.png")
    (root / "test" / "angry").rename(root / "test" / "Anger")
    faces = read(root)
    assert [len(split) for split in faces.splits.values()] == [63, 14, 14]
    assert faces.notes == ("labels were read as others: anger as angry, calm as neutral",)


def remove_class(root: Path) -> None:
    for path in (root / "train" / "disgust").iterdir():
        path.unlink()


def add_class(root: Path) -> None:
    (root / "train" / "contempt").mkdir()
    (root / "train" / "contempt" / "a.png").write_bytes(b"x")


def not_a_picture(root: Path) -> None:
    (root / "train" / "sad" / "face_900.png").write_text("not a picture")


def truncated(root: Path) -> None:
    path = sorted((root / "test" / "happy").iterdir())[0]
    path.write_bytes(path.read_bytes()[:200])


def empty_file(root: Path) -> None:
    (root / "test" / "happy" / "none.png").touch()


def no_test(root: Path) -> None:
    (root / "test").rename(root / "other")


def no_train(root: Path) -> None:
    (root / "train").rename(root / "other")


def beside_the_classes(root: Path) -> None:
    (root / "train" / "face.png").write_bytes(b"x")


def two_trees(root: Path) -> None:
    (root / "copy" / "train" / "sad").mkdir(parents=True)
    (root / "copy" / "train" / "sad" / "a.png").write_bytes(b"x")


def two_validations(root: Path) -> None:
    (root / "val" / "sad").mkdir(parents=True)
    (root / "val" / "sad" / "a.png").write_bytes(b"x")


def broken_link(root: Path) -> None:
    (root / "train" / "sad" / "gone.png").symlink_to("nowhere.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_class, "train has no pictures of disgust: all seven"),
        (add_class, "the folder train/contempt is none of the seven expressions"),
        (not_a_picture, "train/sad/face_900.png: a text file, not a picture"),
        (truncated, "test/happy/.*: damaged or truncated"),
        (empty_file, "test/happy/none.png: .*empty"),
        (no_test, "has no folder for the test split"),
        (no_train, "has no folder for the training split"),
        (beside_the_classes, "train/face.png lies in no folder of an expression"),
        (two_trees, r"several trees of pictures \(\., copy\)"),
        (two_validations, "the folders val(idation)? and val(idation)? are both the validation split"),
        (broken_link, "train/sad/gone.png: a symbolic link to nothing"),
    ],
)
def test_every_fault_is_one_line_that_names_the_file(tmp_path: Path, small: Dataset, change, message: str) -> None:
    write_tree(tmp_path, small)
    change(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_loops_of_links_end(tmp_path: Path, small: Dataset) -> None:
    write_tree(tmp_path, small)
    (tmp_path / "train" / "sad" / "again").symlink_to(tmp_path / "train", target_is_directory=True)
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert sorted(len(faces) for faces in read(tmp_path).splits.values()) == [14, 14, 63]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_does_not_hang_the_reader(tmp_path: Path, small: Dataset) -> None:
    write_tree(tmp_path, small)
    os.mkfifo(tmp_path / "train" / "sad" / "pipe.png")
    assert len(read(tmp_path).splits["training"]) == 63


def test_linked_pictures_and_folders_are_read(tmp_path: Path, small: Dataset) -> None:
    real = write_tree(tmp_path / "real", small)
    (tmp_path / "linked").mkdir()
    for folder in ("train", "validation", "test"):
        (tmp_path / "linked" / folder).symlink_to(real / folder, target_is_directory=True)
    assert [len(faces) for faces in read(tmp_path / "linked").splits.values()] == [63, 14, 14]


def test_colour_and_size_are_brought_to_48_grey(tmp_path: Path, small: Dataset) -> None:
    write_tree(tmp_path, small)
    colour = np.zeros((96, 96, 3), np.uint8)
    colour[..., 0], colour[..., 1] = 201, 100
    Image.fromarray(colour).save(tmp_path / "test" / "happy" / "zz.png")
    found = read(tmp_path)
    last = found.splits["test"].take(found.splits["test"].labels == EMOTIONS.index("happy")).images[-1]
    assert (last == round(0.299 * 201 + 0.587 * 100)).all()
    assert found.notes == ("1 pictures of another size were resized to 48x48",)


def test_grey_pictures_keep_their_exact_values_in_every_format(tmp_path: Path, small: Dataset) -> None:
    face = small.training.images[0]
    for name in ("a.png", "a.bmp", "a.pgm", "a.webp"):
        Image.fromarray(face).save(tmp_path / name, lossless=True)
        found, resized = face_from_picture((tmp_path / name).read_bytes(), name)
        assert np.array_equal(found, face)
        assert not resized


def test_the_key_changes_with_any_picture_name_or_folder(tmp_path: Path, small: Dataset) -> None:
    def key() -> str:
        tree = find(tmp_path)
        assert tree is not None
        return tree_key(tree)

    write_tree(tmp_path, small)
    seen = [key()]
    assert key() == seen[0]
    path = sorted((tmp_path / "train" / "sad").iterdir())[0]
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    seen.append(key())
    moved = path.rename(tmp_path / "train" / "happy" / "moved.png")
    seen.append(key())
    moved.unlink()
    seen.append(key())
    assert len(set(seen)) == 4


def test_a_tree_in_a_zip(tmp_path: Path, small: Dataset) -> None:
    root = write_tree(tmp_path / "tree", small)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, f"fer/{path.relative_to(root).as_posix()}")
        archive.writestr("__MACOSX/fer/train/odd/._face.png", b"x")
    with zipfile.ZipFile(tmp_path / "archive.zip") as archive:
        tree = zip_tree(archive, "archive.zip")
        assert tree is not None
        found = read_tree(tree).splits
    assert all(same_faces(found[split], small.split(split)) for split in SPLITS)


def test_a_bomb_among_zipped_pictures_is_refused(
    tmp_path: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_tree(tmp_path / "tree", small)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, path.relative_to(root).as_posix())
        archive.writestr("train/sad/zz.png", b"\0" * (4 << 20))
    monkeypatch.setattr("fer_deploy.faces.tree.LARGEST_PICTURE", 1 << 20)
    with zipfile.ZipFile(tmp_path / "archive.zip") as archive:
        tree = zip_tree(archive, "archive.zip")
        assert tree is not None
        with pytest.raises(DataError, match=r"train/sad/zz\.png has over 1 MiB"):
            read_tree(tree)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path, small: Dataset) -> None:
    write_tree(tmp_path, small)
    Image.new("1", (8000, 8000)).save(tmp_path / "train" / "sad" / "huge.png")
    with pytest.raises(DataError, match=r"huge\.png: 8000x8000 pixels, more than"):
        read(tmp_path)


def test_a_folder_without_pictures_is_not_a_tree(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    assert find(tmp_path) is None
