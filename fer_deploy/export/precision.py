"""Smaller weights: fp16 storage, and int8 arithmetic where it loses little and is really faster.

int8 is static QDQ: activations unsigned 8-bit, weights signed 8-bit. Without VNNI a processor multiplies u8 by s8 in
pairs and adds each pair into 16 bits, which saturates where the two weights reach beyond 128 together (255 * 128 =
32640 <= 32767). Scales are therefore chosen so that no two weights of an output do, whichever the engine pairs: a file
gives the same answers on every processor. The usual remedy, 7-bit weights, holds each to 64; a folded skip, a weight of
about 1 among small ones, would then leave those five bits. OpenVINO and ONNX Runtime both describe the effect in their
documentation of quantisation.
"""

from __future__ import annotations

import contextlib
import logging
import math
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fer_deploy.errors import ParityError
from fer_deploy.export.engine import run_whole, session_of
from fer_deploy.export.parity import INT8_LOSS, Progress
from fer_deploy.export.passes import run_passes
from fer_deploy.export.passes.half import store_half
from fer_deploy.export.passes.metadata import strip_metadata
from fer_deploy.export.passes.unused import drop_unused
from fer_deploy.export.passes.versions import set_versions
from fer_deploy.faces.dataset import SIZE, Faces
from fer_deploy.model.contract import INPUT_NAME, OUTPUT_NAME

CALIBRATION_FACES = 512
"""Training faces on which activations are measured."""
INT8_TARGET = 0.003
"""Loss of validation accuracy, as a share of the faces, with which the search for float layers is content."""
FLOAT_LAYERS: tuple[int, ...] = (1, 2, 4, 8)
"""How many of the most sensitive layers are tried in float, where all of them in integers lose more than that."""
SAMPLES = 128
"""Values of each activation that are kept of a face, at random, to choose the activation's range by."""
FLOAT_PRODUCTS = 16
"""A convolution of fewer products an output, such as the first one's nine on one grey channel, stays in float: integer
kernels spend more on rounding its many outputs than they save (measured: docs/onnx.md). Depthwise ones are exempt."""
EXACT_FACES = 32
"""Faces on which an int8 file is held against an exact evaluation of its graph."""
EXACT_SHARE = 0.5
"""Mean difference of a probability from that evaluation that is let through, as a share of what quantising itself made.
A value on the other side of a rounding moves single faces by some thousandths; saturated products move all by more."""
PAIR_LIMIT = 128
"""What two weights of an output, of one sign, may reach together: 255 of it are the most that 16 bits hold."""
SPEED_ROUNDS = 150
"""How often each file is asked one face, in turns, to see which is the faster."""


@dataclass(frozen=True)
class Int8Settings:
    """How a model is quantised."""

    per_channel: bool = True
    """Whether each output channel's weights have a scale of their own."""
    operators: tuple[str, ...] = ("Conv", "Gemm", "Add", "GlobalAveragePool", "Relu", "Clip", "Mul", "Sigmoid")
    """Which operators compute in integers."""
    float_layers: tuple[str, ...] = ()
    """Nodes that stay in float."""
    clipping: bool = True
    """Whether an activation's range is the one with the least squared error, rather than all that was seen."""


@dataclass(frozen=True)
class Int8Attempt:
    """One setting, and what it was worth on the validation faces."""

    settings: Int8Settings
    accuracy: float
    difference: float
    """Mean difference of a probability from the fp32 file's."""


@dataclass(frozen=True, eq=False)
class Int8Result:
    """What the search found."""

    model: onnx.ModelProto
    chosen: Int8Attempt
    float_accuracy: float
    """The fp32 file's, same engine, same faces."""
    tried: tuple[Int8Attempt, ...]
    """Every setting that was tried."""
    exact: ExactAnswers
    """How far ONNX Runtime on this processor is from the exact answers."""


@dataclass(frozen=True)
class ExactAnswers:
    """A file's answers in ONNX Runtime beside an exact evaluation of its graph by onnx's reference evaluator."""

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


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose weights are stored in half precision and computed with in float32."""
    return run_passes(_copy(model), (store_half,))


Ranges = Mapping[str, tuple[float, float]]
"""The least and the greatest value that each activation is to represent."""


def to_int8(
    model: onnx.ModelProto, calibration: Faces, *, settings: Int8Settings, ranges: Ranges | None = None
) -> onnx.ModelProto:
    """A copy of `model` that computes its networks in integers; the front, the softmax and the fusion stay in float.

    Args:
        model: as `build_model` gives it.
        calibration: faces of the Training split, on which the ranges of activations are measured.
        settings: how.
        ranges: of the activations, where they were measured before with the same operators.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    nodes = _network_nodes(model, settings)
    if ranges is None:
        ranges = activation_ranges(model, calibration, settings=settings)
    with _silence(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            _copy(model),
            path,
            _Reader(model, calibration.take(np.arange(min(2, len(calibration))))),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(settings.operators),
            per_channel=settings.per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[node for node in nodes if node not in settings.float_layers],
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "TensorQuantOverrides": {
                    name: [{"rmin": np.float32(low), "rmax": np.float32(high)}] for name, (low, high) in ranges.items()
                }
                | _weight_scales(model, per_channel=settings.per_channel)
            },
        )
        quantised = onnx.load(path)
    return run_passes(quantised, (strip_metadata_and_name, drop_unused, set_versions))


