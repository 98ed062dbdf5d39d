"""Smooth the probabilities of a face over time with an exponential average.

The result of a single frame is noisy. The average weights a frame `t` seconds ago with exp(-t / constant), so that the
frame rate and skipped frames do not matter.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType

from fer_deploy.recognizer import Recognition

DEFAULT_CONSTANT_S = 0.4
"""The default time constant in seconds: much longer than a frame and shorter than an expression, which lasts 0.5 to 4
seconds (Ekman, Emotions Revealed, 2003)."""


class Smoother:
    """Averages the probabilities of each track.

    Args:
        constant_s: the time constant in seconds; 0 turns smoothing off.

    Raises:
        ValueError: the constant is negative.
    """

    def __init__(self, constant_s: float = DEFAULT_CONSTANT_S) -> None:
        if constant_s < 0:
            raise ValueError(f"the time constant must not be negative, got {constant_s}")
        self._constant_s = constant_s
        self._tracks: dict[int, tuple[float, dict[str, float]]] = {}

    def update(self, track: int, face: Recognition, time_s: float) -> Recognition:
        """Smooth the next frame of a track; the first frame is its own average.

        Args:
            track: the face's number.
            face: its result in this frame.
            time_s: the frame's time in seconds.

        Returns:
            The smoothed result, with the box of `face`.
        """
        average = dict(face.probabilities)
        if track in self._tracks and self._constant_s > 0:
            last_time_s, last = self._tracks[track]
            keep = math.exp(-max(0.0, time_s - last_time_s) / self._constant_s)
            average = {label: keep * last[label] + (1 - keep) * value for label, value in average.items()}
        self._tracks[track] = (time_s, average)
        return replace(face, label=max(average, key=average.__getitem__), probabilities=MappingProxyType(average))
