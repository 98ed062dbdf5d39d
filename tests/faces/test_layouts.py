"""Tables of files in folders and archives, every layout that docs/data.md lists, and what is refused."""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_layouts import draw, encoded, listed, row_of_pixels, text, tree, words
from test_published_layouts import affectnet_folders, affectnet_table, ck_plus, ferplus, jaffe, kdef, raf_db

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 301072766\n"
SEVEN = dict.fromkeys(EMOTIONS, 1)


def table_of_files(
    root: Path, header: str = "path,label,split", name: str = "labels.csv", row: str = "{0},{1},{2}"
) -> Path:
    """Seven pictures, and a table that names them."""
    names = [f"photos/{number}.png" for number in range(7)]
    draw(root, *names)
    splits = ("train", "val", "test") * 3
    rows = [row.format(*each) for each in zip(names, EMOTIONS, splits, strict=False)]
    return text(root, name, *([header] if header else []), *rows)


def table_of_pixels(root: Path, name: str, header: str = "label,pixels,split", size: int = 8) -> Path:
    usages = ("Training", "PublicTest", "PrivateTest") * 3
    rows = [f"{label},{row_of_pixels(place, size)},{usage}" for place, (label, usage) in
            enumerate(zip(EMOTIONS, usages, strict=False))]  # fmt: skip
    return text(root, name, header, *rows)


def own_table(root: Path) -> Path:
    rows = [f"{number},{row_of_pixels(number, 48)},Training" for number in range(7)]
    return text(root, "fer2013.csv", "emotion,pixels,Usage", *rows)


def pixel_columns(root: Path) -> Path:
    rows = ["\t".join([label, *row_of_pixels(place).split()]) for place, label in enumerate(EMOTIONS)]
    return text(root, "pixels.tsv", "\t".join(["label", *(f"pixel{place}" for place in range(64))]), *rows)


def table_a_split(root: Path) -> Path:
    for name in ("train", "test"):
        rows = [f"{label},{row_of_pixels(place)}" for place, label in enumerate(EMOTIONS)]
        text(root, f"{name}.csv", "label,pixels", *rows)
    return root


def image_folder(root: Path) -> Path:
    for name in ("train", "test"):
        draw(root, *(f"{name}/{number}.png" for number in range(7)))
        text(root, f"{name}/metadata.csv", "file_name,label", *(f"{n}.png,{label}" for n, label in enumerate(EMOTIONS)))
    return root


def parquet(root: Path, pattern: str) -> Path:
    polars = pytest.importorskip("polars")
    for split in ("train", "test"):
        path = root / pattern.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {"image": [{"bytes": encoded(place)} for place in range(7)], "label": list(EMOTIONS)}
        polars.DataFrame(columns).write_parquet(path)
    return root


def zipped(root: Path) -> Path:
    tree(root / "unpacked", count=1)
    shutil.make_archive(str(root / "faces"), "zip", root / "unpacked")
    shutil.rmtree(root / "unpacked")
    return root


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "split, then class": tree,
    "class, then split": lambda root: tree(root, "{label}/{split}/{number}.png"),
    "class alone": lambda root: tree(root, "{label}/{number}.png", splits=("",)),
    "an archive in a folder of its name": lambda root: tree(root, "{split}/{split}/{label}/{number}.png"),
    "one level down": lambda root: tree(root, "images/{split}/{label}/{number}.png"),
    "splits named in other ways": lambda root: tree(root, splits=("FER2013Train", "my val set", "test_images")),
    "numbered words": lambda root: tree(root, labels=("0_happy", "1_sad")),
    "numbered classes, with `--labels raf-db`": lambda root: tree(root, labels="1234567"),
    "words of your own": lambda root: tree(root, labels=("müde", "wach")),
    "persons below classes": lambda root: tree(root, "{label}/{split}/{number}.png", splits=("anna", "bert")),
    "splits in the names of files": lambda root: tree(
        root, "{label}/{split}_{number}.png", splits=("Training", "PublicTest", "PrivateTest")
    ),
    "FER2013's table": own_table,
    "a table of pixels": lambda root: table_of_pixels(root, "faces.csv"),
    "a table with a column for each pixel": pixel_columns,
    "a table for each split": table_a_split,
    "a table of files": table_of_files,
    "a list of files": lambda root: table_of_files(root, "", "list.txt", "{0} {1}"),
    "a table in each folder (`imagefolder`)": image_folder,
    "JSON Lines": lambda root: table_of_files(root, "", "metadata.jsonl", '{{"file_name": "{0}", "label": "{1}"}}'),
    "Parquet of the Hugging Face hub": lambda root: parquet(root, "data/{}-00000-of-00001.parquet"),
    "Parquet of `refs/convert`": lambda root: parquet(root, "default/{}/0000.parquet"),
    "FER+": ferplus,
    "RAF-DB": lambda root: (raf_db(root), [path.rename(root / path.name) for path in (root / "basic").iterdir()]),
    "AffectNet's tables": affectnet_table,
    "AffectNet's folders": affectnet_folders,
    "CK+": ck_plus,
    "KDEF": kdef,
    "JAFFE": lambda root: draw(jaffe(root), "KA.HA1.29.tiff"),
    "any of these in a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz": zipped,
}


