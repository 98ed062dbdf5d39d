"""The search for int8 settings that keep the accuracy, with as few layers in float as that takes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from fer_deploy.errors import ParityError
from fer_deploy.export import Progress
from fer_deploy.export.int8.exact import ExactAnswers, compare_exactly
from fer_deploy.export.int8.quantise import CalibrationReader, silence, to_int8
from fer_deploy.export.int8.ranges import Int8Settings, Ranges, activation_ranges
from fer_deploy.export.parity import INT8_LOSS, accuracy_of, answers_of
from fer_deploy.faces.dataset import Faces

CALIBRATION_FACES = 512
"""Training faces on which activations are measured."""
INT8_TARGET = 0.003
"""Loss of validation accuracy, as a share of the faces, at which the search puts no more layers into float."""
FLOAT_LAYERS: tuple[int, ...] = (1, 2, 4, 8)
"""How many of the most sensitive layers are tried in float, where quantising all of them loses more than that."""
EXACT_FACES = 32
"""Faces on which an int8 file is compared with an exact evaluation of its graph."""
EXACT_SHARE = 0.5
"""Mean difference from that evaluation that is allowed, as a share of the difference that quantising itself makes. A
value on the other side of a rounding moves single faces by some thousandths; saturated products move all by more."""


@dataclass(frozen=True)
class Int8Attempt:
    """One setting and its figures on the validation faces."""

    settings: Int8Settings
    accuracy: float
    difference: float
    """Mean difference of a probability from the fp32 file's."""


@dataclass(frozen=True, eq=False)
class Int8Result:
    """The outcome of the search."""

    model: onnx.ModelProto
    chosen: Int8Attempt
    float_accuracy: float
    """The fp32 file's accuracy, with the same engine and faces."""
    tried: tuple[Int8Attempt, ...]
    """Every setting that was tried."""
    exact: ExactAnswers
    """How far ONNX Runtime on this processor is from the exact answers."""


def search_int8(
    model: onnx.ModelProto,
    *,
    calibration: Faces,
    validation: Faces,
    tuned: onnx.ModelProto | None = None,
    progress: Progress | None = None,
) -> Int8Result:
    """Quantise `model` with the settings that keep the most accuracy, and as few layers in float as that takes.

    The faces have one size. With `tuned`, the same graph with the weights of `tune`, that one is quantised and still
    compared with `model`.

    Per-channel and per-tensor scales are tried with everything in integers. If both lose more than INT8_TARGET, the
    most sensitive layers, by onnxruntime's own quantisation-debug tools, are put back into float, more and more of
    them. Of the settings that lose no more than that, the one with the smallest difference from the float
    probabilities is chosen, otherwise the most accurate one. All choices are made on validation faces.

    Raises:
        ParityError: the best setting loses more than INT8_LOSS, or this processor's answers are not the exact ones.
    """
    calibration = calibration.take(spread(len(calibration), CALIBRATION_FACES))
    search = _Int8Search(model, tuned or model, calibration, validation, progress)
    losses = {per_channel: search.attempt(Int8Settings(per_channel=per_channel)) for per_channel in (True, False)}
    base = Int8Settings(per_channel=losses[True] <= losses[False])
    if min(losses.values()) > INT8_TARGET:
        ranked = rank_layers(search.source, search.tried[0 if base.per_channel else 1][1], calibration)
        for count in FLOAT_LAYERS:
            if count >= len(ranked):
                break  # no layer would be left in integers
            if search.attempt(replace(base, float_layers=tuple(sorted(ranked[:count])))) <= INT8_TARGET:
                break
    chosen, best = search.best()
    loss = search.accuracy - chosen.accuracy
    if loss > INT8_LOSS:
        raise ParityError(
            f"int8 loses {100 * loss:.2f} points of validation accuracy at best "
            f"({chosen.accuracy:.4f} against {search.accuracy:.4f}); at most {100 * INT8_LOSS:g} are allowed"
        )
    exact = compare_exactly(best, validation.take(spread(len(validation), EXACT_FACES)))
    if exact.mean_difference > EXACT_SHARE * chosen.difference:
        raise ParityError(
            f"int8: ONNX Runtime's probabilities are {exact.mean_difference:.1e} from the exact ones on average, where "
            f"quantising itself made {chosen.difference:.1e}: {exact.processor} computes the graph otherwise"
        )
    return Int8Result(best, chosen, search.accuracy, tuple(attempt for attempt, _ in search.tried), exact)


