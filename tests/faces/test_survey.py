"""`survey_data`: what is known of data that can be trained on, and everything that is wrong with data that cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from drawn_data import EIGHT, encoded, faces_of, folder_tree, numbered_tree, table_of_paths
from PIL import Image

from fer_deploy.cli import cli
from fer_deploy.errors import DataError
from fer_deploy.faces.request import DataRequest
from fer_deploy.faces.sheet import CELL, COLUMNS, Band, spread, write_sheet
from fer_deploy.faces.survey import survey_data
from fer_deploy.labels import LabelMap


def test_a_tree_of_eight_labels(tmp_path: Path) -> None:
    summary = survey_data(DataRequest(folder_tree(tmp_path / "faces", each=5))).summary
    assert summary.problems == ()
    assert summary.labels == EIGHT
    assert summary.pictures == 40
    assert summary.colour == 40
    assert summary.sizes.median == (200, 200)
    assert [split.name for split in summary.splits] == ["training", "validation", "test"]
    assert all(sum(split.classes) == split.pictures > 0 for split in summary.splits)
    assert summary.label_source
    assert any("drawn" in note or "split" in note for note in summary.notes)


def test_copies_are_named_by_their_files(tmp_path: Path) -> None:
    folder = numbered_tree(tmp_path / "raf", each=4)
    source = folder / "train/1/train_10000_aligned.jpg"
    (folder / "test/4/copy.jpg").write_bytes(source.read_bytes())
    summary = survey_data(DataRequest(folder, labels=LabelMap.parse("raf-db"))).summary
    assert summary.problems == ()
    assert summary.copies.other_label == 2
    assert len(summary.copies.examples) == 1
    assert {Path(place).name for place in summary.copies.examples[0]} == {"copy.jpg", source.name}


def test_all_that_is_wrong_is_shown_at_once(tmp_path: Path) -> None:
    folder = numbered_tree(tmp_path / "raf", each=4)
    (folder / "train/2/torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    (folder / "train/3/empty.png").write_bytes(b"")
    (folder / "test/5/notes.txt").write_text("not a picture")
    survey = survey_data(DataRequest(folder))
    summary = survey.summary
    assert summary.sha256 is None
    assert {Path(each.place).name for each in summary.unreadable} == {"torn.jpg", "empty.png"}
    assert any("raf-db" in problem for problem in summary.problems)
    assert any("2 of 44 pictures cannot be read" in problem for problem in summary.problems)
    assert summary.labels == tuple("1234567")
    assert [(split.name, split.pictures) for split in summary.splits] == [("training", 28), ("test", 14)]
    assert len(survey.pictures_of(0, 3)) == 3


def test_the_command_shows_what_was_left_out_once(tmp_path: Path) -> None:
    folder = folder_tree(tmp_path / "faces", each=3)
    (folder / "notes.txt").write_text("taken in May")
    result = CliRunner().invoke(cli, ["data", str(folder)])
    assert result.exit_code == 0, result.output
    assert result.output.count("left out: 1 *.txt") == 1


def test_unreadable_pictures_alone_are_one_problem(tmp_path: Path) -> None:
    table = table_of_paths(tmp_path / "csv", each=4)
    for name in ("photos/002.png", "photos/007.png"):
        (table.parent / name).write_bytes(b"not a picture")
    summary = survey_data(DataRequest(table)).summary
    assert len(summary.unreadable) == 2
    assert len(summary.problems) == 1
    assert "2 of 12 pictures cannot be read" in summary.problems[0]


def test_what_is_no_data_set_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("nothing")
    with pytest.raises(DataError):
        survey_data(DataRequest(tmp_path / "absent"))
    with pytest.raises(DataError):
        survey_data(DataRequest(tmp_path))


def test_a_sheet_shows_a_row_of_pictures_for_each_class(tmp_path: Path) -> None:
    happy, sad = faces_of("happy", 3, side=60)[..., 0], faces_of("sad", 20, side=90)[:, :, :50, 0]
    write_sheet(
        tmp_path / "sheet.png", [Band("happy: 3", list(happy)), Band("悲しい: 20", list(sad)), Band("none", [])]
    )
    with Image.open(tmp_path / "sheet.png") as image:
        pixels = np.asarray(image)
    step = (pixels.shape[1] - 4) // COLUMNS
    assert step == CELL + 4
    first = pixels[26 : 26 + CELL]
    assert (first[:, 3 * step + 4 :] == 255).all(), "three pictures and nothing else"
    assert all(first[:, place * step + 4 : place * step + 4 + CELL].std() > 5 for place in range(3))


def test_a_sheet_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(encoded(np.zeros((9, 9), np.uint8)))
    with pytest.raises(DataError, match="cannot be written"):
        write_sheet(tmp_path / "file" / "sheet.png", [Band("a", [])])


@pytest.mark.parametrize(("count", "wanted", "places"), [(0, 4, []), (3, 8, [0, 1, 2]), (100, 3, [0, 50, 99])])
def test_places_are_spread_evenly(count: int, wanted: int, places: list[int]) -> None:
    assert np.abs(spread(count, wanted) - np.array(places, np.int64)).sum() <= 1
