"""Smaller weights: fp16 storage, and int8 arithmetic where it loses little and is really faster.

int8 is static QDQ: activations unsigned 8-bit, weights signed 7-bit. Without VNNI a processor multiplies u8 by s8 in
pairs and adds them into 16 bits, which saturates for 8-bit weights (255 * 127 * 2 > 32767) and can't for 7-bit ones
(255 * 64 * 2 = 32640): a file gives the same answers on every processor. OpenVINO and ONNX Runtime both describe the
effect in their documentation of quantisation.
"""

from __future__ import annotations

import contextlib
import logging
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

from fer_deploy.contract import INPUT_NAME, OUTPUT_NAME
from fer_deploy.errors import ParityError
from fer_deploy.export.engine import run_whole, session_of
from fer_deploy.export.parity import INT8_LOSS, Progress
from fer_deploy.export.passes import run_passes
from fer_deploy.export.passes.half import store_half
from fer_deploy.export.passes.metadata import strip_metadata
from fer_deploy.export.passes.unused import drop_unused
from fer_deploy.export.passes.versions import set_versions
from fer_deploy.faces.dataset import SIZE, Faces

CALIBRATION_FACES = 512
"""Training faces on which activations are measured."""
INT8_TARGET = 0.003
"""Loss of validation accuracy, as a share of the faces, with which the search for float layers is content."""
FLOAT_LAYERS: tuple[int, ...] = (1, 2, 4, 8)
"""How many of the most sensitive layers are tried in float, where all of them in integers lose more than that."""
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


@dataclass(frozen=True, eq=False)
class Int8Result:
    """What the search found."""

    model: onnx.ModelProto
    settings: Int8Settings
    accuracy: float
    """On the validation faces."""
    float_accuracy: float
    """The fp32 file's, same engine, same faces."""
    tried: tuple[tuple[Int8Settings, float], ...]
    """Every setting that was tried, with its accuracy."""


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
            _Reader(calibration.take(np.arange(min(2, len(calibration))))),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(settings.operators),
            per_channel=settings.per_channel,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[node for node in nodes if node not in settings.float_layers],
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "TensorQuantOverrides": {
                    name: [{"rmin": np.float32(low), "rmax": np.float32(high)}] for name, (low, high) in ranges.items()
                }
            },
        )
        quantised = onnx.load(path)
    return run_passes(quantised, (strip_metadata_and_name, drop_unused, set_versions))


def strip_metadata_and_name(model: onnx.ModelProto) -> onnx.ModelProto:
    """`strip_metadata`, with each node named by its output again: quantisation tools find nodes by their names."""
    model = strip_metadata(model)
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def search_int8(
    model: onnx.ModelProto, *, calibration: Faces, validation: Faces, progress: Progress | None = None
) -> Int8Result:
    """Quantise `model` with the settings that keep the most accuracy, and as few layers in float as that takes.

    Per-channel and per-tensor scales are tried with everything in integers. Where the better of them loses more than
    INT8_TARGET, the most sensitive layers, by onnxruntime's own quantisation-debug tools, are put back into float, more
    and more of them. All is chosen on validation faces. ParityError when the best loses more than INT8_LOSS, or is not
    faster than `model` on this machine.
    """
    calibration = calibration.take(_spread(len(calibration), CALIBRATION_FACES))
    float_content = model.SerializeToString(deterministic=True)
    reference = accuracy_of(float_content, validation)
    tried: list[tuple[Int8Settings, float, onnx.ModelProto]] = []
    steps = 2 + len(FLOAT_LAYERS)
    ranges = activation_ranges(model, calibration, settings=Int8Settings())

    def attempt(settings: Int8Settings) -> float:
        if progress:
            progress("int8", len(tried), steps)
        quantised = to_int8(model, calibration, settings=settings, ranges=ranges)
        accuracy = accuracy_of(quantised.SerializeToString(deterministic=True), validation)
        tried.append((settings, accuracy, quantised))
        return reference - accuracy

    losses = {per_channel: attempt(Int8Settings(per_channel=per_channel)) for per_channel in (True, False)}
    base = Int8Settings(per_channel=losses[True] <= losses[False])
    if min(losses.values()) > INT8_TARGET:
        ranked = rank_layers(model, tried[0 if base.per_channel else 1][2], calibration)
        for count in FLOAT_LAYERS:
            if attempt(replace(base, float_layers=tuple(sorted(ranked[:count])))) <= INT8_TARGET:
                break
    settings, accuracy, best = max(tried, key=lambda entry: entry[1])
    if reference - accuracy > INT8_LOSS:
        raise ParityError(
            f"int8 loses {100 * (reference - accuracy):.2f} points of validation accuracy at best "
            f"({accuracy:.4f} against {reference:.4f}); at most {100 * INT8_LOSS:g} are allowed"
        )
    return Int8Result(best, settings, accuracy, reference, tuple((entry[0], entry[1]) for entry in tried))


def rank_layers(model: onnx.ModelProto, quantised: onnx.ModelProto, faces: Faces) -> list[str]:
    """The quantised layers of `model`, the most sensitive first.

    A layer's measure is the worse of two ratios of signal to quantisation noise, in dB: of its weights, and of its
    output before and after rounding, on a few faces.
    """
    from onnxruntime.quantization import qdq_loss_debug as debug

    few = _Reader(faces.take(np.arange(min(32, len(faces)))))
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


def accuracy_of(content: bytes, faces: Faces, *, batch: int = 256) -> float:
    """Share of `faces`, at their own 48x48, that a file gets right."""
    session = session_of(content)
    fixed = session.get_inputs()[0].shape[0]
    step = fixed if isinstance(fixed, int) else batch
    right = 0
    for start in range(0, len(faces), step):
        pictures = np.repeat(faces.images[start : start + step, :, :, None], 3, axis=3)
        answers = run_whole(session, pictures, batch=step if step == fixed else None)[0]
        right += int((answers.argmax(axis=1) == faces.labels[start : start + step]).sum())
    return right / len(faces)


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
    """The nodes from the first convolution of each network to its logits, of the operators that can be quantised."""
    reached: set[str] = set()
    nodes = []
    for node in model.graph.node:
        inside = node.op_type == "Conv" or bool(reached.intersection(node.input))
        if not inside or node.op_type == "Softmax":
            continue
        reached.update(node.output)
        if node.op_type in settings.operators:
            nodes.append(node.name)
    return nodes


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
    for start in range(0, len(faces), 32):
        pictures = np.repeat(faces.images[start : start + 32, :, :, None], 3, axis=3)
        found = session.run(list(tensors), {INPUT_NAME: pictures})
        for name, values in zip(tensors, found, strict=True):
            low, high = extremes[name]
            extremes[name] = min(low, float(values.min())), max(high, float(values.max()))
            flat = values.ravel()
            samples[name].append(flat[generator.integers(0, len(flat), 4096)] if len(flat) > 4096 else flat)
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


class _Reader:
    """Faces for onnxruntime's calibration, 16 at a time."""

    def __init__(self, faces: Faces) -> None:
        self._pictures = np.repeat(faces.images[..., None], 3, axis=3)
        self._next = 0

    def get_next(self) -> dict[str, Any] | None:
        """The next faces, or None."""
        pictures = self._pictures[self._next : self._next + 16]
        self._next += 16
        return {INPUT_NAME: pictures} if len(pictures) else None

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
