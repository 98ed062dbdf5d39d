"""A rectangle around a face, in pixels of the upright picture."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """The rectangle of a face.

    Attributes:
        left: x of the left edge, in pixels from the picture's left; negative if the face is cut off there.
        top: y of the upper edge, in pixels from the picture's top; negative if the face is cut off there.
        right: x of the right edge, larger than `left`.
        bottom: y of the lower edge, larger than `top`.
        score: the detector's score, 0 to 1; comparable only between boxes of one detector.

    Raises:
        ValueError: an edge is not finite, or the rectangle is empty.
    """

    left: float
    top: float
    right: float
    bottom: float
    score: float = 1.0

    def __post_init__(self) -> None:
        edges = (self.left, self.top, self.right, self.bottom)
        if not all(map(math.isfinite, edges)) or self.right <= self.left or self.bottom <= self.top:
            raise ValueError(f"a box needs left < right and top < bottom, all finite, got {edges}")

    @property
    def width(self) -> float:
        """Width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Height in pixels."""
        return self.bottom - self.top

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return self.width * self.height

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the centre, in pixels."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def overlap(self, other: Box) -> float:
        """Intersection over union with another box, 0 to 1.

        >>> Box(0, 0, 2, 2).overlap(Box(1, 0, 3, 2))
        0.3333333333333333
        """
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        if width <= 0 or height <= 0:
            return 0.0
        intersection = width * height
        return intersection / (self.area + other.area - intersection)
