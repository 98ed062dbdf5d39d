"""Parquet files as the Hugging Face hub has them; above all, their own order of labels."""

from __future__ import annotations

import base64
import builtins
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_layouts import draw, encoded, listed, pixels, row_of_pixels, words

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError, UnavailableError
from fer_deploy.faces.hub_parquet import list_parquet, split_of_file

polars = pytest.importorskip("polars", reason="polars comes with fer-deploy[train]")

FILES = {"training": "train", "validation": "validation", "test": "test"}
ALPHABETICAL = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""The order in which the hub numbers labels that came from folders: neutral is 4, where FER2013 has 6."""

ALL = {(split, name): 1 for split in FILES for name in EMOTIONS}


def columns_of(first: int = 0, names: tuple[str, ...] = ALPHABETICAL) -> dict[str, Any]:
    """One picture of each class, as the `datasets` library writes them."""
    numbers = range(len(names))
    return {
        "image": [{"bytes": encoded(first + number), "path": f"{number}.png"} for number in numbers],
        "label": list(numbers),
    }


def metadata(names: tuple[str, ...] | None) -> dict[str, str]:
    if names is None:
        return {}
    label = {"names": list(names), "_type": "ClassLabel"}
    return {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": label}}})}


def write(path: Path, columns: dict[str, Any], names: tuple[str, ...] | None = ALPHABETICAL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    polars.DataFrame(columns).write_parquet(path, metadata=metadata(names))
    return path


HUB = "data/{0}-00000-of-00001.parquet"


@pytest.mark.parametrize(
    "pattern",
    [HUB, "data/{0}-00000-of-00001-3c8b9f0a1b2c3d4e.parquet", "default/{0}/0000.parquet", "{0}.parquet",
     "default/partial-{0}/0000.parquet", "refs/convert/parquet/plain_text/{0}/0000.parquet", "fer_{0}.parquet"],
)  # fmt: skip
def test_labels_are_taken_by_name_whatever_the_files_are_called(tmp_path: Path, pattern: str) -> None:
    for split in FILES.values():
        write(tmp_path / "set" / pattern.format(split), columns_of())
    listing = listed(tmp_path / "set")
    assert words(listing) == ALL
    assert listing.declared == ALPHABETICAL
    assert "pictures from 'image' and labels from 'label' (names from the file's metadata)" in listing.notes[0]
    assert words(listed(tmp_path / "set" / pattern.format("test"))) == ALL  # one file stands for its data set


def test_shards_of_a_split_are_read_together(tmp_path: Path) -> None:
    for shard in range(3):
        write(tmp_path / f"train-{shard:05}-of-00003.parquet", columns_of(shard * 10))
    listing = listed(tmp_path)
    assert words(listing) == {("training", name): 3 for name in EMOTIONS}
    assert listing.rows.tolist() == list(range(21))
    assert listing.places[7] == "train-00001-of-00003.parquet, row 0"
    assert len({picture.tobytes() for picture in pixels(listing)}) == 21


def test_pictures_are_read_in_any_order_from_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_deploy.faces.hub_parquet.BLOCK_BYTES", 1)
    names = ("a", "b")
    columns = {"image": [encoded(number) for number in range(100)], "label": [number % 2 for number in range(100)]}
    listing = listed(write(tmp_path / "train.parquet", columns, names))
    assert listing.pictures.read is not None
    for place in np.random.default_rng(0).permutation(100).tolist():
        assert listing.pictures.read(place) == columns["image"][place]


def lists(seed: int) -> list[list[int]]:
    return np.random.default_rng(seed).integers(0, 256, (8, 8)).tolist()


FORMS: dict[str, Callable[[int], Any]] = {
    "img_bytes": encoded,
    "image_bytes": lambda seed: encoded(seed, "JPEG"),
    "photo": lambda seed: {"bytes": encoded(seed, "WEBP")},
    "jpg": lambda seed: encoded(seed, "BMP"),
    "pixels": row_of_pixels,
    "image": lists,
    "face": lambda seed: [lists(seed)],
    "picture": lambda seed: np.random.default_rng(seed).integers(0, 256, (3, 8, 8)).tolist(),
    "img": lambda seed: [[value / 256 for value in row] for row in lists(seed)],
    "Image": lambda seed: base64.b64encode(encoded(seed)).decode(),
    "Picture": lambda seed: "data:image/png;base64," + base64.b64encode(encoded(seed)).decode(),
    "pixel_values": lambda seed: "[" + row_of_pixels(seed, separator=", ") + "]",
}


@pytest.mark.parametrize("column", FORMS)
def test_pictures_in_every_form(tmp_path: Path, column: str) -> None:
    columns = {column: [FORMS[column](seed) for seed in range(7)], "emotion": list(EMOTIONS), "split": ["train"] * 7}
    listing = listed(write(tmp_path / "faces.parquet", columns, None))
    assert words(listing) == {("training", name): 1 for name in EMOTIONS}
    read = pixels(listing)
    assert {picture.shape for picture in read} == {(8, 8)}
    if column in ("pixels", "image", "face", "pixel_values"):
        assert all(np.array_equal(picture, lists(seed)) for seed, picture in enumerate(read))


def test_pictures_in_a_column_for_each_pixel(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        f"pixel{place}": [lists(seed)[place // 8][place % 8] for seed in range(7)] for place in range(64)
    }
    listing = listed(write(tmp_path / "train.parquet", {"label": list(EMOTIONS), **columns}, None))
    assert all(np.array_equal(picture, lists(seed)) for seed, picture in enumerate(pixels(listing)))


@pytest.mark.parametrize("form", [str, lambda name: {"bytes": None, "path": f"/somewhere/else/{name}"}])
def test_files_that_only_name_their_pictures(tmp_path: Path, form: Callable[[str], Any]) -> None:
    draw(tmp_path, *(f"pictures/{number}.png" for number in range(7)))
    column = "path" if form is str else "image"
    columns = {column: [form(f"pictures/{number}.png") for number in range(7)], "label": list(EMOTIONS)}
    assert words(listed(write(tmp_path / "train.parquet", columns, None))) == {
        ("training", name): 1 for name in EMOTIONS
    }


@pytest.mark.parametrize(
    ("labels", "option", "classes"),
    [
        (["HAPPY", "Sad", "joy"], "", {"happy": 2, "sad": 1}),
        (["1", "2", "2"], "raf-db", {"surprise": 1, "fear": 2}),
        ([1.0, 2.0, 2.0], "raf-db", {"surprise": 1, "fear": 2}),
        ([[1], [2], [2]], "raf-db", {"surprise": 1, "fear": 2}),
        ([True, False, True], "", {"True": 2, "False": 1}),
        (["froh", None, "böse"], "", {"froh": 1, "böse": 1}),
    ],
)
def test_labels_in_every_form(tmp_path: Path, labels: list[Any], option: str, classes: dict[str, int]) -> None:
    path = write(tmp_path / "train.parquet", {"image": [encoded(seed) for seed in range(3)], "label": labels}, None)
    assert words(listed(path), option) == {("training", name): count for name, count in classes.items()}


def test_numbers_without_names_are_not_guessed(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", columns_of(), None)
    with pytest.raises(DataError, match="the labels are numbers without names"):
        words(listed(path))
    columns = {
        "emotion": list(range(7)),
        "pixels": [row_of_pixels(seed, 48) for seed in range(7)],
        "Usage": ["Training"] * 7,
    }
    assert words(listed(write(tmp_path / "own.parquet", columns, None)))  # FER2013's own columns have its numbers


def test_classes_that_no_row_has_and_rows_without_a_class(tmp_path: Path) -> None:
    names = ("angry", "contempt", "happy")
    path = write(
        tmp_path / "train.parquet", {"image": [encoded(n) for n in range(5)], "label": [0, 2, -1, 2, None]}, names
    )
    listing = listed(path)
    assert words(listing) == {("training", "angry"): 1, ("training", "happy"): 2}
    assert str(listing.left_out) == "left out: 2 rows without a label"
    assert listing.declared == names


def test_the_order_of_other_classes_is_the_declared_one(tmp_path: Path) -> None:
    names = ("negative", "neutral", "positive", "mixed")
    listing = listed(write(tmp_path / "train.parquet", columns_of(0, names), names))
    assert listing.labels == list(names)
    assert listing.declared == names


def test_persons_and_splits_may_be_columns(tmp_path: Path) -> None:
    columns = {**columns_of(), "subset": ["train", "dev", "test"] * 2 + ["train"], "subject_id": list(range(7))}
    listing = listed(write(tmp_path / "faces.parquet", columns))
    assert Counter(listing.splits) == {"training": 3, "validation": 2, "test": 2}
    assert list(listing.people or ()) == [str(number) for number in range(7)]


def test_a_file_that_states_no_split_leaves_it_open(tmp_path: Path) -> None:
    assert words(listed(write(tmp_path / "faces.parquet", columns_of()))) == {(None, name): 1 for name in EMOTIONS}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00002.parquet", "training"), ("data/test.parquet", "test"),
        ("fer/private_test/0000.parquet", "test"), ("PublicTest/part.parquet", "validation"),
        ("data/fer2013.parquet", None), ("validation.parquet", "validation"),
        ("private_test.parquet", "test"), ("data/latest.parquet", None),
    ],
)  # fmt: skip
def test_the_split_is_in_the_name(name: str, split: str | None) -> None:
    assert split_of_file(Path(name)) == split


def broken_label(columns: dict[str, Any]) -> None:
    columns["label"][3] = 7


def endless_label(columns: dict[str, Any]) -> None:
    columns["label"] = [float(label) for label in columns["label"]]
    columns["label"][3] = float("inf")


def no_labels(columns: dict[str, Any]) -> None:
    columns["label"] = [-1] * 7


def no_picture(columns: dict[str, Any]) -> None:
    columns["image"][3] = {"bytes": None, "path": "/elsewhere/3.png"}


def not_a_picture(columns: dict[str, Any]) -> None:
    columns["image"][3]["bytes"] = b"text"


def ragged_lists(columns: dict[str, Any]) -> None:
    columns["image"] = [lists(0)] * 3 + [[[1, 2], [3]]] + [lists(0)] * 3


def lists_above_255(columns: dict[str, Any]) -> None:
    columns["image"] = [lists(0)] * 3 + [[[300] * 8] * 8] + [lists(0)] * 3


def other_picture_column(columns: dict[str, Any]) -> None:
    columns["drawing"] = [1] * 7
    del columns["image"]


def other_label_column(columns: dict[str, Any]) -> None:
    columns["what"] = columns.pop("label")


def other_split(columns: dict[str, Any]) -> None:
    columns["split"] = ["train"] * 3 + ["secret"] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (broken_label, r"train\.parquet, row 3: the label 7 is not 0 to 6 \(angry, disgust"),
        (endless_label, r"train\.parquet, row 3: the label inf is neither a word nor a whole number"),
        (no_labels, r"none of its 7 rows has a label"),
        (no_picture, r"train\.parquet, row 3 has no picture, only the name /elsewhere/3\.png, and no such file is th"),
        (not_a_picture, r"x: a text file, not a picture"),
        (ragged_lists, r"train\.parquet, row 3: its lists are no picture"),
        (lists_above_255, r"train\.parquet, row 3: its pixels lie from 300 to 300: expected 0 to 255"),
        (other_picture_column, r"train\.parquet has no column of pictures .*: its columns are 'label', 'drawing'"),
        (other_label_column, r"train\.parquet has no column of labels .*: its columns are 'image', 'what'"),
        (other_split, r"train\.parquet, row 3: the split 'secret' is not train, validation or test"),
    ],
)
def test_every_fault_names_file_and_row(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    columns = columns_of()
    change(columns)
    path = write(tmp_path / "train.parquet", columns)
    with pytest.raises(DataError, match=message) as caught:
        words(list_parquet([path], "set"))
    assert "\n" not in str(caught.value)


def test_several_configurations_are_not_mixed(tmp_path: Path) -> None:
    for configuration in ("small", "large"):
        write(tmp_path / configuration / "train" / "0000.parquet", columns_of())
    with pytest.raises(DataError, match=r"several configurations of a data set \(large, small\): name the folder of"):
        listed(tmp_path)
    assert words(listed(tmp_path / "small")) == {("training", name): 1 for name in EMOTIONS}


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_a_file_that_is_cut_short(tmp_path: Path, keep: float) -> None:
    path = write(tmp_path / "train.parquet", columns_of())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(DataError, match=r"train\.parquet is not a readable Parquet file"):
        list_parquet([path], "set")


def test_without_polars_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "train.parquet", columns_of())
    real_import = builtins.__import__

    def without_polars(name: str, *rest: Any) -> Any:
        if name == "polars":
            raise ImportError("no polars")
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_polars)
    with pytest.raises(UnavailableError, match=r"pip install 'fer-deploy\[train\]'"):
        list_parquet([path], "set")