def documented() -> dict[str, list[str]]:
    """Each layout of the table in docs/data.md, with the files that it shows."""
    rows = re.findall(r"^\| (.+?) \| (`.+?`) \| .+ \| .+ \|$", (ROOT / "docs/data.md").read_text(), re.MULTILINE)
    return {layout: re.findall(r"`(.+?)`", example) for layout, example in rows}


def test_every_documented_layout_is_drawn_here() -> None:
    assert list(documented()) == list(LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_documented_layout_is_read(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path)
    missing = [name for name in documented()[layout] if not (tmp_path / name).exists()]
    assert not missing
    option = re.search(r"--labels ([\w-]+)", layout)
    listing = listed(tmp_path)
    found = words(listing, option.group(1) if option else "")
    assert len({label for _, label in found}) >= 2
    assert listing.notes or layout == "FER2013's table"


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("file_name,emotion,subset", "{0},{1},{2}"),
        ("image;class;partition", "./{0};{1};{2}"),
        ("filepath\tlabel\tsplit", "/content/drive/data/{0}\t{1}\t{2}"),
        (",split,label,img_path,subject", "0,{2},{1},C:\\data\\{0},anna"),
        ("image,expression,phase", '"{0}",{1},{2}'),
        ("image_name,label_name,label,Usage", "{0},{1},9,{2}"),
        ("name,label,set,remark", '{0},{1},{2},"a, ""b""\nc"'),
        ("pth,label,fold,relFCs", "{0},{1},{2},0.87"),
        ("", "{0},{1},{2}"),
    ],
)
def test_tables_of_files_with_every_common_header(tmp_path: Path, header: str, row: str) -> None:
    found = words(listed(table_of_files(tmp_path, header, row=row)))
    assert Counter({split: count for (split, _), count in found.items()}).keys() == {"training", "validation", "test"}
    assert Counter(label for _, label in found) == SEVEN
    alone = listed(tmp_path / "labels.csv")
    assert words(alone) == found
    assert alone.name == "labels.csv"


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_a_table_of_files_inside_an_archive(tmp_path: Path, kind: str) -> None:
    table_of_files(tmp_path / "set")
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path / "set"))
    assert words(listed(packed)) == words(listed(tmp_path / "set"))


def test_files_are_told_apart_by_the_table_and_the_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        draw(tmp_path, *(f"images/{split}/{number}.png" for number in range(7)))
        text(tmp_path, f"{split}_labels.csv", "image,label", *(f"{n}.png,{label}" for n, label in enumerate(EMOTIONS)))
    listing = listed(tmp_path)
    assert words(listing) == {(split, name): 1 for split in ("training", "test") for name in EMOTIONS}
    assert list(listing.places[:7]) == [f"images/test/{number}.png" for number in range(7)]


def test_the_split_may_be_in_the_folders_that_a_table_names(tmp_path: Path) -> None:
    draw(tmp_path, *(f"{split}/{number}.png" for split in ("train", "val") for number in range(2)))
    names = [f"{split}/{number}.png" for split in ("train", "val") for number in range(2)]
    text(tmp_path, "all.csv", "path,label", *(f"{name},{'froh' if '0' in name else 'müde'}" for name in names))
    assert words(listed(tmp_path)) == {
        (split, name): 1 for split in ("training", "validation") for name in ("froh", "müde")
    }