def unsaturable_scales(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """A scale for each row of `weight`, float32 (outputs, inputs) to (outputs,), see PAIR_LIMIT.

    Rounding moves each of two weights by half a step at most, so one is kept in reserve.
    """
    ordered = np.sort(weight, axis=1)
    most = np.abs(ordered[:, [0, -1]]).max(axis=1)
    if weight.shape[1] > 1:
        upper, lower = ordered[:, -2:].clip(min=0).sum(axis=1), -ordered[:, :2].clip(max=0).sum(axis=1)
        most = np.maximum(most, np.maximum(upper, lower))
    scales: NDArray[np.float32] = np.maximum(most / (PAIR_LIMIT - 1), np.finfo(np.float32).tiny).astype(np.float32)
    return scales


def _weight_scales(model: onnx.ModelProto, *, per_channel: bool) -> dict[str, list[dict[str, Any]]]:
    """onnxruntime's overrides that give the weights of every convolution and linear layer our scales."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    overrides: dict[str, list[dict[str, Any]]] = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm") or node.input[1] not in weights:
            continue
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else 1
        values = np.moveaxis(onnx.numpy_helper.to_array(weights[node.input[1]]), axis, 0)
        scales = unsaturable_scales(values.reshape(len(values), -1))
        place: dict[str, Any] = {"axis": axis} if per_channel else {}
        overrides[node.input[1]] = [
            {**place, "scale": scale, "zero_point": np.int8(0)} for scale in (scales if per_channel else [scales.max()])
        ]
    return overrides


def strip_metadata_and_name(model: onnx.ModelProto) -> onnx.ModelProto:
    """`strip_metadata`, with each node named by its output again: quantisation tools find nodes by their names."""
    model = strip_metadata(model)
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def search_int8(
    model: onnx.ModelProto,
    *,
    calibration: Faces,
    validation: Faces,
    tuned: onnx.ModelProto | None = None,
    progress: Progress | None = None,
) -> Int8Result:
    """Quantise `model` with the settings that keep the most accuracy, and as few layers in float as that takes.

    With `tuned`, the same graph with weights of `fer_deploy.export.tune`, that one is quantised, and still held against
    `model`.

    Per-channel and per-tensor scales are tried with everything in integers. Where both lose more than INT8_TARGET, the
    most sensitive layers, by onnxruntime's own quantisation-debug tools, are put back into float, more and more of
    them. Of the settings that lose no more than that, the one whose probabilities stay nearest to the float ones is
    taken, else the most accurate one. All is chosen on validation faces. ParityError when the best loses more than
    INT8_LOSS, or when this processor's answers are not the exact ones.
    """
    calibration = calibration.take(_spread(len(calibration), CALIBRATION_FACES))
    expected = answers_of(model.SerializeToString(deterministic=True), validation)
    reference = _accuracy(expected, validation)
    model = tuned or model
    tried: list[tuple[Int8Attempt, onnx.ModelProto]] = []
    steps = 2 + len(FLOAT_LAYERS)
    ranges = activation_ranges(model, calibration, settings=Int8Settings())

    def attempt(settings: Int8Settings) -> float:
        if progress:
            progress("int8", len(tried), steps)
        quantised = to_int8(model, calibration, settings=settings, ranges=ranges)
        answers = answers_of(quantised.SerializeToString(deterministic=True), validation)
        accuracy, difference = _accuracy(answers, validation), float(np.abs(answers - expected).mean())
        tried.append((Int8Attempt(settings, accuracy, difference), quantised))
        return reference - accuracy

    losses = {per_channel: attempt(Int8Settings(per_channel=per_channel)) for per_channel in (True, False)}
    base = Int8Settings(per_channel=losses[True] <= losses[False])
    if min(losses.values()) > INT8_TARGET:
        ranked = rank_layers(model, tried[0 if base.per_channel else 1][1], calibration)
        for count in FLOAT_LAYERS:
            if count >= len(ranked):
                break  # nothing would be left in integers
            if attempt(replace(base, float_layers=tuple(sorted(ranked[:count])))) <= INT8_TARGET:
                break
    content = [entry for entry in tried if reference - entry[0].accuracy <= INT8_TARGET]
    chosen, best = (
        min(content, key=lambda entry: entry[0].difference) if content else max(tried, key=lambda t: t[0].accuracy)
    )
    if reference - chosen.accuracy > INT8_LOSS:
        raise ParityError(
            f"int8 loses {100 * (reference - chosen.accuracy):.2f} points of validation accuracy at best "
            f"({chosen.accuracy:.4f} against {reference:.4f}); at most {100 * INT8_LOSS:g} are allowed"
        )
    exact = compare_exactly(best, validation.take(_spread(len(validation), EXACT_FACES)))
    if exact.mean_difference > EXACT_SHARE * chosen.difference:
        raise ParityError(
            f"int8: ONNX Runtime's probabilities are {exact.mean_difference:.1e} from the exact ones on average, where "
            f"quantising itself made {chosen.difference:.1e}: {exact.processor} computes the graph otherwise"
        )
    return Int8Result(best, chosen, reference, tuple(entry[0] for entry in tried), exact)


def compare_exactly(model: onnx.ModelProto, faces: Faces) -> ExactAnswers:
    """Hold ONNX Runtime's answers of a quantised `model` against onnx's reference evaluator's, on 48x48 `faces`.

    The evaluator multiplies and adds what the quantised numbers stand for, and saturates nowhere. Single values that
    lie between two steps may be rounded to either, which moves a face's probabilities by some thousandths.
    """
    from onnx.reference import ReferenceEvaluator

    readable = _copy(model)
    readable.opset_import[0].version = 19  # the evaluator knows QuantizeLinear from 19 on; 18 means the same for 8 bits
    evaluator = ReferenceEvaluator(readable)
    session = session_of(model.SerializeToString(deterministic=True))
    differences = []
    for pictures in _batches(model, faces, at_once=len(faces)):
        shown = {INPUT_NAME: pictures}
        (expected,) = evaluator.run(None, shown)
        differences.append(np.abs(session.run(None, shown)[0] - np.asarray(expected)))
    found = np.concatenate(differences)[: len(faces)]
    return ExactAnswers(len(found), float(found.max()), float(found.mean()), processor())


def rank_layers(model: onnx.ModelProto, quantised: onnx.ModelProto, faces: Faces) -> list[str]:
    """The quantised layers of `model`, the most sensitive first.

    A layer's measure is the worse of two ratios of signal to quantisation noise, in dB: of its weights, and of its
    output before and after rounding, on a few faces.
    """
    from onnxruntime.quantization import qdq_loss_debug as debug

    few = _Reader(model, faces.take(np.arange(min(32, len(faces)))))
    with _silence(), tempfile.TemporaryDirectory() as folder:
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
            found = [weight_noise.get(node.input[1]), *(output_noise.get(name) for name in (node.output[0],))]
            known = [decibels for decibels in found if decibels is not None]
            if known:
                layers[node.name] = min(known)
    return sorted(layers, key=lambda name: (layers[name], name))


def answers_of(content: bytes, faces: Faces, *, batch: int = 256) -> NDArray[np.float32]:
    """A file's probabilities of `faces`, at their own 48x48: float32 (n, 7)."""
    session = session_of(content)
    fixed = session.get_inputs()[0].shape[0]
    step = fixed if isinstance(fixed, int) else batch
    answers = []
    for start in range(0, len(faces), step):
        pictures = np.repeat(faces.images[start : start + step, :, :, None], 3, axis=3)
        answers.append(run_whole(session, pictures, batch=step if step == fixed else None)[0])
    return np.concatenate(answers)


def _accuracy(answers: NDArray[np.float32], faces: Faces) -> float:
    return float((answers.argmax(axis=1) == faces.labels).mean())


def race(
    contents: Mapping[str, bytes], *, batch: int = 1, rounds: int = SPEED_ROUNDS, threads: int = 1
) -> dict[str, float]:
    """Median milliseconds that each file takes for 48x48 faces, asked in turns so that all meet the same load."""
    sessions = {name: session_of(content, threads=threads) for name, content in contents.items()}
    picture = np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(rounds + 20):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {INPUT_NAME: picture})
            if turn >= 20:
                times[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(taken)) for name, taken in times.items()}


