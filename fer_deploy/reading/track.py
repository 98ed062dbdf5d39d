"""Follow faces from frame to frame and give each a number.

The boxes of a frame are matched with the existing tracks, best match first: by overlap or, for fast faces at low frame
rates, by how far the centre moved. The face's pixels are not compared: people are not recognised, and someone who
leaves and returns later gets a new number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fer_deploy.detection.box import Box

MINIMUM_OVERLAP = 0.2
"""A box may continue a track if it overlaps the track's last box by more than this (intersection over union)."""

MAXIMUM_MOVE = 0.8
"""It also may if its centre moved by less than this multiple of the face's size and the size is similar."""

MAXIMUM_GAP_S = 0.7
"""A track ends if its face was missing for longer than this and from at least one frame."""


@dataclass
class _Track:
    number: int
    box: Box
    seen_s: float


class Tracker:
    """Numbers faces from 1. The same boxes in the same order get the same numbers."""

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._last = 0
        self._previous_s = 0.0

    def update(self, boxes: Sequence[Box], time_s: float) -> list[int]:
        """Match the boxes of the next frame.

        Args:
            boxes: the frame's faces.
            time_s: the frame's time in seconds, not earlier than the last frame's.

        Returns:
            The track of each box, all different.
        """
        self._tracks = [
            track
            for track in self._tracks
            if track.seen_s >= self._previous_s or time_s - track.seen_s <= MAXIMUM_GAP_S
        ]
        self._previous_s = time_s
        pairs = [
            (likeness, position, track)
            for position, box in enumerate(boxes)
            for track in self._tracks
            if (likeness := _likeness(track.box, box)) > 0
        ]
        pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2].number))
        matches: dict[int, _Track] = {}
        taken: set[int] = set()
        for _, position, track in pairs:
            if position not in matches and track.number not in taken:
                matches[position] = track
                taken.add(track.number)
        numbers = []
        for position, box in enumerate(boxes):
            known = matches.get(position)
            if known is None:
                self._last += 1
                known = _Track(self._last, box, time_s)
                self._tracks.append(known)
            known.box, known.seen_s = box, time_s
            numbers.append(known.number)
        return numbers


def _likeness(old: Box, new: Box) -> float:
    """Above 0 if `new` may be `old` a moment later; larger for a better match."""
    overlap = old.overlap(new)
    if overlap > MINIMUM_OVERLAP:
        return 1 + overlap
    size = math.sqrt(math.sqrt(old.area * new.area))
    if not 0.5 < math.sqrt(new.area / old.area) < 2:
        return 0.0
    (old_x, old_y), (new_x, new_y) = old.centre, new.centre
    moved = math.hypot(old_x - new_x, old_y - new_y) / size
    return max(0.0, 1 - moved / MAXIMUM_MOVE)
