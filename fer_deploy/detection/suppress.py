"""Among boxes around one face, keep the one with the highest score."""

from __future__ import annotations

from collections.abc import Iterable

from fer_deploy.detection.box import Box


def keep_best(boxes: Iterable[Box], *, maximum_overlap: float) -> list[Box]:
    """Greedy non-maximum suppression.

    Args:
        boxes: any number of boxes.
        maximum_overlap: drop a box that overlaps a better one by more than this (intersection over union).

    Returns:
        The boxes kept, best first.
    """
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda candidate: -candidate.score):
        if all(box.overlap(other) <= maximum_overlap for other in kept):
            kept.append(box)
    return kept