def processor() -> str:
    """The processor's name, and whether it has instructions that multiply 8-bit numbers without saturating."""
    name, flags = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "flags":
                flags = value
    known = sorted(flag for flag in ("avx512_vnni", "avx_vnni", "amx_int8") if flag in flags.split())
    return f"{name} ({', '.join(known) if known else 'no VNNI known of'})"


def _network_nodes(model: onnx.ModelProto, settings: Int8Settings) -> list[str]:
    """The nodes from the first convolution of each network to its logits that are to be quantised."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    reached: set[str] = set()
    floats: set[str] = set()
    nodes = []
    for node in model.graph.node:
        inside = node.op_type == "Conv" or bool(reached.intersection(node.input))
        if not inside or node.op_type == "Softmax":
            continue
        reached.update(node.output)
        if _is_slight(node, sizes) or (node.op_type in ("Relu", "Clip") and floats.intersection(node.input)):
            floats.update(node.output)
        elif node.op_type in settings.operators:
            nodes.append(node.name)
    return nodes


def _is_slight(node: onnx.NodeProto, sizes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a node is a convolution of too few products an output to gain from integers, see FLOAT_PRODUCTS."""
    if node.op_type != "Conv" or any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute):
        return False
    return math.prod(sizes[node.input[1]][1:]) < FLOAT_PRODUCTS


