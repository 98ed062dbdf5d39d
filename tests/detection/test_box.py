from __future__ import annotations

import math

import pytest

from fer_deploy.detection import Box
from fer_deploy.detection.suppress import keep_best


def test_a_box_has_a_size_and_a_centre() -> None:
    box = Box(-2, 3, 4, 11, 0.5)
    assert (box.width, box.height, box.area, box.centre) == (6, 8, 48, (1, 7))


@pytest.mark.parametrize("edges", [(0, 0, 0, 1), (0, 2, 1, 1), (math.nan, 0, 1, 1), (0, 0, math.inf, 1)])
def test_an_empty_or_endless_box_is_refused(edges: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="left < right"):
        Box(*edges)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Box(0, 0, 10, 10), 1.0),
        (Box(10, 0, 20, 10), 0.0),
        (Box(30, 30, 31, 31), 0.0),
        (Box(5, 0, 15, 10), 1 / 3),
        (Box(2, 2, 4, 4), 4 / 100),
    ],
)
def test_overlap_is_intersection_over_union(other: Box, expected: float) -> None:
    box = Box(0, 0, 10, 10)
    assert box.overlap(other) == pytest.approx(expected)
    assert other.overlap(box) == pytest.approx(expected)


def test_the_best_box_of_each_face_is_kept() -> None:
    weak, strong, apart = Box(0, 0, 10, 10, 0.6), Box(1, 0, 11, 10, 0.9), Box(50, 0, 60, 10, 0.7)
    assert keep_best([weak, strong, apart], maximum_overlap=0.4) == [strong, apart]
    assert keep_best([weak, strong, apart], maximum_overlap=0.9) == [strong, apart, weak]
    assert keep_best([], maximum_overlap=0.4) == []
