"""The one door: what is at a path is found, named truly, and every fault is one line."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_ferplus import lines_for, write
from test_tree import write_tree

from fer_deploy.errors import DataError
from fer_deploy.faces import csv_table, find, load
from fer_deploy.faces.dataset import OFFICIAL_COUNTS, SPLITS, Dataset, Faces, pixel_keys
from fer_deploy.faces.load import load_dataset


@pytest.fixture(autouse=True)
def _no_data_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FERDEPLOY_DATA", raising=False)


def pack(table: Path, folder: Path, layout: str) -> Path:
    """The table at `folder` in one of the layouts; what `load_dataset` is to be given."""
    content = table.read_bytes()
    if layout == "csv":
        return Path(shutil.copy(table, folder / "faces.csv"))
    if layout == "gz":
        (folder / "faces.csv.gz").write_bytes(gzip.compress(content, 1))
        return folder / "faces.csv.gz"
    if layout == "zip":
        with zipfile.ZipFile(folder / "faces.zip", "w") as archive:
            archive.writestr("faces.csv", content)
        return folder / "faces.zip"
    if layout == "folder":
        shutil.copy(table, folder / "faces.csv")
        (folder / "notes.txt").write_text("x")
        return folder
    if layout == "nested folder":
        (folder / "a").mkdir()
        shutil.copy(table, folder / "a" / "fer2013.csv")
        (folder / "other.csv").write_text("x")
        return folder
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("a/fer2013.csv", content)
    return folder


@pytest.mark.parametrize("layout", ["csv", "gz", "zip", "folder", "nested folder", "archive in a folder"])
def test_one_content_has_one_hash_in_every_layout(
    tmp_path: Path, small: Dataset, small_table: Path, layout: str
) -> None:
    found = load_dataset(pack(small_table, tmp_path, layout))
    assert found.sha256 == small.sha256
    assert not found.official
    assert "FER2013" not in found.name.replace("not the official FER2013", "")


@pytest.mark.parametrize("packed", [False, True])
def test_pictures_in_folders_and_in_a_zip(tmp_path: Path, small: Dataset, packed: bool) -> None:
    root = write_tree(tmp_path / "pictures", small)
    if packed:
        root = Path(shutil.make_archive(str(tmp_path / "pictures"), "zip", root))
    found = load_dataset(root)
    assert (found.name, found.sha256) == (root.name, small.sha256)
    assert load_dataset(root).sha256 == small.sha256


def test_a_table_known_by_name_comes_before_pictures_and_pictures_before_any_table(
    tmp_path: Path, small: Dataset, small_table: Path
) -> None:
    write_tree(tmp_path, small)
    (tmp_path / "labels.csv").write_text("file,label\n")
    assert load_dataset(tmp_path).name == tmp_path.name
    shutil.copy(small_table, tmp_path / "icml_face_data.csv")
    assert load_dataset(tmp_path).name == "icml_face_data.csv (not the official FER2013)"


def test_without_a_validation_split_one_is_held_out_and_noted(tmp_path: Path, small: Dataset) -> None:
    found = load_dataset(write_tree(tmp_path / "pictures", small, folders=("train", None, "test")))
    assert [len(found.split(split)) for split in SPLITS] == [56, 7, 14]
    assert "7 training pictures, one in eight of each class, were drawn for it" in " ".join(found.notes)
    both = sorted(pixel_keys(found.training) + pixel_keys(found.validation))
    assert both == sorted(pixel_keys(small.training))
    renamed = load_dataset(
        write_tree(tmp_path / "again", small, folders=("TRAIN", None, "Test"), stems=("z", "y", "x"))
    )
    assert renamed.sha256 == found.sha256


def test_a_table_without_a_split_gets_one_and_says_so(tmp_path: Path, small_table: Path) -> None:
    rows = small_table.read_text().splitlines(keepends=True)
    (tmp_path / "few.csv").write_text("".join(row for row in rows if "PublicTest" not in row))
    found = load_dataset(tmp_path / "few.csv")
    assert [len(found.split(split)) for split in SPLITS] == [56, 7, 14]
    assert "there is no validation split: 7 training pictures" in found.notes[0]


def test_a_class_that_a_table_lacks_is_noted(tmp_path: Path, small_table: Path) -> None:
    rows = small_table.read_text().splitlines(keepends=True)
    (tmp_path / "six.csv").write_text("".join(row for row in rows if not row.startswith("1,")))
    found = load_dataset(tmp_path / "six.csv")
    assert found.labels == ("angry", "fear", "happy", "sad", "surprise", "neutral")
    assert found.notes == ("6 of the seven expressions are the classes: there are no pictures of disgust",)


def test_the_default_places_of_data(tmp_path: Path, small: Dataset, small_table: Path, monkeypatch) -> None:
    with pytest.raises(DataError, match=r"no data set: no --data, \$FERDEPLOY_DATA or data/.*'synthetic'") as caught:
        load_dataset(None, workspace=tmp_path)
    assert "Kaggle" in str(caught.value)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="holds no data set"):
        load_dataset(None, workspace=tmp_path)
    shutil.copy(small_table, tmp_path / "data" / "faces.csv")
    assert load_dataset(None, workspace=tmp_path).sha256 == small.sha256
    monkeypatch.setenv("FERDEPLOY_DATA", "synthetic:70")
    assert len(load_dataset(None, workspace=tmp_path).training) == 70
    assert load_dataset(tmp_path / "data").sha256 == small.sha256
    monkeypatch.setenv("FERDEPLOY_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"\$FERDEPLOY_DATA names .*gone, which does not exist"):
        load_dataset(None, workspace=tmp_path)


def test_synthetic_is_a_word_and_not_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Dataset) -> None:
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "synthetic", small)
    assert load_dataset("synthetic:84").name == "synthetic"
    assert load_dataset("./synthetic").sha256 == small.sha256
    assert load_dataset(Path("synthetic")).sha256 == small.sha256


@pytest.mark.parametrize(("source", "count"), [("synthetic", 140), ("synthetic:700", 700)])
def test_synthetic_sizes(source: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "DEFAULT_TRAINING", 140)
    found = load_dataset(source)
    assert (found.name, found.official, len(found.training)) == ("synthetic", False, count)
    assert len(found.validation) == len(found.test) == len(found.training) // 6
    assert not found.copies.any()
    assert found.unseen_test.all()


@pytest.mark.parametrize(
    "source", ["synthetic:41", "synthetic:-5", "synthetic:many", "synthetic:99999999999", "synthetic:0x10"]
)
def test_impossible_synthetic_sizes_are_refused(source: str) -> None:
    with pytest.raises(DataError, match=source):
        load_dataset(source)


def as_parquet_magic(folder: Path) -> Path:
    (folder / "x.parquet").write_bytes(b"PAR1 and nothing else")
    return folder / "x.parquet"


def as_picture(folder: Path) -> Path:
    Image.new("L", (48, 48)).save(folder / "face.png")
    return folder / "face.png"


def as_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def as_loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def as_partial(folder: Path) -> Path:
    (folder / "train.csv").write_text("emotion,pixels\n")
    return folder


def as_two(folder: Path) -> Path:
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text("emotion,pixels,Usage\n")
    return folder


def as_empty(folder: Path) -> Path:
    (folder / "fer2013.csv").touch()
    return folder


def as_pictures_without_a_tree(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("faces/a.png", b"x")
    return folder / "a.zip"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: "", "the name of the data set is empty"),
        (lambda folder: folder / ("x" * 300), "cannot be read: File name too long|no such file"),
        (lambda folder: folder / "gone.csv", "no data set at .*gone.csv: there is no such file or folder"),
        (lambda folder: "~nosuchuser/fer2013.csv", "no data set at ~nosuchuser/fer2013.csv: there is no such user"),
        (lambda folder: folder, "holds no data set: it is empty: expected a folder for each class"),
        (as_empty, r"fer2013.csv is empty \(0 bytes\)"),
        (as_parquet_magic, "x.parquet is not a readable Parquet file"),
        (as_picture, "face.png is a picture: name the folder that holds a folder of pictures for each class"),
        (as_pipe, "pipe is neither a file nor a folder"),
        (as_loop, "loop"),
        (as_partial, "train.csv has a header and no rows"),
        (as_two, r"holds several data sets \(a.csv, b.csv\)"),
        (as_pictures_without_a_tree, r"a.zip holds no data set: found 1 files \(1 .png\) in folders such as faces"),
    ],
)  # fmt: skip
def test_other_files_are_refused_in_one_line(tmp_path: Path, make, message: str) -> None:
    if make is as_parquet_magic:
        pytest.importorskip("polars")
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(make(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path, small_table: Path) -> None:
    path = Path(shutil.copy(small_table, tmp_path / "faces.csv"))
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        load_dataset(path)


def test_a_changed_table_is_read_again_and_an_unchanged_one_is_not(
    tmp_path: Path, small_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(small_table, tmp_path / "faces.csv"))
    before = load_dataset(path)
    monkeypatch.setattr(find, "read_table", None)  # reading it again would fail
    assert load_dataset(path).sha256 == before.sha256
    monkeypatch.undo()
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] = ord("1") if content[-20] != ord("1") else ord("2")
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # the same size and time do not hide the change
    assert load_dataset(path).sha256 != before.sha256


def test_a_table_that_changes_while_it_is_read_is_not_cached(
    tmp_path: Path, small_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FERDEPLOY_CACHE", str(tmp_path / "cache"))
    path = Path(shutil.copy(small_table, tmp_path / "faces.csv"))

    def meddle(opener):
        found = csv_table.read_table(opener)
        with path.open("ab") as file:
            file.write(b"\n")
        return found

    monkeypatch.setattr(find, "read_table", meddle)
    with pytest.raises(DataError, match=r"faces\.csv changed while it was read"):
        load_dataset(path)
    assert not list((tmp_path / "cache").rglob("*.faces"))


def test_votes_are_taken_where_they_are_named_and_must_fit(
    tmp_path: Path, small_table: Path, small_splits: dict[str, Faces]
) -> None:
    path = Path(shutil.copy(small_table, tmp_path / "faces.csv"))
    votes = write(tmp_path, lines_for(small_splits))
    assert load_dataset(path).training.votes is None  # beside a table that is not FER2013 they mean nothing
    found = load_dataset(path, votes=votes)
    assert found.training.votes is not None
    assert found.training.votes[:, 0].tolist() == (found.training.rows % 11).tolist()
    assert found.sha256 == load_dataset(path).sha256
    write(tmp_path, lines_for(small_splits)[:-1])
    with pytest.raises(DataError, match="do not belong together"):
        load_dataset(path, votes=votes)
    with pytest.raises(DataError, match=r"gone\.csv"):
        load_dataset(path, votes=tmp_path / "gone.csv")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("packed", ["csv", "csv.gz", "zip", "tar.gz"])
def test_tables_may_have_any_unicode_encoding(
    tmp_path: Path, small: Dataset, small_table: Path, encoding: str, packed: str
) -> None:
    content = small_table.read_text().encode(encoding)
    path = tmp_path / f"faces.{packed}"
    if packed == "csv":
        path.write_bytes(content)
    elif packed == "csv.gz":
        path.write_bytes(gzip.compress(content, mtime=0))
    elif packed == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("faces.csv", content)
    else:
        (tmp_path / "faces.csv").write_bytes(content)
        with tarfile.open(path, "w:gz") as archive:
            archive.add(tmp_path / "faces.csv", "faces.csv")
    assert load_dataset(path).sha256 == small.sha256


def test_a_table_in_utf_16_that_is_cut_short_is_refused(tmp_path: Path, small_table: Path) -> None:
    path = tmp_path / "faces.csv"
    path.write_bytes(small_table.read_text().encode("utf-16")[:-1])
    with pytest.raises(DataError, match="not UTF-16 text, or cut short"):
        load_dataset(path)


@pytest.mark.parametrize("name", ["data.csv", "fer2013.csv", "data.zip", "train.parquet"])
def test_named_pipes_are_refused_and_never_opened(tmp_path: Path, small_table: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="neither a file nor a folder"):
        load_dataset(tmp_path / name)
    with pytest.raises(DataError, match="holds no data set"):
        load_dataset(tmp_path)
    with pytest.raises(DataError, match="a named pipe"):
        load_dataset(small_table, votes=tmp_path / name)


def test_without_a_home_and_a_cache_folder_data_is_read(
    tmp_path: Path, small: Dataset, small_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs under a user id without an entry in /etc/passwd."""
    for name in ("FERDEPLOY_CACHE", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert load_dataset(small_table).sha256 == small.sha256
    assert load_dataset(small_table).sha256 == small.sha256


def test_votes_for_pictures_are_refused(tmp_path: Path, small: Dataset, small_splits: dict[str, Faces]) -> None:
    root = write_tree(tmp_path / "pictures", small)
    with pytest.raises(DataError, match=r"FER. votes belong to the rows of FER2013's table"):
        load_dataset(root, votes=write(tmp_path, lines_for(small_splits)))


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, fer_deploy.faces, fer_deploy.faces.load; fer_deploy.faces.load_dataset('synthetic:42'); "
        "print([name for name in ('torch', 'polars', 'pandas', 'PIL', 'onnxruntime') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"


def test_the_real_table(fer2013: Dataset, fer2013_csv: Path) -> None:
    """301 MB: read and checked, then taken from the cache in a fraction of the time."""
    started = time.process_time()
    found = load_dataset(fer2013_csv)
    cold = time.process_time() - started
    assert (found.name, found.official, found.sha256) == ("FER2013", True, fer2013.sha256)
    assert {split: found.split(split).counts for split in SPLITS} == dict(OFFICIAL_COUNTS)
    assert np.array_equal(found.test.rows, fer2013.test.rows)
    assert np.array_equal(found.training.images, fer2013.training.images)
    started = time.process_time()
    again = load_dataset(fer2013_csv)
    warm = time.process_time() - started
    assert again.sha256 == found.sha256
    print(f"processor time: {cold:.2f} s cold, {warm:.2f} s from the cache")
    assert warm < cold / 2


def test_a_real_table_with_one_label_changed_is_refused_each_time(
    fer2013: Dataset, fer2013_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FERDEPLOY_CACHE", str(tmp_path / "cache"))
    was = int(fer2013.training.labels[0])
    with fer2013_csv.open("r+b") as file:  # changed in place and changed back: a copy would be 301 MB more
        place = len(file.readline())
        file.seek(place)
        file.write(b"%d" % (was + 1))
    try:
        for _read in ("from the table", "from the cache"):
            with pytest.raises(
                DataError, match=r"fer2013\.csv is a damaged copy of FER2013: Training has 3,994 faces of angry"
            ):
                load_dataset(fer2013_csv)
    finally:
        with fer2013_csv.open("r+b") as file:
            file.seek(place)
            file.write(b"%d" % was)