def test_pictures_and_rows_without_each_other_are_counted(tmp_path: Path) -> None:
    table_of_files(tmp_path)
    (tmp_path / "photos" / "3.png").unlink()
    draw(tmp_path, "photos/extra.png")
    text(tmp_path, "notes.md", "x")
    listing = listed(tmp_path)
    assert len(listing) == 6
    assert str(listing.left_out) == (
        "left out: 1 *.md, 1 pictures that no table names, 1 rows whose picture is not there"
    )


def test_expressions_come_before_a_table_beside_them(tmp_path: Path) -> None:
    tree(tmp_path)
    text(tmp_path, "labels.csv", "path,label", "train/happy/0.png,sad")
    listing = listed(tmp_path)
    assert len(listing) == 42
    assert str(listing.left_out) == "left out: 1 *.csv"


def test_a_table_comes_before_folders_that_are_no_expressions(tmp_path: Path) -> None:
    draw(tmp_path, "000/a.png", "001/b.png")
    text(tmp_path, "labels.csv", "path,label", "000/a.png,froh", "001/b.png,müde")
    assert listed(tmp_path).labels == ["froh", "müde"]


def test_tables_of_splits_come_before_one_of_all(tmp_path: Path) -> None:
    table_a_split(tmp_path)
    table_of_pixels(tmp_path, "all.csv")
    listing = listed(tmp_path)
    assert Counter(listing.splits) == {"training": 7, "test": 7}
    assert listing.places[0] == f"{tmp_path.name}: test.csv, row 0"
    assert str(listing.left_out) == "left out: 1 *.csv"


def test_packed_tables_of_splits(tmp_path: Path) -> None:
    table_a_split(tmp_path / "plain")
    for path in (tmp_path / "plain").iterdir():
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    shutil.rmtree(tmp_path / "plain")
    assert Counter(listed(tmp_path).splits) == {"training": 7, "test": 7}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_tables_of_files_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    draw(tmp_path, "fotos/schön.png", "fotos/müde.png")
    content = "path;label\nfotos/schön.png;fröhlich\nfotos/müde.png;müde\n"
    (tmp_path / "labels.csv").write_bytes(content.encode(encoding))
    assert listed(tmp_path).labels == ["fröhlich", "müde"]


def test_persons_that_only_some_tables_name_stay_with_their_pictures(tmp_path: Path) -> None:
    draw(tmp_path, "a.png", "b.png", "c.png")
    text(tmp_path, "train.csv", "path,label,subject,camera", "a.png,happy,anna,left", "b.png,sad,bert,right")
    text(tmp_path, "test.csv", "path,label", "c.png,sad")
    listing = listed(tmp_path)
    known = dict(zip(listing.places, zip(listing.people or (), listing.columns["camera"], strict=True), strict=True))
    assert known == {"a.png": ("anna", "left"), "b.png": ("bert", "right"), "c.png": ("", "")}


def test_folders_of_persons_above_the_classes_are_refused_with_what_to_do(tmp_path: Path) -> None:
    draw(tmp_path, "anna/happy/1.png", "anna/sad/2.png", "bert/happy/3.png", "bert/sad/4.png")
    with pytest.raises(DataError, match=r"several trees of pictures \(anna, bert\): .*path, label and person"):
        listed(tmp_path)


def test_tables_of_pixels_and_tables_of_files_are_not_mixed(tmp_path: Path) -> None:
    table_of_files(tmp_path, "path,label", "train.csv", "{0},{1}")
    table_of_pixels(tmp_path, "test.csv")
    with pytest.raises(DataError, match=r"test\.csv holds pixels, and train\.csv names files: .*name the one to read"):
        listed(tmp_path)


def test_an_archive_for_each_split(tmp_path: Path) -> None:
    for split, kind in (("train", "zip"), ("test_set", "gztar")):
        tree(tmp_path / split, "{label}/{number}.png", splits=("",), count=1)
        shutil.make_archive(str(tmp_path / split), kind, tmp_path / split)
        shutil.rmtree(tmp_path / split)
    assert words(listed(tmp_path)) == {(split, name): 1 for split in ("training", "test") for name in EMOTIONS}


