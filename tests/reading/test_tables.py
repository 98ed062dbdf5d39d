from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from fer_deploy.detection import Box
from fer_deploy.emotions import EMOTIONS
from fer_deploy.reading.rows import FaceRow, as_json, as_values, columns
from fer_deploy.reading.tables import writing
from fer_deploy.recognizer import Recognition

FACE = Recognition.from_row([0, 0, 0.25, 0.5, 0.25, 0, 0], EMOTIONS, box=Box(1, 2, 3.5, 5, 0.75))
CROP = Recognition.from_row([1, 0, 0, 0, 0, 0, 0], EMOTIONS)
PICTURE = FaceRow('a "b", c.jpg', FACE)
FRAME = FaceRow("d.mp4", FACE, 7, 0.28, 2, CROP)


def test_values_fit_the_columns() -> None:
    for video in (False, True):
        for row in (PICTURE, FRAME, FaceRow("crop.png", CROP)):
            named = columns(EMOTIONS, video=video)
            values = as_values(row, EMOTIONS, video=video)
            assert list(values) == list(named)
            for name, value in values.items():
                assert value is None or isinstance(value, named[name]) or (named[name] is float and value in (0, 1))


def test_json_leaves_out_what_does_not_apply() -> None:
    assert as_json(FaceRow("crop.png", CROP)) == {
        "file": "crop.png",
        "label": "angry",
        "probabilities": dict(zip(EMOTIONS, [1, 0, 0, 0, 0, 0, 0], strict=True)),
    }
    picture, frame = as_json(PICTURE), as_json(FRAME)
    assert picture["box"] == {"left": 1, "top": 2, "right": 3.5, "bottom": 5, "score": 0.75}
    assert "frame" not in picture
    assert (frame["frame"], frame["time_s"], frame["track"], frame["smoothed"]["label"]) == (7, 0.28, 2, "angry")


def test_csv_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with writing(path, "csv", EMOTIONS, video=True) as writer:
        writer.write(PICTURE)
        writer.write(FRAME)
        assert not path.exists()
    with path.open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["file"], first["happy"], first["frame"], first["smoothed_label"]) == ('a "b", c.jpg', "0.5", "", "")
    assert (second["frame"], second["track"], second["smoothed_angry"]) == ("7", "2", "1.0")


def test_json_lines_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with writing(path, "json", EMOTIONS, video=False) as writer:
        writer.write(PICTURE)
        writer.write(FaceRow("Grüße \udce9.jpg", CROP))  # a name that is not UTF-8 does not stop the writing
    lines = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == as_json(PICTURE)
    assert len(lines) == 2


def test_parquet_can_be_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("fer_deploy.reading.tables._ROW_GROUP", 2)
    path = tmp_path / "out.parquet"
    with writing(path, "parquet", EMOTIONS, video=True) as writer:
        for row in (PICTURE, FRAME, PICTURE):
            writer.write(row)
    table = parquet.read_table(path)
    assert table.column_names == list(columns(EMOTIONS, video=True))
    assert table["happy"].to_pylist() == [0.5, 0.5, 0.5]
    assert table["frame"].to_pylist() == [None, 7, None]
    assert parquet.ParquetFile(path).num_row_groups == 2


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_no_rows_still_give_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    with writing(path, kind, EMOTIONS, video=False):
        pass
    assert path.exists()


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_a_failure_leaves_the_old_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    def fail() -> None:
        with writing(path, kind, EMOTIONS, video=False) as writer:
            writer.write(PICTURE)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
