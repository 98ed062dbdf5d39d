"""Short names that say what a thing is, the same whatever torch calls its internals this year."""

from __future__ import annotations

from collections import Counter

import onnx


def plain_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name each node by its operator and a running number (`conv_3`), its outputs alike, and each weight by the node
    that reads it first (`conv_3.weight`). Inputs and outputs of the graph keep their names."""
    graph = model.graph
    ends = {value.name for value in (*graph.input, *graph.output)}
    weights = {tensor.name for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for node in graph.node:
        kind = node.op_type.lower()
        node.name = f"{kind}_{counts[kind]}"
        counts[kind] += 1
        for position, name in enumerate(node.input):
            if name in weights and name not in renamed:
                renamed[name] = f"{node.name}.{_role(node.op_type, position)}"
            node.input[position] = renamed.get(name, name)
        for position, name in enumerate(node.output):
            if name not in ends:
                renamed[name] = node.name if position == 0 else f"{node.name}.{position}"
                node.output[position] = renamed[name]
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    return model


def _role(operator: str, position: int) -> str:
    roles = {"Conv": ("input", "weight", "bias"), "Gemm": ("input", "weight", "bias")}.get(operator, ())
    return roles[position] if position < len(roles) else f"input_{position}"
