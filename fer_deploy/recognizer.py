"""The runtime: load one exported ONNX file and classify the emotion of faces. Needs numpy and ONNX Runtime alone.

The file does all the work. It takes uint8 pictures of any size; luma, resizing, normalisation, networks, fusion and
softmax are inside its graph. An app in another language uses the file in the same way.

    >>> import numpy as np
    >>> from fer_deploy import Recognizer
    >>> recognizer = Recognizer(model)              # doctest: +SKIP
    >>> face = np.full((64, 64), 128, np.uint8)     # or a path, bytes or a Pillow image; grey or RGB, any size
    >>> recognizer.predict(face).label              # doctest: +SKIP
    'neutral'
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from fer_deploy.detection.box import Box
from fer_deploy.errors import DataError, FerDeployError
from fer_deploy.files import shown
from fer_deploy.machine import MAXIMUM_THREADS
from fer_deploy.model.contract import ModelContract
from fer_deploy.model.names import default_model
from fer_deploy.model.session import Model, open_model
from fer_deploy.pictures import (
    Pixels,
    array_to_rgb,
    channel_first_remedy,
    read_picture,
    refuse_flat_table,
    require_uint8,
)

if TYPE_CHECKING:
    from PIL import Image

    from fer_deploy.detection.detector import FaceDetector

__all__ = ["Box", "Face", "Recognition", "Recognizer"]

Face: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]"
"""One face's picture: a path, an encoded picture's bytes, a Pillow image, or a uint8 array."""

_BATCH = 64
"""Faces per call of ONNX Runtime: larger batches are no faster on a CPU and cost memory."""

_BATCH_BYTES = 32 * 1024 * 1024
"""Bytes of pixels per call, at most: 64 large pictures at once would take too much memory."""


@dataclass(frozen=True, eq=False)
class Recognition:
    """A model's answer for one face.

    Attributes:
        label: the most probable label; the first in label order where two are equal.
        probabilities: each label's probability, in the model's label order; they sum to 1.
        box: where the face is in its photo, in pixels; None if the picture was a cropped face.

    >>> Recognition.from_row([0.1, 0, 0, 0.9, 0, 0, 0], ["angry", "disgust", "fear", "happy", "sad", "surprise",
    ...                                                  "neutral"]).label
    'happy'
    """

    label: str
    probabilities: Mapping[str, float]
    box: Box | None = None

    @classmethod
    def from_row(
        cls, row: Sequence[float] | NDArray[Any], labels: Sequence[str], *, box: Box | None = None
    ) -> Recognition:
        """The result for one row of probabilities.

        Args:
            row: one probability for each label.
            labels: the labels, in the row's order.
            box: where the face is.

        Raises:
            ValueError: row and labels differ in length.
        """
        named = dict(zip(labels, map(float, row), strict=True))
        return cls(max(named, key=named.__getitem__), MappingProxyType(named), box)

    @property
    def probability(self) -> float:
        """The probability of `label`. If the model is well calibrated, this share of such answers is right."""
        return self.probabilities[self.label]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: label, probabilities, and box as {left, top, right, bottom, score} or None."""
        box = self.box
        return {
            "label": self.label,
            "probabilities": dict(self.probabilities),
            "box": None
            if box is None
            else {"left": box.left, "top": box.top, "right": box.right, "bottom": box.bottom, "score": box.score},
        }

    def __reduce__(self) -> tuple[Any, ...]:  # a mappingproxy cannot be pickled, and results are sent between processes
        return _restore, (self.label, dict(self.probabilities), self.box)


def _restore(label: str, probabilities: dict[str, float], box: Box | None) -> Recognition:
    return Recognition(label, MappingProxyType(probabilities), box)


