"""Steady the probabilities of a face over time: an exponential average that knows how much time passed.

A single frame is read with the noise of one look. The average weighs a frame `t` seconds back with exp(-t / constant),
whatever the frame rate and however many frames are left out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType

from fer_deploy.recognizer import Recognition

DEFAULT_CONSTANT_S = 0.4
"""The time constant in seconds: long against a frame, short against an expression, which lasts 0.5 to 4 s (Ekman,
Emotions Revealed, 2003)."""


class Smoother:
    """Averages each track's probabilities.

    Args:
        constant_s: the time constant in seconds; 0 smooths nothing.
    """

    def __init__(self, constant_s: float = DEFAULT_CONSTANT_S) -> None:
        if constant_s < 0:
            raise ValueError(f"the time constant must not be negative, got {constant_s}")
        self._constant_s = constant_s
        self._tracks: dict[int, tuple[float, dict[str, float]]] = {}

    def update(self, track: int, face: Recognition, time_s: float) -> Recognition:
        """A face's smoothed result, with its own box.

        Args:
            track: the face's number; its first frame is its own average.
            face: what was read in this frame.
            time_s: the frame's time in seconds.
        """
        before = self._tracks.get(track)
        new = dict(face.probabilities)
        if before is not None and self._constant_s > 0:
            keep = math.exp(-max(0.0, time_s - before[0]) / self._constant_s)
            new = {label: keep * before[1][label] + (1 - keep) * value for label, value in new.items()}
        self._tracks[track] = (time_s, new)
        return replace(face, label=max(new, key=new.__getitem__), probabilities=MappingProxyType(new))
