"""Whether this processor computes an int8 file exactly: ONNX Runtime compared with an exact evaluation of the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from fer_deploy import machine
from fer_deploy.export.int8.ranges import batches_of
from fer_deploy.faces.dataset import Faces
from fer_deploy.model.contract import INPUT_NAME
from fer_deploy.model.session import start_session

INTEGER_FEATURES = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Processor features that multiply 8-bit numbers without saturating."""


@dataclass(frozen=True)
class ExactAnswers:
    """How far a file's answers in ONNX Runtime are from those of onnx's reference evaluator."""

    faces: int
    max_difference: float
    mean_difference: float
    """Of the probabilities."""
    processor: str

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "faces": self.faces,
            "max_difference": self.max_difference,
            "mean_difference": self.mean_difference,
            "reference": f"onnx {onnx.__version__}'s reference evaluator",
        }


def compare_exactly(model: onnx.ModelProto, faces: Faces) -> ExactAnswers:
    """Compare ONNX Runtime's answers of a quantised `model` with onnx's reference evaluator's, on `faces` of one size.

    The evaluator computes with the numbers that the integers represent, and saturates nowhere. Single values that lie
    between two steps may be rounded either way, which moves a face's probabilities by some thousandths.
    """
    from onnx.reference import ReferenceEvaluator

    readable = onnx.ModelProto()
    readable.CopyFrom(model)
    readable.opset_import[0].version = 19  # the evaluator knows QuantizeLinear from 19 on; 18 means the same for 8 bits
    evaluator = ReferenceEvaluator(readable)
    session = start_session(model.SerializeToString(deterministic=True))
    parts = []
    for pictures in batches_of(model, faces, at_once=len(faces)):
        inputs = {INPUT_NAME: pictures}
        (expected,) = evaluator.run(None, inputs)
        parts.append(np.abs(session.run(None, inputs)[0] - np.asarray(expected)))
    differences = np.concatenate(parts)[: len(faces)]
    return ExactAnswers(len(differences), float(differences.max()), float(differences.mean()), processor())


def processor() -> str:
    """The processor's name, and its instructions that multiply 8-bit numbers without saturating."""
    features = machine.processor_features(INTEGER_FEATURES)
    return f"{machine.processor_name()} ({', '.join(sorted(features)) or 'no VNNI known of'})"