def activation_ranges(model: onnx.ModelProto, faces: Faces, *, settings: Int8Settings) -> Ranges:
    """The range of each activation that the settings quantise, measured on `faces`.

    With clipping, of sixteen shares of what was seen, the one with the least mean squared error of rounding and
    clipping together, over a sample of the values.
    """
    named = set(_network_nodes(model, settings))
    weights = {tensor.name for tensor in model.graph.initializer}
    tensors = dict.fromkeys(
        name
        for node in model.graph.node
        if node.name in named
        for name in (*node.input, *node.output)
        if name and name not in weights and name != OUTPUT_NAME
    )
    shown = _copy(model)
    shown.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors
    )
    session = session_of(shown.SerializeToString())
    generator = np.random.default_rng(0)
    samples: dict[str, list[NDArray[np.float32]]] = {name: [] for name in tensors}
    extremes = dict.fromkeys(tensors, (0.0, 0.0))
    for pictures in _batches(model, faces, at_once=32):
        found = session.run(list(tensors), {INPUT_NAME: pictures})
        kept = SAMPLES * (_fixed_batch(model) or 32)
        for name, values in zip(tensors, found, strict=True):
            low, high = extremes[name]
            extremes[name] = min(low, float(values.min())), max(high, float(values.max()))
            flat = values.ravel()
            samples[name].append(flat[generator.integers(0, len(flat), kept)] if len(flat) > kept else flat)
    if not settings.clipping:
        return extremes
    return {name: _least_error(np.concatenate(samples[name]), *extremes[name]) for name in tensors}


def _least_error(values: NDArray[np.float32], low: float, high: float) -> tuple[float, float]:
    best, found = np.inf, (low, high)
    for share in np.linspace(1.0, 0.25, 16):
        lowest, highest = low * share, high * share
        scale = max((highest - lowest) / 255, 1e-12)
        zero = np.rint(-lowest / scale)
        rounded = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
        error = float(np.square(values - rounded, dtype=np.float64).mean())
        if error < best:
            best, found = error, (float(lowest), float(highest))
    return found


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` positions spread evenly over `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def _fixed_batch(model: onnx.ModelProto) -> int:
    """How many faces `model` takes at a time; 0 for any number."""
    return int(model.graph.input[0].type.tensor_type.shape.dim[0].dim_value)


def _batches(model: onnx.ModelProto, faces: Faces, *, at_once: int) -> list[NDArray[np.uint8]]:
    """The faces as pictures, uint8 (n, 48, 48, 3), as many at a time as `model` takes, or `at_once` where it takes any.

    A last batch that is too small for a `model` of fixed batch is filled up with the faces from the first on.
    """
    pictures = np.repeat(faces.images[..., None], 3, axis=3)
    fixed = _fixed_batch(model)
    if fixed:
        at_once = fixed
        pictures = pictures[np.arange(-(-len(faces) // fixed) * fixed) % len(faces)]
    return [pictures[start : start + at_once] for start in range(0, len(pictures), at_once)]


class _Reader:
    """Faces for onnxruntime's calibration, 16 at a time or as many as the model takes."""

    def __init__(self, model: onnx.ModelProto, faces: Faces) -> None:
        self._batches = _batches(model, faces, at_once=16)
        self._next = 0

    def get_next(self) -> dict[str, Any] | None:
        """The next faces, or None."""
        pictures = self._batches[self._next : self._next + 1]
        self._next += 1
        return {INPUT_NAME: pictures[0]} if pictures else None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while (found := self.get_next()) is not None:
            yield found

    def rewind(self) -> None:
        """Begin again."""
        self._next = 0


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep onnxruntime's advice, which goes to the root logger, from the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)
