"""Parquet files as the Hugging Face hub has them; above all, their own order of labels."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError, UnavailableError
from fer_deploy.faces.dataset import SPLITS, Dataset, Faces
from fer_deploy.faces.hub_parquet import read_parquet, split_of_file
from fer_deploy.faces.load import load_dataset

polars = pytest.importorskip("polars", reason="polars comes with fer-deploy[train]")

FILES = {"training": "train", "validation": "validation", "test": "test"}
ALPHABETICAL = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""The order in which the hub numbers labels that came from folders: neutral is 4, where FER2013 has 6."""


def encoded(image: np.ndarray[Any, Any], folder: Path) -> bytes:
    path = folder / "one.png"
    Image.fromarray(image).save(path)
    return path.read_bytes()


def columns_of(faces: Faces, folder: Path, names: tuple[str, ...] = ALPHABETICAL) -> dict[str, Any]:
    pictures = [{"bytes": encoded(image, folder), "path": f"{row}.png"} for row, image in enumerate(faces.images)]
    return {"image": pictures, "label": [names.index(EMOTIONS[label]) for label in faces.labels]}


def metadata(names: tuple[str, ...] | None) -> dict[str, str]:
    if names is None:
        return {}
    label = {"names": list(names), "_type": "ClassLabel"}
    return {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": label}}})}


def write(path: Path, columns: dict[str, Any], names: tuple[str, ...] | None = ALPHABETICAL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    polars.DataFrame(columns).write_parquet(path, metadata=metadata(names))
    return path


@pytest.fixture
def hub(tmp_path: Path, small: Dataset) -> Path:
    """A data set's folder as the hub has it."""
    for split in SPLITS:
        path = tmp_path / "set" / "data" / f"{FILES[split]}-00000-of-00001.parquet"
        write(path, columns_of(small.split(split), tmp_path))
    return tmp_path / "set"


def test_labels_are_taken_by_name_and_not_by_number(hub: Path, small: Dataset) -> None:
    found = load_dataset(hub)
    assert found.sha256 == small.sha256
    assert found.notes == ()
    assert [found.split(split).labels.tolist() for split in SPLITS] == [
        small.split(split).labels.tolist() for split in SPLITS
    ]


def test_one_file_stands_for_its_data_set(hub: Path, small: Dataset) -> None:
    assert load_dataset(hub / "data" / "test-00000-of-00001.parquet").sha256 == small.sha256


def test_the_second_time_comes_from_the_cache(hub: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    load_dataset(hub)
    monkeypatch.setattr("fer_deploy.faces.find.read_parquet", None)
    assert load_dataset(hub).sha256 == small.sha256


def whole(small: Dataset) -> tuple[Faces, list[str]]:
    images = np.concatenate([small.split(split).images for split in SPLITS])
    labels = np.concatenate([small.split(split).labels for split in SPLITS])
    usage = [name for name, split in zip(("Training", "PublicTest", "PrivateTest"), SPLITS, strict=True)
             for _ in range(len(small.split(split)))]  # fmt: skip
    return Faces(images, labels, np.arange(len(images))), usage


@pytest.mark.parametrize("kind", ["pixels", "bytes", "names", "text numbers"])
def test_the_other_columns_that_people_have(tmp_path: Path, small: Dataset, kind: str) -> None:
    faces, usage = whole(small)
    columns: dict[str, Any] = {"emotion": faces.labels.tolist(), "Usage": usage}
    if kind == "bytes":
        columns["img_bytes"] = [encoded(image, tmp_path) for image in faces.images]
    else:
        columns["pixels"] = [" ".join(map(str, image.ravel().tolist())) for image in faces.images]
    if kind == "names":
        columns["emotion"] = [EMOTIONS[label].upper() for label in faces.labels]
    if kind == "text numbers":
        columns["emotion"] = [str(label) for label in faces.labels]
    found = load_dataset(write(tmp_path / "faces.parquet", columns, None))
    assert found.sha256 == small.sha256
    assert any("FER2013's order" in note for note in found.notes) == (kind in ("pixels", "bytes"))


def test_a_set_without_validation_gets_one(hub: Path) -> None:
    (hub / "data" / "validation-00000-of-00001.parquet").unlink()
    found = load_dataset(hub)
    assert [len(found.split(split)) for split in SPLITS] == [56, 7, 14]
    assert "held out" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00002.parquet", "training"), ("data/test.parquet", "test"),
        ("fer/private_test/0000.parquet", "test"), ("PublicTest/part.parquet", "validation"),
        ("data/fer2013.parquet", None), ("validation.parquet", "validation"),
        ("private_test.parquet", "test"), ("test_set_of_mine/faces.parquet", None),
    ],
)  # fmt: skip
def test_the_split_is_in_the_name(name: str, split: str | None) -> None:
    assert split_of_file(Path(name)) == split


def broken_label(columns: dict[str, Any]) -> None:
    columns["label"][3] = 7


def no_label(columns: dict[str, Any]) -> None:
    columns["label"][3] = None


def negative_label(columns: dict[str, Any]) -> None:
    columns["label"][3] = -1


def endless_label(columns: dict[str, Any]) -> None:
    columns["label"] = [float(label) for label in columns["label"]]
    columns["label"][3] = float("inf")


def true_labels(columns: dict[str, Any]) -> None:
    columns["label"] = [label == 3 for label in columns["label"]]


def no_picture(columns: dict[str, Any]) -> None:
    columns["image"][3] = {"bytes": None, "path": "/elsewhere/3.png"}


def not_a_picture(columns: dict[str, Any]) -> None:
    columns["image"][3]["bytes"] = b"text"


def other_picture_column(columns: dict[str, Any]) -> None:
    columns["photo"] = columns.pop("image")


def other_label_column(columns: dict[str, Any]) -> None:
    columns["mood"] = columns.pop("label")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (broken_label, r"train\.parquet, row 3: the label '7' is none of the seven"),
        (no_label, r"train\.parquet, row 3: the label 'None'"),
        (negative_label, r"train\.parquet, row 3: the label '-1'"),
        (endless_label, r"train\.parquet, row 3: the label 'inf'"),
        (true_labels, r"train\.parquet, row \d+: the label '(True|False)'"),
        (no_picture, r"train\.parquet, row 3 has no picture"),
        (not_a_picture, r"train\.parquet, row 3: .*not a picture"),
        (other_picture_column, r"train\.parquet has no column of pictures .*: its columns are 'label', 'photo'"),
        (other_label_column, r"train\.parquet has no column of labels .*: its columns are 'image', 'mood'"),
    ],
)
def test_every_fault_names_file_and_row(
    tmp_path: Path, small: Dataset, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    columns = columns_of(small.validation, tmp_path)
    change(columns)
    path = write(tmp_path / "train.parquet", columns)
    with pytest.raises(DataError, match=message) as caught:
        read_parquet([path], "set")
    assert "\n" not in str(caught.value)


def test_names_that_are_none_of_the_seven(tmp_path: Path, small: Dataset) -> None:
    path = write(tmp_path / "train.parquet", columns_of(small.validation, tmp_path), (*ALPHABETICAL, "contempt"))
    with pytest.raises(DataError, match=r"train\.parquet: its label 'contempt' is none of the seven expressions"):
        read_parquet([path], "set")


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_a_file_that_is_cut_short(tmp_path: Path, small: Dataset, keep: float) -> None:
    path = write(tmp_path / "train.parquet", columns_of(small.validation, tmp_path))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(DataError, match=r"train\.parquet is not a readable Parquet file"):
        read_parquet([path], "set")


def test_a_file_that_states_no_split(tmp_path: Path, small: Dataset) -> None:
    path = write(tmp_path / "faces.parquet", columns_of(small.validation, tmp_path))
    with pytest.raises(DataError, match=r"faces\.parquet states no split"):
        load_dataset(path)


def test_without_polars_the_remedy_is_said(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_polars(name: str, *rest: Any) -> Any:
        if name == "polars":
            raise ImportError("no polars")
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_polars)
    with pytest.raises(UnavailableError, match=r"pip install 'fer-deploy\[train\]'"):
        read_parquet(sorted((hub / "data").iterdir()), "set")
