"""Nothing of the machine that exported stays in the file.

torch's exporter writes, into the metadata of every node and value, the stack trace that led to it: local paths, user
names, source lines.
"""

from __future__ import annotations

import onnx

PRODUCER = "ferdeploy"
"""What the file says wrote it. The version is in the metadata, so that equal graphs have equal bytes here."""


def strip_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove descriptions, metadata and intermediate types from `model`, its graph, nodes, values and weights."""
    model.producer_name = PRODUCER
    for field in ("producer_version", "domain", "model_version", "doc_string", "metadata_props"):
        model.ClearField(field)
    graph = model.graph
    graph.name = PRODUCER
    for field in ("doc_string", "metadata_props", "value_info", "quantization_annotation"):
        graph.ClearField(field)
    for node in graph.node:
        for field in ("doc_string", "metadata_props", "name", "overload"):
            node.ClearField(field)
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
    for value in (*graph.input, *graph.output, *graph.initializer):
        for field in ("doc_string", "metadata_props"):
            value.ClearField(field)
    return model
