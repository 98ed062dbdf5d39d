"""Weights in half precision: half the bytes, the same arithmetic."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALLEST = 64
"""Weights of fewer numbers stay float32: a Cast node would take more bytes than they save."""


def store_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store each float32 weight as float16, with a Cast back to float32 in front of its readers.

    Engines fold the Cast when they load the file, so that it costs nothing per answer, and compute in float32, which is
    the faster on processors. Weights that half precision can't hold (above 65504) stay float32.
    """
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < SMALLEST or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model
