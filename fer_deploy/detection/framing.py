"""Turn a detector's box into the square crop that a classifier trained on FER2013 expects.

All faces of FER2013 are framed alike: the whole face from brow to chin with a margin, square, at 48x48. Detectors draw
their boxes differently. Since a classifier is most accurate on crops that look like its training data, each detector
has a measured `Framing`: `benchmarks/crop_margin.py` pastes FER2013's faces into larger pictures, detects them, and
scores the crops with a trained model on PublicTest (`docs/detectors.md`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fer_deploy.detection.box import Box
from fer_deploy.pictures import Pixels


@dataclass(frozen=True)
class Framing:
    """The square crop for a box.

    Attributes:
        scale: the square's side, as a multiple of the square root of the box's area.
        down: how far the square's centre lies below the box's, as a multiple of the square root of the box's area.
    """

    scale: float = 1.0
    down: float = 0.0

    def square(self, box: Box) -> tuple[int, int, int]:
        """(left, top, side) of the crop in whole pixels; it may reach outside the picture.

        >>> Framing(scale=1.2, down=0.1).square(Box(10, 20, 50, 60))
        (6, 20, 48)
        """
        size = box.area**0.5
        side = max(1, round(self.scale * size))
        x, y = box.centre
        return round(x - side / 2), round(y + self.down * size - side / 2), side


def crop_face(pixels: Pixels, box: Box, framing: Framing) -> Pixels:
    """Cut a face out of its photo.

    Args:
        pixels: the photo, uint8 (height, width, 3).
        box: the face, from the detector that `framing` belongs to.
        framing: the position of the crop relative to the box.

    Returns:
        uint8 (side, side, 3). Outside the photo, its edge pixels are repeated.
    """
    left, top, side = framing.square(box)
    height, width = pixels.shape[:2]
    rows, columns = np.arange(top, top + side), np.arange(left, left + side)
    if top >= 0 and left >= 0 and top + side <= height and left + side <= width:
        return np.ascontiguousarray(pixels[top : top + side, left : left + side])
    return np.ascontiguousarray(pixels[rows.clip(0, height - 1)][:, columns.clip(0, width - 1)])