class _Int8Search:
    """The settings tried so far, each with its model."""

    def __init__(
        self,
        model: onnx.ModelProto,
        source: onnx.ModelProto,
        calibration: Faces,
        validation: Faces,
        progress: Progress | None,
    ) -> None:
        self.source = source
        self.tried: list[tuple[Int8Attempt, onnx.ModelProto]] = []
        self._calibration, self._validation, self._progress = calibration, validation, progress
        self._expected: NDArray[np.float32] = answers_of(model.SerializeToString(deterministic=True), validation)
        self._ranges: Ranges = activation_ranges(source, calibration, settings=Int8Settings())
        self.accuracy = accuracy_of(self._expected, validation)
        """The float model's."""

    def attempt(self, settings: Int8Settings) -> float:
        """Quantise with `settings`, and return the loss of validation accuracy."""
        if self._progress:
            self._progress("int8", len(self.tried), 2 + len(FLOAT_LAYERS))
        quantised = to_int8(self.source, self._calibration, settings=settings, ranges=self._ranges)
        answers = answers_of(quantised.SerializeToString(deterministic=True), self._validation)
        accuracy = accuracy_of(answers, self._validation)
        difference = float(np.abs(answers - self._expected).mean())
        self.tried.append((Int8Attempt(settings, accuracy, difference), quantised))
        return self.accuracy - accuracy

    def best(self) -> tuple[Int8Attempt, onnx.ModelProto]:
        """The nearest to float of those that lose little, otherwise the most accurate."""
        content = [entry for entry in self.tried if self.accuracy - entry[0].accuracy <= INT8_TARGET]
        if content:
            return min(content, key=lambda entry: entry[0].difference)
        return max(self.tried, key=lambda entry: entry[0].accuracy)


def rank_layers(model: onnx.ModelProto, quantised: onnx.ModelProto, faces: Faces) -> list[str]:
    """The quantised layers of `model`, the most sensitive first.

    A layer's measure is the worse of two ratios of signal to quantisation noise, in dB: of its weights, and of its
    output before and after rounding, on a few faces.
    """
    from onnxruntime.quantization import qdq_loss_debug as debug

    few = CalibrationReader(model, faces.take(np.arange(min(32, len(faces)))))
    with silence(), tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("float.onnx", "int8.onnx", "float_all.onnx", "int8_all.onnx")]
        onnx.save(model, paths[0])
        onnx.save(quantised, paths[1])
        activations = []
        for plain, augmented in ((paths[0], paths[2]), (paths[1], paths[3])):
            debug.modify_model_output_intermediate_tensors(plain, augmented)
            few.rewind()
            activations.append(debug.collect_activations(augmented, few))
        weight_noise = debug.compute_weight_error(debug.create_weight_matching(paths[0], paths[1]))
        matching = debug.create_activation_matching(activations[1], activations[0])
        matched = {name: pair for name, pair in matching.items() if "float" in pair}
        output_noise = {name: errors["qdq_err"] for name, errors in debug.compute_activation_error(matched).items()}
    layers: dict[str, float] = {}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            ratios = (weight_noise.get(node.input[1]), output_noise.get(node.output[0]))
            known = [decibels for decibels in ratios if decibels is not None]
            if known:
                layers[node.name] = min(known)
    return sorted(layers, key=lambda name: (layers[name], name))


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` positions, evenly spread over `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))
