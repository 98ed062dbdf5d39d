"""The file asks for what old engines have: one operator set, one format version, no library."""

from __future__ import annotations

import onnx

from fer_deploy.errors import ExportError
from fer_deploy.model.contract import IR_VERSION, OPSET_VERSION


def set_versions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Set the format to IR version 8, once it is certain that all of the graph is in operator set 18.

    ExportError when a node is outside the default domain, or the exporter wrote another operator set than it was
    asked for. No element type or field of the graph is newer than IR version 8.
    """
    foreign = sorted(
        {f"{node.domain}::{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    )
    if foreign or len(model.functions):
        raise ExportError(
            f"only standard operators may be exported, and the graph has {', '.join(foreign) or 'functions'}"
        )
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("") != OPSET_VERSION:
        raise ExportError(f"the exporter wrote operator set {versions.get('')} instead of {OPSET_VERSION}")
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET_VERSION))
    model.ir_version = IR_VERSION
    return model
