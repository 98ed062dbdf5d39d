"""Each member's own probabilities, which a fusion is checked by and an app has no use for."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from fer_deploy.export.passes.edit import keep
from fer_deploy.model.contract import OUTPUT_NAME

MEMBER_PREFIX = "member_"
"""A value named this and a number holds the probabilities of that member."""


def hide_members(model: onnx.ModelProto) -> onnx.ModelProto:
    """Leave the graph the one output of the contract. The members' values keep their names inside it."""
    outputs = model.graph.output
    keep(outputs, [position for position, value in enumerate(outputs) if value.name == OUTPUT_NAME])
    return model


def show_members(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make each member's probabilities, float32 (n, classes), outputs after the contract's: `member_0`, `member_1`, ...

    The undoing of `hide_members`. A graph of one network has none, and stays as it is.
    """
    names = {name for node in model.graph.node for name in node.output}
    (answer,) = (value for value in model.graph.output if value.name == OUTPUT_NAME)
    classes = answer.type.tensor_type.shape.dim[1].dim_value
    number = 0
    while f"{MEMBER_PREFIX}{number}" in names:
        name = f"{MEMBER_PREFIX}{number}"
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, classes]))
        number += 1
    return model
