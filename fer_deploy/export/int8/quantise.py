"""Quantising a model: activations to unsigned 8 bits, weights to signed 8 bits, in ONNX's QDQ format.

A processor without VNNI multiplies u8 by s8 in pairs and adds each pair into 16 bits, which saturates where the two
weights together exceed 128 (255 * 128 = 32640 <= 32767). Scales are therefore chosen so that no two weights of an
output do, whichever of them the engine pairs: a file gives the same answers on every processor. The usual remedy, 7-bit
weights, limits each to 64. A folded skip is one weight of about 1 among small ones, and 7 bits would leave the small
ones about five bits. OpenVINO and ONNX Runtime both describe the effect in their documentation of quantisation.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fer_deploy.export.int8.ranges import Int8Settings, Ranges, activation_ranges, batches_of, quantised_nodes
from fer_deploy.export.passes import run_passes
from fer_deploy.export.passes.metadata import strip_metadata
from fer_deploy.export.passes.unused import drop_unused
from fer_deploy.export.passes.versions import set_versions
from fer_deploy.faces.dataset import Faces
from fer_deploy.model.contract import INPUT_NAME

PAIR_LIMIT = 128
"""The largest sum of two weights of an output that have the same sign: 16 bits hold 255 times it."""


def to_int8(
    model: onnx.ModelProto, calibration: Faces, *, settings: Int8Settings, ranges: Ranges | None = None
) -> onnx.ModelProto:
    """A copy of `model` that computes its networks in integers; preprocessing, softmax and fusion stay in float.

    Args:
        model: as `build_model` returns it.
        calibration: faces of the Training split, on which the ranges of activations are measured.
        settings: what to quantise, and how.
        ranges: the activations' ranges, where they were measured before with the same operators.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    nodes = quantised_nodes(model, settings)
    if ranges is None:
        ranges = activation_ranges(model, calibration, settings=settings)
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    with silence(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            copied,
            path,
            CalibrationReader(model, calibration.take(np.arange(min(2, len(calibration))))),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(settings.operators),
            per_channel=settings.per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[node for node in nodes if node not in settings.float_layers],
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "TensorQuantOverrides": {
                    name: [{"rmin": np.float32(low), "rmax": np.float32(high)}] for name, (low, high) in ranges.items()
                }
                | _weight_scales(model, per_channel=settings.per_channel)
            },
        )
        quantised = onnx.load(path)
    return run_passes(quantised, (_strip_metadata_and_rename, drop_unused, set_versions))


def unsaturable_scales(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """A scale for each row of `weight`, float32 (outputs, inputs) to (outputs,), see PAIR_LIMIT.

    Rounding moves each of two weights by half a step at most, so one step is kept in reserve.
    """
    ordered = np.sort(weight, axis=1)
    most = np.abs(ordered[:, [0, -1]]).max(axis=1)
    if weight.shape[1] > 1:
        upper, lower = ordered[:, -2:].clip(min=0).sum(axis=1), -ordered[:, :2].clip(max=0).sum(axis=1)
        most = np.maximum(most, np.maximum(upper, lower))
    scales: NDArray[np.float32] = np.maximum(most / (PAIR_LIMIT - 1), np.finfo(np.float32).tiny).astype(np.float32)
    return scales


def _weight_scales(model: onnx.ModelProto, *, per_channel: bool) -> dict[str, list[dict[str, Any]]]:
    """onnxruntime's overrides that set our scales for the weights of every convolution and linear layer."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    overrides: dict[str, list[dict[str, Any]]] = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm") or node.input[1] not in weights:
            continue
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else 1
        values = np.moveaxis(onnx.numpy_helper.to_array(weights[node.input[1]]), axis, 0)
        scales = unsaturable_scales(values.reshape(len(values), -1))
        place: dict[str, Any] = {"axis": axis} if per_channel else {}
        overrides[node.input[1]] = [
            {**place, "scale": scale, "zero_point": np.int8(0)} for scale in (scales if per_channel else [scales.max()])
        ]
    return overrides


def _strip_metadata_and_rename(model: onnx.ModelProto) -> onnx.ModelProto:
    """`strip_metadata`, then name each node by its output: quantisation tools find nodes by their names."""
    model = strip_metadata(model)
    for node in model.graph.node:
        node.name = node.output[0]
    return model


class CalibrationReader:
    """Faces for onnxruntime's calibration, 16 at a time or as many as the model takes."""

    def __init__(self, model: onnx.ModelProto, faces: Faces) -> None:
        self._batches = batches_of(model, faces, at_once=16)
        self._next = 0

    def get_next(self) -> dict[str, Any] | None:
        """The next faces, or None."""
        pictures = self._batches[self._next : self._next + 1]
        self._next += 1
        return {INPUT_NAME: pictures[0]} if pictures else None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (inputs := self.get_next()) is not None:
            yield inputs

    def rewind(self) -> None:
        """Start again."""
        self._next = 0


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep onnxruntime's advice, which goes to the root logger, from the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)
