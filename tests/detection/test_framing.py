from __future__ import annotations

import numpy as np
import pytest

from fer_deploy.detection import Box
from fer_deploy.detection.framing import Framing, crop_face


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    """Every pixel tells where it is: red its column, green its row."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8)


def test_the_crop_is_the_square_around_the_box() -> None:
    crop = crop_face(picture(), Box(20, 10, 30, 20), Framing(scale=2.0, down=0.1))
    assert crop.shape == (20, 20, 3)
    assert crop.flags["C_CONTIGUOUS"]
    assert crop[0, 0].tolist() == [15, 6, 0]
    assert crop[-1, -1].tolist() == [34, 25, 0]


@pytest.mark.parametrize(("box", "corner"), [(Box(-10, -10, 4, 4), (0, 0)), (Box(56, 36, 80, 60), (59, 39))])
def test_outside_the_photo_its_edge_is_repeated(box: Box, corner: tuple[int, int]) -> None:
    crop = crop_face(picture(), box, Framing(scale=1.0))
    side = round(box.width)
    assert crop.shape == (side, side, 3)
    outer = crop[0, 0] if corner == (0, 0) else crop[-1, -1]
    assert outer.tolist() == [*corner, 0]


def test_a_box_wholly_outside_still_gives_pixels() -> None:
    assert crop_face(picture(), Box(100, 100, 110, 110), Framing()).shape == (10, 10, 3)


def test_a_tall_box_gives_a_square_of_its_area() -> None:
    left, top, side = Framing(scale=1.0).square(Box(0, 0, 16, 25))
    assert side == 20
    assert (left, top) == (-2, 2)


def test_the_smallest_box_gives_one_pixel() -> None:
    assert crop_face(picture(), Box(5.0, 5.0, 5.1, 5.1), Framing()).shape == (1, 1, 3)
