"""Which nodes compute in integers, and the range of values that each of their activations represents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from fer_deploy.export.parity import resized
from fer_deploy.faces.dataset import Faces
from fer_deploy.model.contract import INPUT_NAME, OUTPUT_NAME
from fer_deploy.model.session import start_session

SAMPLES = 128
"""Values of each activation that are kept per face, at random, to choose the activation's range by."""
SHARES = 16
"""Candidate ranges of an activation: equal steps from all that was seen down to a quarter of it."""
FLOAT_PRODUCTS = 16
"""A convolution with fewer products per output, such as the first one's nine on one grey channel, stays in float:
integer kernels spend more on rounding its many outputs than they save (measured: docs/onnx.md). Depthwise ones are
exempt."""

Ranges = Mapping[str, tuple[float, float]]
"""The smallest and the largest value that each activation represents, by its name."""


@dataclass(frozen=True)
class Int8Settings:
    """How a model is quantised."""

    per_channel: bool = True
    """Whether each output channel's weights have their own scale."""
    operators: tuple[str, ...] = ("Conv", "Gemm", "Add", "GlobalAveragePool", "Relu", "Clip", "Mul", "Sigmoid")
    """Operators that compute in integers."""
    float_layers: tuple[str, ...] = ()
    """Nodes that stay in float."""
    clipping: bool = True
    """Whether an activation's range is the one with the least squared error, rather than all that was seen."""


def activation_ranges(model: onnx.ModelProto, faces: Faces, *, settings: Int8Settings) -> Ranges:
    """The range of each activation that the settings quantise, measured on `faces`.

    With clipping, it is the one of SHARES candidates with the least mean squared error of rounding and clipping, over a
    random sample of the values.
    """
    nodes = set(quantised_nodes(model, settings))
    weights = {tensor.name for tensor in model.graph.initializer}
    tensors = dict.fromkeys(
        name
        for node in model.graph.node
        if node.name in nodes
        for name in (*node.input, *node.output)
        if name and name not in weights and name != OUTPUT_NAME
    )
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    observed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors
    )
    session = start_session(observed.SerializeToString())
    generator = np.random.default_rng(0)
    samples: dict[str, list[NDArray[np.float32]]] = {name: [] for name in tensors}
    extremes = dict.fromkeys(tensors, (0.0, 0.0))
    for pictures in batches_of(model, faces, at_once=32):
        outputs = session.run(list(tensors), {INPUT_NAME: pictures})
        kept = SAMPLES * (fixed_batch(model) or 32)
        for name, values in zip(tensors, outputs, strict=True):
            low, high = extremes[name]
            extremes[name] = min(low, float(values.min())), max(high, float(values.max()))
            flat = values.ravel()
            samples[name].append(flat[generator.integers(0, len(flat), kept)] if len(flat) > kept else flat)
    if not settings.clipping:
        return extremes
    return {name: _least_error(np.concatenate(samples[name]), *extremes[name]) for name in tensors}


def _least_error(values: NDArray[np.float32], low: float, high: float) -> tuple[float, float]:
    """The share of (low, high) in which 256 steps represent `values` with the least mean squared error."""
    least, best = np.inf, (low, high)
    for share in np.linspace(1.0, 0.25, SHARES):
        lowest, highest = low * share, high * share
        scale = max((highest - lowest) / 255, 1e-12)
        zero = np.rint(-lowest / scale)
        rounded = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
        error = float(np.square(values - rounded, dtype=np.float64).mean())
        if error < least:
            least, best = error, (float(lowest), float(highest))
    return best


def quantised_nodes(model: onnx.ModelProto, settings: Int8Settings) -> list[str]:
    """Names of the nodes to quantise: from the first convolution of each network to its logits."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    inside: set[str] = set()  # values that depend on a convolution
    floats: set[str] = set()  # outputs of convolutions that stay in float, and of their rectifiers
    nodes = []
    for node in model.graph.node:
        if (node.op_type != "Conv" and not inside.intersection(node.input)) or node.op_type == "Softmax":
            continue
        inside.update(node.output)
        if _is_slight(node, sizes) or (node.op_type in ("Relu", "Clip") and floats.intersection(node.input)):
            floats.update(node.output)
        elif node.op_type in settings.operators:
            nodes.append(node.name)
    return nodes


def _is_slight(node: onnx.NodeProto, sizes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a node is a convolution with too few products per output to gain from integers, see FLOAT_PRODUCTS."""
    if node.op_type != "Conv" or any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute):
        return False
    return math.prod(sizes[node.input[1]][1:]) < FLOAT_PRODUCTS


def fixed_batch(model: onnx.ModelProto) -> int:
    """The number of faces that `model` takes at a time; 0 for any number."""
    return int(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)


def batches_of(model: onnx.ModelProto, faces: Faces, *, at_once: int) -> list[NDArray[np.uint8]]:
    """The faces as pictures, uint8 (n, h, w, 3), in batches of `at_once` or of the size that `model` fixes.

    If the model fixes height and width, the faces are resized to them. If it fixes the batch, the last one is filled
    up with the first faces.
    """
    fixed, height, width = (dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[:3])
    images = faces.images
    images = resized(images, height=height or images.shape[1], width=width or images.shape[2])
    pictures = np.repeat(images[..., None], 3, axis=3)
    if fixed:
        at_once = fixed
        pictures = pictures[np.arange(-(-len(faces) // fixed) * fixed) % len(faces)]
    return [pictures[start : start + at_once] for start in range(0, len(pictures), at_once)]
