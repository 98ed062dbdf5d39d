"""What the graph computes or stores twice, it computes and stores once."""

from __future__ import annotations

import onnx

from fer_deploy.export.passes.edit import keep


def merge_duplicates(model: onnx.ModelProto) -> onnx.ModelProto:
    """Merge weights of equal content, and nodes of the same operator, attributes and inputs.

    Members of the same input size thus share their preprocessing, and a network that is used twice keeps its weights
    once. Outputs of the graph keep their names.
    """
    graph = model.graph
    renamed: dict[str, str] = {}
    tensors: dict[bytes, str] = {}
    kept_tensors = []
    for position, tensor in enumerate(graph.initializer):
        first = tensors.setdefault(_content(tensor), tensor.name)
        renamed[tensor.name] = first
        if first == tensor.name:
            kept_tensors.append(position)
    outputs = {value.name for value in graph.output}
    nodes: dict[tuple[object, ...], onnx.NodeProto] = {}
    kept_nodes = []
    for position, node in enumerate(graph.node):
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        first_node = nodes.setdefault((node.op_type, node.domain, *node.input, *attributes, len(node.output)), node)
        if first_node is node or outputs.intersection(node.output):
            kept_nodes.append(position)
        else:
            renamed.update(zip(node.output, first_node.output, strict=True))
    keep(graph.initializer, kept_tensors)
    keep(graph.node, kept_nodes)
    return model


def _content(tensor: onnx.TensorProto) -> bytes:
    """Type, shape and values of a tensor, without its name."""
    nameless = onnx.TensorProto()
    nameless.CopyFrom(tensor)
    nameless.ClearField("name")
    content: bytes = nameless.SerializeToString(deterministic=True)
    return content
