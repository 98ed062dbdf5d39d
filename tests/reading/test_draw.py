from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_deploy.detection import Box
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError
from fer_deploy.reading.draw import COLOURS, annotate, save
from fer_deploy.recognizer import Recognition


def face(label: str, box: Box | None) -> Recognition:
    return Recognition.from_row([float(name == label) for name in EMOTIONS], EMOTIONS, box=box)


def test_every_label_has_its_own_colour() -> None:
    assert set(COLOURS) == set(EMOTIONS)
    assert len(set(COLOURS.values())) == 7


def test_the_box_is_drawn_around_the_face_and_not_over_it() -> None:
    photo = np.zeros((200, 300, 3), np.uint8)
    drawn = annotate(photo, [face("happy", Box(100, 80, 180, 160))])
    assert (photo == 0).all()
    assert tuple(drawn[120, 101]) == COLOURS["happy"] or tuple(drawn[120, 100]) == COLOURS["happy"]
    assert (drawn[90:150, 112:170] == 0).all()
    assert (drawn[60:79, 100:160] == COLOURS["happy"]).all(axis=2).mean() > 0.3  # the word's plate, above the box


@pytest.mark.parametrize(
    "box",
    [None, Box(-50, -50, 20, 20), Box(90, 90, 400, 400), Box(0, 0, 1, 1), Box(50, 0, 99, 99), Box(500, 500, 600, 600)],
)
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (100, 100)])
def test_boxes_anywhere_and_pictures_of_any_size(box: Box | None, size: tuple[int, int]) -> None:
    drawn = annotate(np.full((*size, 3), 7, np.uint8), [face("sad", box)], names=["#1"])
    assert drawn.shape == (*size, 3)
    assert drawn.dtype == np.uint8


def test_saving_keeps_the_format_or_takes_png(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), 100, np.uint8)
    assert save(tmp_path / "deep" / "a.jpg", pixels) == tmp_path / "deep" / "a.jpg"
    assert Image.open(tmp_path / "deep" / "a.jpg").format == "JPEG"
    assert save(tmp_path / "a.tiff", pixels).name == "a.tiff.png"
    assert Image.open(tmp_path / "a.tiff.png").format == "PNG"


def test_a_write_failure_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        save(tmp_path / "file" / "a.png", np.zeros((4, 4, 3), np.uint8))