class Recognizer:
    """One exported ONNX file, ready to classify faces.

    It can be shared between threads, used in a process that was forked from this one, pickled and copied. A pickled
    recognizer carries its file, so that it opens on another machine as well.

    Args:
        model: an exported `.onnx` file, or its bytes. None uses the model inside this package; if there is none (in a
            checkout before a release), one of the workspace's `exports/`.
        threads: ONNX Runtime's threads within one call, 1 to 1,024; None lets it use all cores. For many requests at
            once, 1 thread per call and as many callers as cores gives the most faces per second.
        providers: where to compute, best first: short names (`cpu`, `cuda`, ...) or ONNX Runtime's. The first must
            really be in use: ONNX Runtime's silent step down to the CPU is an error here.
        source: what to call a model that is given as bytes, in errors.

    Raises:
        ModelFileError: the file is missing, unsafe, or breaks the contract (input `faces`, output `probabilities`).
        UnavailableError: a provider is absent or cannot be started.
        ValueError: `threads` is not a whole number from 1 to 1,024.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | None = None,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        source: str = "the model's bytes",
    ) -> None:
        is_count = isinstance(threads, int) and not isinstance(threads, bool) and 1 <= threads <= MAXIMUM_THREADS
        if threads is not None and not is_count:
            raise ValueError(f"threads must be a whole number from 1 to {MAXIMUM_THREADS:,}, got {threads!r}")
        model = default_model() if model is None else model
        self.__setstate__(open_model(model, source=source, threads=threads, providers=providers))

    def __getstate__(self) -> Model:
        return self._model  # which carries its file; the lock and the detector stay behind

    def __setstate__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._detector: FaceDetector | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the probabilities."""
        return self._model.contract.labels

    @property
    def metadata(self) -> dict[str, str]:
        """The file's `metadata_props`, as strings; `labels`, `members` and `weights` are JSON lists."""
        return dict(self._model.contract.metadata)

    @property
    def contract(self) -> ModelContract:
        """What the file states about itself: name, precision, members, weights, shape, SHA-256."""
        return self._model.contract

    @property
    def name(self) -> str:
        """The model's name, as in `B+E`; from the file's name if its metadata has none."""
        return self._model.contract.name

    @property
    def source(self) -> str:
        """Where the model was read from, printable."""
        return self.contract.source

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's execution providers in use, first choice first."""
        return self._model.providers

    def __repr__(self) -> str:
        return f"Recognizer({self.source!r}, threads={self._model.threads}, providers={list(self.providers)})"

    @overload  # a string is an iterable of strings as well, but here it is a path
    def predict(  # type: ignore[overload-overlap]
        self, faces: str | os.PathLike[str] | bytes | Image.Image
    ) -> Recognition: ...
    @overload
    def predict(self, faces: np.ndarray[tuple[int, int], Any]) -> Recognition: ...
    @overload
    def predict(self, faces: np.ndarray[tuple[int, int, int, int], Any]) -> list[Recognition]: ...
    @overload
    def predict(self, faces: NDArray[Any]) -> Any: ...
    @overload
    def predict(self, faces: Iterable[Face]) -> list[Recognition]: ...

    def predict(self, faces: Face | Iterable[Face]) -> Recognition | list[Recognition]:
        """Classify one face, or many.

        Args:
            faces: one face: a path, an encoded picture's bytes, a Pillow image, or a uint8 array, grey
                (height, width), (height, width, 1), RGB (height, width, 3) or RGBA (height, width, 4). Many: an
                iterable of these, of mixed kinds and sizes, or an array (n, height, width, 3) or, grey,
                (n, height, width). In each picture one face must fill the picture; `read_photo` takes whole photos.

        Returns:
            One `Recognition` for one face; for many, a list in the same order.

        Raises:
            DataError: a picture cannot be read. The message names it, or gives its position in a list.
            ModelFileError: the model computed no probabilities.

        Warns:
            UserWarning: a picture was read, but perhaps not as intended: an animation, or 16-bit samples that use a
                small part of their range.
        """
        if isinstance(faces, np.ndarray):
            if not _is_stack(faces):
                refuse_flat_table(faces)
                return self._predict_pixels([array_to_rgb(faces)])[0]
            return self._predict_pixels(array_to_rgb(face, name=f"array[{i}]") for i, face in enumerate(faces))
        if isinstance(faces, (str, os.PathLike, bytes, bytearray, memoryview)) or _is_pillow(faces):
            return self._predict_pixels([_read(faces)])[0]
        if hasattr(faces, "read"):
            raise DataError("cannot read a face from an open file: give its content, file.read()")
        if hasattr(faces, "__array__") or not isinstance(faces, Iterable):
            read_picture(faces)  # type: ignore[arg-type]  # which names what it cannot read
        return self._predict_pixels(_read_each(faces))  # type: ignore[arg-type]

    def read_photo(self, photo: Face, *, detector: FaceDetector | None = None) -> list[Recognition]:
        """Find the faces in a photo and classify each.

        Args:
            photo: a path, an encoded picture's bytes, a Pillow image, or a uint8 array, as for `predict`.
            detector: finds the faces; None starts the installed one at the first call and keeps it. Needs the extra
                `faces`: `pip install 'fer-deploy[faces]'`.

        Returns:
            One `Recognition` per face from left to right, each with its `box` in pixels of the upright photo; empty if
            no face was found.

        Raises:
            DataError: the photo cannot be read.
            UnavailableError: no detector is installed.
        """
        return self.read_pixels(_read(photo), detector=detector)

    def read_pixels(self, pixels: Pixels, *, detector: FaceDetector | None = None) -> list[Recognition]:
        """As `read_photo`, for decoded pixels such as a video's frame: uint8 (height, width, 3), RGB, upright."""
        detector = detector or self._default_detector()
        boxes = detector.detect(pixels)
        rows = self.probabilities_of([detector.crop(pixels, box) for box in boxes])
        return [Recognition.from_row(row, self.labels, box=box) for row, box in zip(rows, boxes, strict=True)]

    def _default_detector(self) -> FaceDetector:
        from fer_deploy.detection.detector import FaceDetector

        with self._lock:
            if self._detector is None:
                self._detector = FaceDetector()
            return self._detector

    def probabilities(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The file's output for a batch of faces of one size.

        Args:
            faces: uint8 (n, height, width, 3), RGB; n may be 0.

        Returns:
            float32 (n, classes), rows summing to 1, in the order of `labels`.

        Raises:
            DataError: wrong type or shape, or another size than the one that the file is fixed to.
            ModelFileError: ONNX Runtime failed, or the file computed no probabilities.
        """
        if not isinstance(faces, np.ndarray):
            raise DataError(f"faces must be a uint8 array (n, height, width, 3), got {type(faces).__name__}")
        require_uint8(faces, name="faces")
        if faces.ndim != 4 or faces.shape[3] != 3:
            remedy = channel_first_remedy(faces.shape)
            raise DataError(f"faces must have the shape (n, height, width, 3), got {faces.shape}{remedy}")
        if faces.shape[0] == 0:
            return np.zeros((0, len(self.labels)), np.float32)
        if 0 in faces.shape:
            raise DataError(f"faces without pixels, shape {faces.shape}")
        fixed_batch, *fixed_size = self._model.contract.shape
        for side, fixed, got in zip(("height", "width"), fixed_size, faces.shape[1:3], strict=True):
            if fixed is not None and fixed != got:
                raise DataError(
                    f"{self.source} takes faces of {side} {fixed} only, got {got}: resize them, or use a file exported "
                    "without --static"
                )
        count = fixed_batch or max(1, min(_BATCH, _BATCH_BYTES // faces[0].nbytes))
        parts = [self._model(faces[start : start + count]) for start in range(0, len(faces), count)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def probabilities_of(self, faces: Sequence[Pixels]) -> NDArray[np.float32]:
        """As `probabilities`, for faces of mixed sizes: faces of one size are classified together.

        Args:
            faces: pictures, each uint8 (height, width, 3), RGB. Pictures of one size are copied once.

        Returns:
            float32 (n, classes), one row per face, in the same order.

        Raises:
            DataError, ModelFileError: as `probabilities`.
        """
        rows = np.empty((len(faces), len(self.labels)), np.float32)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for position, pixels in enumerate(faces):
            by_size.setdefault(pixels.shape, []).append(position)
        for positions in by_size.values():
            alone = len(positions) == 1  # a stack would copy it
            stack = faces[positions[0]][np.newaxis] if alone else np.stack([faces[position] for position in positions])
            rows[positions] = self.probabilities(stack)
        return rows

    def _predict_pixels(self, faces: Iterable[Pixels]) -> list[Recognition]:
        """Classify faces of any sizes, a bounded number of bytes at a time."""
        results: list[Recognition] = []
        for chunk in _chunks(faces):
            rows = self.probabilities_of(chunk)
            results.extend(Recognition.from_row(row, self.labels) for row in rows)
        return results


def _is_stack(array: NDArray[Any]) -> bool:
    """Whether an array is many pictures. DataError where it may as well be one, in channels first or grey and alpha."""
    if array.ndim not in (3, 4) or (array.ndim == 3 and array.shape[2] in (1, 3, 4)):
        return False
    require_uint8(array)
    if array.ndim == 3 and array.shape[2] == 2:  # numpy.asarray of a Pillow image of mode LA
        raise DataError(
            f"array: shape {array.shape} may be one picture, grey and alpha, or {len(array)} grey ones of width 2: use "
            f"array[:, :, 0], or list(array) for {len(array)} grey pictures"
        )
    remedy = channel_first_remedy(array.shape)
    if remedy and array.ndim == 4:
        raise DataError(f"array: shape (n, height, width, 3) is needed, got {array.shape}{remedy}")
    if remedy and len(array) > 1:
        raise DataError(
            f"array: shape {array.shape} may be one picture, or {len(array)} grey ones{remedy}, or list(array) for "
            f"{len(array)} grey pictures"
        )
    return True


def _read(face: Any) -> Pixels:
    """A face's or photo's pixels; the notes of the reading become Python warnings."""
    picture = read_picture(face)
    for note in picture.notes:
        name = shown(face) if isinstance(face, (str, os.PathLike)) else type(face).__name__
        warnings.warn(f"{name}: {note}", stacklevel=3)
    return picture.pixels


def _is_pillow(value: object) -> bool:
    # Pillow is not imported for this: a value can be a Pillow image only if the caller has imported Pillow.
    import sys

    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _read_each(faces: Iterable[Any]) -> Iterator[Pixels]:
    for position, face in enumerate(faces):
        try:
            yield _read(face)
        except FerDeployError as error:
            if isinstance(face, (str, os.PathLike)):
                raise
            raise DataError(f"face {position}: {error}") from error


def _chunks(faces: Iterable[Pixels]) -> Iterator[list[Pixels]]:
    chunk: list[Pixels] = []
    size = 0
    for pixels in faces:
        if chunk and size + pixels.nbytes > 4 * _BATCH_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(pixels)
        size += pixels.nbytes
    if chunk:
        yield chunk
