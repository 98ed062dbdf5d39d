"""From a classifier in torch to a lean ONNX model: torch's exporter, then our own steps on its result."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import onnx
import torch
from torch import Tensor, nn

from fer_deploy.errors import ExportError, one_line
from fer_deploy.export.graph import FaceClassifier, Member
from fer_deploy.export.passes import PASSES, Pass, run_passes
from fer_deploy.export.passes.members import MEMBER_PREFIX
from fer_deploy.model.contract import INPUT_NAME, OPSET_VERSION, OUTPUT_NAME
from fer_deploy.model.names import DYNAMIC, Shape

_AXES = ("batch", "height", "width")
_EXAMPLE = (2, 53, 61)
"""The tracing example. All axes differ and none is 0 or 1: torch would treat such an axis as fixed."""


def build_model(
    classifier: FaceClassifier, *, shape: Shape = DYNAMIC, fold: bool = True, passes: Sequence[Pass] = PASSES
) -> onnx.ModelProto:
    """The classifier as an ONNX model: input `faces`, output `probabilities`, no metadata yet.

    The same classifier gives the same bytes each time.

    Args:
        classifier: the torch module.
        shape: axes to fix.
        fold: fold batch norms and skips into convolutions first (`fer_deploy.models.fold`). Without it, and with
            `passes=()`, the result is torch's own graph, for comparison.
        passes: the steps after torch's exporter.

    Raises:
        ExportError: torch's exporter or a step fails.
    """
    traced = _Traced(folded(classifier) if fold else classifier)
    example = torch.zeros([fixed or size for fixed, size in zip(shape, _EXAMPLE, strict=True)] + [3], dtype=torch.uint8)
    axes = {
        axis: torch.export.Dim(name)
        for axis, (name, fixed) in enumerate(zip(_AXES, shape, strict=True))
        if fixed is None
    }
    names = [OUTPUT_NAME, *(f"{MEMBER_PREFIX}{number}" for number in range(traced.members))]
    with _quiet():
        try:
            program = torch.onnx.export(
                traced,
                (example,),
                dynamo=True,
                external_data=False,
                dynamic_shapes=(axes or None,),
                opset_version=OPSET_VERSION,
                input_names=[INPUT_NAME],
                output_names=names,
                verbose=False,
            )
        except Exception as error:
            raise ExportError(f"torch's exporter failed: {one_line(error)}") from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return run_passes(model, passes)


def folded(classifier: FaceClassifier) -> FaceClassifier:
    """The same classifier with every batch norm and skip folded into its convolution; networks stay shared."""
    from fer_deploy.models.fold import fold

    networks: dict[int, nn.Module] = {}
    members = []
    for member in classifier.members:
        network = networks.setdefault(id(member.network), fold(member.network))
        members.append(
            Member(
                member.name,
                network,
                input_size=member.input_size,
                temperature=member.temperature,
                mirrored=member.mirrored,
            )
        )
    return FaceClassifier(
        members, weights=classifier.weights, fusion=classifier.fusion, calibration=classifier.calibration
    )


class _Traced(nn.Module):
    """The classifier that also outputs its members' probabilities, so that a fusion can be checked by its parts."""

    def __init__(self, classifier: FaceClassifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.members = len(classifier.members) if len(classifier.members) > 1 else 0
        self.eval()

    def forward(self, faces: Tensor) -> tuple[Tensor, ...]:
        members = self.classifier.member_probabilities(faces)
        return (self.classifier.fuse(members), *members[: self.members])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and warnings from the terminal; failures still raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