def two_tables(root: Path) -> None:
    table_of_pixels(root, "a.csv")
    table_of_pixels(root, "b.csv")


def moved_pictures(root: Path) -> None:
    shutil.rmtree(table_of_files(root) / "photos")


def pictures_without_labels(root: Path) -> None:
    draw(root, "1.png", "2.png")
    text(root, "sizes.csv", "width,height", "1,2")


def pointer_in_a_folder(root: Path) -> None:
    draw(root, "photos/1.png")
    (root / "labels.csv").write_bytes(POINTER)


def pointer_as_parquet(root: Path) -> None:
    pytest.importorskip("polars")
    (root / "train.parquet").write_bytes(POINTER)


def tables_of_several_sizes(root: Path) -> None:
    table_of_pixels(root, "train.csv", "label,pixels,remark", 8)
    table_of_pixels(root, "test.csv", "label,pixels,remark", 9)


def numbers_in_a_table(root: Path) -> None:
    text(root, "faces.csv", "label,pixels", *(f"{number},{row_of_pixels(number)}" for number in range(3)))


def numbers_beyond_fer2013(root: Path) -> None:
    rows = [f"{number},{row_of_pixels(number, 48)},Training" for number in (0, 7)]
    text(root, "faces.csv", "emotion,pixels,Usage", *rows)


def array(root: Path) -> None:
    with zipfile.ZipFile(root / "faces.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY")
    (root / "faces.npz").rename(root / "faces.zip")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (two_tables, r"several data sets \(a\.csv, b\.csv\) and none is called fer2013\.csv: name the one to read"),
        (
            moved_pictures,
            r"7 of 7 pictures that it names are not there \(such as photos/0\.png, .*put the table and the",
        ),
        (pictures_without_labels, r"found 3 .*; sizes\.csv has no column of labels: its columns are 'width', 'height'"),
        (pointer_in_a_folder, r"; labels\.csv is a Git LFS pointer, not the file itself: run `git lfs pull`"),
        (pointer_as_parquet, r"^train\.parquet is a Git LFS pointer"),
        (tables_of_several_sizes, r"its tables have pictures of several sizes"),
        (numbers_in_a_table, r"numbers without names: 0 \(1 picture\), 1 \(1\), 2 \(1\): .*--labels"),
        (
            numbers_beyond_fer2013,
            r"the label 7 \(1 picture\) is outside the numbering of fer2013 .*--labels fer2013,7=-",
        ),
        (array, r"faces\.zip holds no data set: found 1 files \(1 \.npy\) and no folders: expected a folder for each"),
    ],
)
def test_what_is_not_clear_is_refused_in_one_line(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        words(listed(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("fer2013.csv", POINTER, "a Git LFS pointer, not the file itself: run `git lfs pull`"),
        ("train.parquet", POINTER, "a Git LFS pointer"),
        ("faces.zip", POINTER, "a Git LFS pointer"),
        ("fer2013.csv", b"\xef\xbb\xbf\n <!DOCTYPE html><html>", "a web page, not the file itself: log in"),
        ("fer2013.zip", b"<HTML><head>", "a web page"),
        ("faces.json", b"[{}]", "a JSON file: only JSON Lines are read"),
        ("x.npy", b"\x93NUMPY\x01\0", "a numpy array without labels: save the pictures"),
        ("x.pkl", b"\x80\x04\x95\0", "a Python pickle, which is not read because it can run code"),
        ("x.h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        ("x.arrow", b"ARROW1\0\0", "an Arrow file, which is not read: save it as Parquet"),
        ("x.7z", b"7z\xbc\xaf\x27\x1c", "packed with 7-Zip: unpack it"),
        ("x.rar", b"Rar!\x1a\x07", "packed with RAR: unpack it"),
        ("x.csv", b"<?xml version='1.0'?><Error>", "an XML file, often a server's error"),
    ],
)
def test_files_that_hold_no_faces_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"^{re.escape(name)} is {re.escape(message)}"):
        listed(tmp_path / name)


def test_a_damaged_tar_is_no_endless_loop(tmp_path: Path) -> None:
    tree(tmp_path / "set", count=1)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "set", "set")
    content = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.tar\.gz (ends in the middle|is a damaged archive)"):
        listed(tmp_path / "a.tar.gz")
