"""Of boxes that mean the same face, keep the one that the detector is surest of."""

from __future__ import annotations

from collections.abc import Iterable

from fer_deploy.detection.box import Box


def keep_best(boxes: Iterable[Box], *, maximum_overlap: float) -> list[Box]:
    """Non-maximum suppression.

    Args:
        boxes: any number of boxes.
        maximum_overlap: boxes that overlap a better one by more (intersection over union) go.

    Returns:
        The boxes kept, best first.
    """
    kept: list[Box] = []
    for box in sorted(boxes, key=lambda each: -each.score):
        if all(box.overlap(other) <= maximum_overlap for other in kept):
            kept.append(box)
    return kept
