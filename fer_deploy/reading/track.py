"""Follow faces from frame to frame: a number that stays with each.

Boxes of one frame are matched with the tracks that were there before, nearest first, by overlap, or, for fast faces in
slow videos, by how far the centre moved. There is no look at the face itself: somebody who leaves and comes back later
gets a new number, and nobody is recognised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fer_deploy.detection.box import Box

MINIMUM_OVERLAP = 0.2
"""Boxes that overlap a track's last one by more (intersection over union) may continue it."""

MAXIMUM_MOVE = 0.8
"""So may boxes whose centre moved by less than this many of the face's sizes, if the size is like."""

MAXIMUM_GAP_S = 0.7
"""A track that was not seen for longer is over, if frames came in between."""


@dataclass
class _Track:
    number: int
    box: Box
    seen_s: float


class Tracker:
    """Gives numbers to faces, from 1. The same boxes in the same order give the same numbers."""

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._last = 0
        self._before_s = 0.0

    def update(self, boxes: Sequence[Box], time_s: float) -> list[int]:
        """The track of each box of one frame.

        Args:
            boxes: the frame's faces.
            time_s: the frame's time in seconds, not before the last frame's.

        Returns:
            A number for each box, no two alike.
        """
        self._tracks = [
            track for track in self._tracks if track.seen_s >= self._before_s or time_s - track.seen_s <= MAXIMUM_GAP_S
        ]
        self._before_s = time_s
        pairs = [
            (likeness, position, track)
            for position, box in enumerate(boxes)
            for track in self._tracks
            if (likeness := _likeness(track.box, box)) > 0
        ]
        pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2].number))
        found: dict[int, _Track] = {}
        taken: set[int] = set()
        for _, position, track in pairs:
            if position not in found and track.number not in taken:
                found[position] = track
                taken.add(track.number)
        numbers = []
        for position, box in enumerate(boxes):
            known = found.get(position)
            if known is None:
                self._last += 1
                known = _Track(self._last, box, time_s)
                self._tracks.append(known)
            known.box, known.seen_s = box, time_s
            numbers.append(known.number)
        return numbers


def _likeness(old: Box, new: Box) -> float:
    """Above 0 when `new` may be `old` a moment later; larger for the likelier."""
    overlap = old.overlap(new)
    if overlap > MINIMUM_OVERLAP:
        return 1 + overlap
    size = math.sqrt(math.sqrt(old.area * new.area))
    if not 0.5 < math.sqrt(new.area / old.area) < 2:
        return 0.0
    (old_x, old_y), (new_x, new_y) = old.centre, new.centre
    moved = math.hypot(old_x - new_x, old_y - new_y) / size
    return max(0.0, 1 - moved / MAXIMUM_MOVE)
