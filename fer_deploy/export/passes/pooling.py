"""The mean over height and width is written as the operator made for it.

ONNX Runtime keeps convolutions in a blocked layout and can pool in it, but has to leave it for a general mean: every
squeeze-and-excitation would cost two changes of layout.
"""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper, shape_inference


def pool_globally(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn every ReduceMean of a tensor of four axes over the last two, which keeps them, into a GlobalAveragePool."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    means = [
        node for node in graph.node if node.op_type == "ReduceMean" and node.input[1:] and node.input[1] in constants
    ]
    if not means:
        return model
    inferred = shape_inference.infer_shapes(model).graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*inferred.value_info, *inferred.input)}
    for node in means:
        keeps = next((attribute.i for attribute in node.attribute if attribute.name == "keepdims"), 1)
        axes = sorted(int(axis) % 4 for axis in numpy_helper.to_array(constants[node.input[1]]).ravel())
        if keeps and axes == [2, 3] and ranks.get(node.input[0]) == 4:
            node.CopyFrom(helper.make_node("GlobalAveragePool", [node.input[0]], list(node.output)))
    return model
