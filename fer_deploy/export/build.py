"""From a classifier in torch to a lean ONNX model: torch's exporter, then our own steps over what it wrote."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import onnx
import torch
from torch import Tensor, nn

from fer_deploy.errors import ExportError
from fer_deploy.export.graph import FaceClassifier, Member
from fer_deploy.export.passes import PASSES, Pass, run_passes
from fer_deploy.export.passes.members import MEMBER_PREFIX
from fer_deploy.model.contract import INPUT_NAME, OPSET_VERSION, OUTPUT_NAME
from fer_deploy.model.names import DYNAMIC, Shape

_AXES = ("batch", "height", "width")
_EXAMPLE = (2, 53, 61)
"""The tracing example: no axis equals another, none is 0 or 1, which torch would take for fixed."""


def build_model(
    classifier: FaceClassifier, *, shape: Shape = DYNAMIC, fold: bool = True, passes: Sequence[Pass] = PASSES
) -> onnx.ModelProto:
    """The classifier as an ONNX model: input `faces`, output `probabilities`, no metadata yet.

    Batch norms and skips are folded into convolutions first (`fer_deploy.models.fold`) unless `fold` is False, which
    with `passes=()` gives the unoptimised graph that a report compares ours with. Axes that `shape` names are fixed.
    The same classifier gives the same bytes each time. ExportError when torch's exporter can't.
    """
    traced = _Traced(folded(classifier) if fold else classifier)
    example = torch.zeros([fixed or size for fixed, size in zip(shape, _EXAMPLE, strict=True)] + [3], dtype=torch.uint8)
    axes = {
        axis: torch.export.Dim(name)
        for axis, (name, fixed) in enumerate(zip(_AXES, shape, strict=True))
        if fixed is None
    }
    names = [OUTPUT_NAME, *(f"{MEMBER_PREFIX}{number}" for number in range(traced.shown))]
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
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ExportError(f"torch's exporter failed: {line}") from error
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
    """The classifier with its members' probabilities beside its own, so that a fusion can be checked by its parts."""

    def __init__(self, classifier: FaceClassifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.shown = len(classifier.members) if len(classifier.members) > 1 else 0
        self.eval()

    def forward(self, faces: Tensor) -> tuple[Tensor, ...]:
        members = self.classifier.member_probabilities(faces)
        return (self.classifier.fuse(members), *members[: self.shown])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its remarks about itself from the terminal; failures still raise."""
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
