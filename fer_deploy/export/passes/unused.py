"""Nothing stays in the file that no answer depends on."""

from __future__ import annotations

import onnx

from fer_deploy.export.passes.edit import keep


def drop_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the nodes and weights from which no path leads to an output of the graph."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    kept = []
    for position in range(len(graph.node) - 1, -1, -1):
        node = graph.node[position]
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(position)
    keep(graph.node, kept)
    keep(graph.initializer, [index for index, tensor in enumerate(graph.initializer) if tensor.name in needed])
    return model
