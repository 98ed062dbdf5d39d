"""`ferdeploy data` as people call it: what it prints, its exit codes, and its JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from drawn_data import folder_tree, numbered_tree, table_of_paths
from PIL import Image

from fer_deploy.cli.data import command


def data(*words: object) -> Result:
    return CliRunner().invoke(command, list(map(str, words)), env={"COLUMNS": "120"})


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_tree(tmp_path_factory.mktemp("tree") / "faces", each=5)


def test_it_shows_counts_sizes_and_balance(tree: Path) -> None:
    done = data(tree)
    assert done.exit_code == 0, done.output
    assert "faces: 40 pictures, 8 classes" in done.output
    assert "contempt" in done.output
    assert "█" in done.output
    assert "pictures: 200x200 pixels, all in colour" in done.output
    assert "balance: " in done.output


def test_a_sheet_is_written(tree: Path, tmp_path: Path) -> None:
    done = data(tree, "--sheet", tmp_path / "sheet.png")
    assert done.exit_code == 0, done.output
    assert f"wrote {tmp_path / 'sheet.png'}" in done.output
    assert Image.open(tmp_path / "sheet.png").height > 8 * 80


def test_json_is_one_object_with_everything(tree: Path) -> None:
    summary = json.loads(data(tree, "--json").output)
    assert summary["format"] == 1
    assert summary["pictures"] == 40
    assert summary["problems"] == []
    assert [split["name"] for split in summary["splits"]] == ["training", "validation", "test"]


def test_numbers_without_meaning_are_a_problem_and_labels_solve_it(tmp_path: Path) -> None:
    folder = numbered_tree(tmp_path / "raf", each=4)
    refused = data(folder)
    assert refused.exit_code == 1
    assert "train would refuse this: " in refused.output
    assert "--labels" in refused.output
    assert data(folder, "--labels", "raf-db").exit_code == 0
    assert json.loads(data(folder, "--json").output)["problems"]


def test_splits_are_drawn_as_asked(tmp_path: Path) -> None:
    table = table_of_paths(tmp_path / "csv", each=10)
    splits = json.loads(data(table, "--split", "60/20/20 seed=3", "--json").output)["splits"]
    assert [split["pictures"] for split in splits] == [18, 6, 6]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["absent"], 1, "error: no data set at absent"),
        (["synthetic", "--data", "synthetic"], 2, "give one of the two"),
        (["synthetic", "--split", "1/2"], 2, "not three shares"),
        (["synthetic", "--labels", "="], 2, "labels"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], code: int, text: str) -> None:
    done = data(*words)
    assert done.exit_code == code
    assert text in done.output
    assert "Traceback" not in done.output


def test_help_has_examples() -> None:
    assert "--sheet faces.png" in data("--help").output
