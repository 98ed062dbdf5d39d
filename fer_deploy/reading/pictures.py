"""Read the faces of one picture, and write its annotated copy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_deploy.detection.detector import FaceDetector
from fer_deploy.pictures import MAXIMUM_BYTES, Picture, Pixels, read_picture
from fer_deploy.reading.inputs import Source
from fer_deploy.recognizer import Recognition, Recognizer


@dataclass(frozen=True)
class FaceReader:
    """Finds the faces of a picture or frame and classifies each.

    Attributes:
        recognizer: the classifier.
        detector: finds the faces; None if each picture is one face.
    """

    recognizer: Recognizer
    detector: FaceDetector | None = None

    def read(self, pixels: Pixels) -> list[Recognition]:
        """The faces of a picture, from left to right: uint8 (height, width, 3), RGB, upright."""
        if self.detector is None:
            return [self.recognizer.predict(pixels)]
        return self.recognizer.read_pixels(pixels, detector=self.detector)


@dataclass(frozen=True)
class PictureFaces:
    """What was read of a picture.

    Attributes:
        faces: from left to right.
        notes: what a user should know, one line each, such as "a.gif: 2 frames or pages: only the first was read".
        turned: whether the picture was turned upright by its EXIF orientation.
    """

    faces: list[Recognition]
    notes: list[str]
    turned: bool


def read_faces(source: Source, reader: FaceReader, *, copy: Path | None = None) -> PictureFaces:
    """Read one picture.

    Args:
        source: the file, or standard input.
        reader: finds and classifies the faces.
        copy: write an annotated copy here; None for no copy.

    Raises:
        DataError: the picture cannot be read, or the copy cannot be written.
    """
    if source.is_standard_input:
        picture = read_picture(sys.stdin.buffer.read(MAXIMUM_BYTES + 1), name="standard input")
    else:
        picture = read_picture(source.path)
    faces = reader.read(picture.pixels)
    if copy is not None:
        _save_annotated(copy, picture, faces)
    return PictureFaces(faces, [f"{source.name}: {note}" for note in picture.notes], picture.turned)


def _save_annotated(path: Path, picture: Picture, faces: Sequence[Recognition]) -> None:
    from fer_deploy.reading.draw import annotate, save  # Pillow's drawing and fonts, which most runs never need

    save(path, annotate(picture.pixels, faces), icc_profile=picture.icc_profile)
