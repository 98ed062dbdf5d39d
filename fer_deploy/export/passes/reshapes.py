"""Reshapes whose target repeats their input's axes need not read them at run time.

Torch's `flatten` of a tensor of any size becomes Shape, Mul, Reshape and Concat nodes that put the target together on
every call; ONNX writes the same as the constant [0, 0, -1].
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def reshape_by_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give every Reshape whose target is `(axis 0, axis 1, ..., one more)` a constant target.

    The target must be a Concat of the input's own leading axes and at most one other number, which becomes -1: a
    reshape keeps the count of elements, so the rest of the target decides it.
    """
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        concat = producers.get(node.input[1]) if node.op_type == "Reshape" else None
        if concat is None or concat.op_type != "Concat":
            continue
        target = [
            0 if _is_axis(producers.get(part), node.input[0], position) else -1
            for position, part in enumerate(concat.input)
        ]
        if target.count(-1) > 1:
            continue
        name = f"{node.output[0]}.target"
        graph.initializer.append(numpy_helper.from_array(np.array(target, np.int64), name))
        # without `allowzero`, which torch's exporter sets everywhere, a 0 stands for the input's axis
        node.CopyFrom(helper.make_node("Reshape", [node.input[0], name], list(node.output)))
    return model


def _is_axis(shape: onnx.NodeProto | None, data: str, axis: int) -> bool:
    """Whether `shape` reads just this axis of `data`."""
    if shape is None or shape.op_type != "Shape" or shape.input[0] != data:
        return False
    values = {attribute.name: attribute.i for attribute in shape.attribute}
    return values.get("start", 0) == axis and values.get("end") == axis + 1
