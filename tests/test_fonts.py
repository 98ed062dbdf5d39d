"""Labels of any script in pictures and plots, and what is drawn where no font has their characters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from fer_deploy import fonts
from fer_deploy.detection import Box
from fer_deploy.emotions import EMOTIONS
from fer_deploy.fonts import BUILT_IN, drawable, font_for, missing_notes
from fer_deploy.reading.draw import COLOURS, annotate, colours_of
from fer_deploy.reading.plot import MAXIMUM_LINES, plot_probabilities
from fer_deploy.reading.rows import FaceRow, as_values, columns
from fer_deploy.recognizer import Recognition

NOWHERE = "\U0001fffd"
"""A character that Unicode leaves undefined: no font has it."""
WORDS = ("traurig ü", "грусть", "سعيد", f"x{NOWHERE}", "plain")


@pytest.fixture
def without_fonts(monkeypatch: pytest.MonkeyPatch):
    """A machine with no font but Pillow's."""
    monkeypatch.setattr(fonts, "_installed", tuple)
    font_for.cache_clear()
    yield
    font_for.cache_clear()


def one(label: str, labels: tuple[str, ...]) -> Recognition:
    row = [0.4 / (len(labels) - 1)] * len(labels)
    row[labels.index(label)] = 0.6
    return Recognition.from_row(row, labels, box=Box(20, 60, 180, 140))


def test_english_labels_take_the_built_in_font_and_no_search(without_fonts: None) -> None:
    assert {font_for(label) for label in EMOTIONS} == {BUILT_IN}
    assert missing_notes(EMOTIONS) == []


def test_what_no_font_has_is_drawn_as_its_number_with_one_note(without_fonts: None) -> None:
    assert [drawable(label, WORDS) for label in WORDS] == ["label 1", "label 2", "label 3", "label 4", "plain"]
    (note,) = missing_notes(WORDS)
    assert "label 2 is грусть" in note
    assert "Noto Sans" in note
    assert len(missing_notes([f"ü{i}" for i in range(100)])[0]) < 500
    blank = np.zeros((200, 300, 3), np.uint8)
    for word, number in (("грусть", "label 2"), ("سعيد", "label 3")):
        drawn = annotate(blank, [one(word, WORDS)])
        same = tuple(number if label == word else label for label in WORDS)
        np.testing.assert_array_equal(drawn, annotate(blank, [one(number, same)]))


def test_installed_fonts_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pytest.importorskip("matplotlib").get_data_path()
    plain = Path(data) / "fonts" / "ttf" / "DejaVuSans.ttf"
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.TTF").write_bytes(plain.read_bytes())
    (tmp_path / "bad.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_folders", lambda: iter([tmp_path, tmp_path / "absent"]))
    fonts._installed.cache_clear()
    font_for.cache_clear()
    try:
        assert font_for("грусть ü") == str(tmp_path / "deep" / "a.TTF")
        assert (font_for("سعيد") is not None) == features.check("raqm")  # which joins the letters
        assert font_for(NOWHERE) is None
        assert font_for("快乐") is None
        russian = annotate(np.zeros((200, 300, 3), np.uint8), [one("грусть", WORDS)])
        assert (russian[30:59] != 0).any()
    finally:
        fonts._installed.cache_clear()
        font_for.cache_clear()


@pytest.mark.parametrize("count", [2, 8, 40])
def test_labels_have_colours_of_their_own(count: int) -> None:
    labels = ("happy", *(f"word {i}" for i in range(count - 1)))
    colours = colours_of(labels)
    assert list(colours) == list(labels)
    assert len(set(colours.values())) == count
    assert colours["happy"] == COLOURS["happy"]
    assert colours_of(EMOTIONS) == dict(COLOURS)


@pytest.mark.parametrize("count", [2, 5, 30])
def test_plots_of_any_labels(tmp_path: Path, without_fonts: None, count: int) -> None:
    pytest.importorskip("matplotlib")
    labels = (*WORDS, "_x", "$a", *(f"c{i}" for i in range(30)))[:count]
    random = np.random.default_rng(0)
    faces = [Recognition.from_row(row, labels) for row in random.dirichlet(np.ones(count), 12)]
    rows = [FaceRow("a.mp4", face, number, number / 5, 1, face) for number, face in enumerate(faces)]
    notes = plot_probabilities(tmp_path / "a.png", rows, labels, title="فيلم $")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (1200, 396)
    assert any("labels with the highest" in note or "labels that reach" in note for note in notes) == (
        count > MAXIMUM_LINES
    )
    assert any("Noto Sans" in note for note in notes)


TAKEN = ("file", "label", "smoothed_label", "smoothed_happy", "happy", "score", "probability_file", "frame")


@pytest.mark.parametrize("video", [False, True])
def test_labels_named_as_columns_keep_columns_of_their_own(video: bool) -> None:
    named = columns(TAKEN, video=video)
    face = Recognition.from_row([0.125] * 7 + [0.125], TAKEN, box=Box(1, 2, 3, 4, 0.5))
    row = FaceRow("a.mp4", face, 3, 0.5, 2, face) if video else FaceRow("a.png", face)
    values = as_values(row, TAKEN, video=video)
    assert list(values) == list(named)
    assert values["file"] == row.file
    assert values["label"] == "file"
    assert values["score"] == 0.5
    assert sum(value == 0.125 for value in values.values()) >= 8 * (1 + video)
    assert len([name for name in columns(TAKEN, video=True) if name in columns(TAKEN, video=False)]) == len(
        columns(TAKEN, video=False)
    )
