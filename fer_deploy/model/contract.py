"""The contract that every one of our ONNX files keeps, checked on the file's bytes before an engine loads them.

A model file is a program: it can name files beside it, call into libraries, loop for ever, or be no classifier at
all. `check_model_bytes` therefore reads the file's structure with `fer_deploy.model.protobuf` (the
runtime needs neither `onnx` nor `protobuf`) and refuses whatever the contract does not allow. It runs nothing.

The field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3.

>>> contract = check_model_file("exports/B.onnx")  # doctest: +SKIP
>>> contract.name, contract.precision, contract.opset  # doctest: +SKIP
('B', 'fp32', 18)
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fer_deploy.ensemble import AdaptiveTemperature
from fer_deploy.errors import FerDeployError, ModelFileError, printable
from fer_deploy.files import parse_json, read_file, shown
from fer_deploy.labels import check_labels
from fer_deploy.model.names import DYNAMIC, PRECISIONS, ModelName, Shape
from fer_deploy.model.protobuf import MalformedError, Message, Reader

INPUT_NAME = "faces"
"""The one input: uint8 (batch, height, width, 3), RGB."""
OUTPUT_NAME = "probabilities"
"""The one output: float32 (batch, classes), rows that sum to 1, a column for each label of the metadata."""
OPSET_VERSION = 18
"""The version of the default operator domain that we write. ONNX Runtime reads it from 1.14 on."""
MAXIMUM_OPSET = 19
"""The newest operator set that ONNX Runtime 1.16 reads."""
IR_VERSION = 8
"""The version of the file format that we write. ONNX Runtime reads it from 1.10 on."""
MAXIMUM_IR_VERSION = 9
"""The newest file format that ONNX Runtime 1.16 reads."""
MAXIMUM_BYTES = 1 << 30
"""A larger file is refused. The largest network of the registry has 80 million weights, 321 MB."""
MAXIMUM_NODES = 20_000
"""A graph with more nodes is refused. Five fused EfficientNets have under 2,000."""
MAXIMUM_FIELDS = 1_000_000
"""A file of more protobuf fields is refused, since reading it could take minutes and gigabytes. Five fused
EfficientNets have under 100,000."""
MAXIMUM_AXIS = 65_536
"""A larger fixed batch, height or width is refused: the engine would allocate memory for it."""
CONTROL_FLOW: frozenset[str] = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Operators that contain graphs. A classifier needs none, and a loop may never end."""

_UINT8, _FLOAT32 = 2, 1  # TensorProto.DataType
_EXTERNAL = 1  # TensorProto.DataLocation


@dataclass(frozen=True)
class ModelContract:
    """What a file that keeps the contract states about itself.

    The properties read the metadata: their values have the right type and range, and their texts are printable.
    """

    source: str
    """The file, as the caller named it."""
    bytes: int
    """The file's size."""
    sha256: str
    """The SHA-256 of the file, 64 hexadecimal digits."""
    ir_version: int
    """The version of the file format."""
    opset: int
    """The version of the default operator domain."""
    shape: Shape
    """Batch, height and width of the input; None for an axis of any size."""
    operators: Mapping[str, int]
    """How many nodes of each operator the graph has."""
    metadata: Mapping[str, str]
    """The file's `metadata_props`, all of them, unchanged: escape them with `errors.printable` where you print them."""
    labels: tuple[str, ...]
    """The classes, 2 to 1,000 of them, in the order of the output's columns, as `labels.check_labels` returns them."""

    @property
    def name(self) -> str:
        """The model's name, as in `B+E`; from the file's name where the metadata has none."""
        return self.metadata.get("name") or ModelName.parse(self.source).name

    @property
    def precision(self) -> str:
        """How the file stores its weights: one of PRECISIONS."""
        return self.metadata.get("precision", "fp32")

    @property
    def members(self) -> tuple[str, ...]:
        """The runs that the file fuses, in order; empty where it does not name them."""
        return _strings(self.metadata.get("members"))

    @property
    def weights(self) -> tuple[float, ...]:
        """Each member's share in the fusion, 0 to 1; empty where the file does not state them."""
        return _numbers(self.metadata.get("weights"), 0, 1)

    @property
    def weights_sha256(self) -> tuple[str, ...]:
        """The SHA-256 of each member's weights file; empty where the file does not state them."""
        return _strings(self.metadata.get("weights_sha256"))

    @property
    def temperatures(self) -> tuple[float, ...]:
        """What each member's logits are divided by, 0.001 to 1,000; empty where the file does not state all of them."""
        values = _numbers(self.metadata.get("temperatures"), 1e-3, 1e3)
        return values if len(values) == len(self.members) else ()

    @property
    def calibration(self) -> AdaptiveTemperature | None:
        """The calibration of the fused answer; None where there is none. ModelFileError for damaged metadata."""
        text = self.metadata.get("adaptive_temperature")
        if text is None:
            return None
        try:
            base, slope = _numbers(text, 0, 1e3)
            return AdaptiveTemperature(base, slope)
        except ValueError:
            raise ModelFileError(
                f"{self.source}: metadata adaptive_temperature must be [base, slope], got {text[:80]!r}: "
                "base is above 0 and slope not below 0"
            ) from None

    @property
    def accuracy(self) -> float | None:
        """The accuracy that the export measured, 0 to 1; None where there is none. ModelFileError for another value."""
        return self._number("accuracy", 1)

    @property
    def gflops(self) -> float | None:
        """Billions of multiply-adds for one face; None where there are none. ModelFileError for another value."""
        return self._number("gflops", 1e6)

    @property
    def is_static(self) -> bool:
        """Whether an axis of the input has a fixed size."""
        return self.shape != DYNAMIC

    def _number(self, key: str, maximum: float) -> float | None:
        text = self.metadata.get(key)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= maximum:
            raise ModelFileError(
                f"{self.source}: metadata {key} must be a number from 0 to {maximum:g}, got {text[:40]!r}"
            )
        return value


def check_model_file(path: str | os.PathLike[str], *, maximum_bytes: int = MAXIMUM_BYTES) -> ModelContract:
    """Read the structure of the ONNX file at `path`, and refuse it if it breaks the contract.

    Raises:
        ModelFileError: no such file, not a regular file, larger than `maximum_bytes`, not an ONNX file or a damaged
            one, external data, operators outside the default domain, functions, control flow, an opset or format that
            ONNX Runtime 1.16 cannot read, or other inputs, outputs or labels than the contract's.
    """
    return read_model_file(path, maximum_bytes=maximum_bytes)[1]


def read_model_file(path: str | os.PathLike[str], *, maximum_bytes: int = MAXIMUM_BYTES) -> tuple[bytes, ModelContract]:
    """As `check_model_file`, and return the bytes that were checked.

    Give the engine these bytes, not the path: a file that was exchanged after the check then changes nothing, and the
    engine cannot open further files beside it.
    """
    text = os.fsdecode(path)
    if not os.path.lexists(path) and os.path.basename(text) == text and not text.endswith(".onnx"):  # noqa: PTH119
        run = printable(text)[:80]
        raise ModelFileError(
            f"{run}: no such file: name an exported file, such as exports/{run}.onnx: "
            f"`ferdeploy export {run}` writes one"
        )
    content = read_file(path, maximum_bytes=maximum_bytes, what="model", error=ModelFileError)
    return content, check_model_bytes(content, source=shown(path), maximum_bytes=maximum_bytes)


def check_model_bytes(
    content: bytes, *, source: str = "the model", maximum_bytes: int = MAXIMUM_BYTES
) -> ModelContract:
    """As `check_model_file`, for a file that is in memory; `source` names it in errors."""
    if len(content) > maximum_bytes:
        raise ModelFileError(f"{source} has {len(content):,} bytes, more than the {maximum_bytes:,} that are allowed")
    if content.startswith(b"version https://git-lfs"):
        raise ModelFileError(f"{source} is a Git LFS pointer, not the model: run `git lfs pull`")
    try:
        reader = Reader(MAXIMUM_FIELDS)
        model = reader.message(memoryview(content))
        if not content or not model.has(7) or not model.has(1):
            raise MalformedError("it has no graph")
        return _check_model(reader, model, content, source)
    except MalformedError as error:
        raise ModelFileError(f"{source} is not an ONNX file, or a damaged one: {error}") from None
    except _RefusedError as error:
        raise ModelFileError(f"{source} is refused: {error}") from None


def _check_model(reader: Reader, model: Message, content: bytes, source: str) -> ModelContract:
    ir_version = model.integer(1)
    if not 3 <= ir_version <= MAXIMUM_IR_VERSION:
        raise _RefusedError(
            f"its format is IR version {ir_version}, and ONNX Runtime 1.16 reads up to {MAXIMUM_IR_VERSION}"
        )
    if model.has(25):
        raise _RefusedError("it defines functions, and only standard operators are allowed")
    if model.has(20):
        raise _RefusedError("it holds training graphs, and only inference is allowed")
    opset = _check_opsets(reader, model)
    graph = reader.message(model.single(7, "graph"))
    operators = _check_graph(reader, graph)
    shape, columns = _check_ends(reader, graph)
    metadata = {}
    for entry in model.messages(14):
        pair = reader.message(entry)
        key = pair.text(1)
        if key in metadata:
            raise _RefusedError(f"its metadata names {key!r} twice")
        metadata[key] = pair.text(2)
    _check_metadata(metadata)
    labels = _check_labels(metadata, columns=columns)
    return ModelContract(
        source=source,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        ir_version=ir_version,
        opset=opset,
        shape=shape,
        operators=MappingProxyType(dict(sorted(operators.items()))),
        metadata=MappingProxyType(metadata),
        labels=labels,
    )


def _check_opsets(reader: Reader, model: Message) -> int:
    versions: dict[str, int] = {}
    for entry in model.messages(8):
        pair = reader.message(entry)
        domain = pair.text(1)
        if domain not in ("", "ai.onnx"):
            raise _RefusedError(f"it uses operators of the domain {domain!r}, and only standard ones are allowed")
        versions[domain] = pair.integer(2)
    if len(versions) != 1:
        raise _RefusedError("it must state one version of the standard operators")
    (opset,) = versions.values()
    if not 13 <= opset <= MAXIMUM_OPSET:
        raise _RefusedError(
            f"it uses operator set {opset}: 13 to {MAXIMUM_OPSET} are allowed, which ONNX Runtime 1.16 reads"
        )
    return opset


def _check_graph(reader: Reader, graph: Message) -> Counter[str]:
    for tensor in graph.messages(5):
        _check_tensor(reader, tensor)
    if graph.has(15):
        raise _RefusedError("it holds sparse weights")
    operators: Counter[str] = Counter()
    nodes = graph.messages(1)
    if len(nodes) > MAXIMUM_NODES:
        raise _RefusedError(f"its graph has {len(nodes):,} nodes, more than the {MAXIMUM_NODES:,} that are allowed")
    for content in nodes:
        node = reader.message(content)
        operator = node.text(4)
        for domain in node.texts(7):
            if domain not in ("", "ai.onnx"):
                custom = f"{domain[:60]}::{operator[:60]}"
                raise _RefusedError(f"it uses the custom operator {custom!r}; only standard ones are allowed")
        if operator in CONTROL_FLOW:
            raise _RefusedError(f"it uses the operator {operator}: control flow is not allowed")
        for attribute_content in node.messages(5):
            attribute = reader.message(attribute_content)
            if attribute.has(6) or attribute.has(11):
                raise _RefusedError(f"its operator {operator[:60]!r} holds a graph: control flow is not allowed")
            if attribute.has(22) or attribute.has(23):
                raise _RefusedError("it holds sparse weights")
            for tensor in attribute.messages(5) + attribute.messages(10):
                _check_tensor(reader, tensor)
        operators[operator] += 1
    if not operators:
        raise _RefusedError("its graph is empty")
    return operators


def _check_tensor(reader: Reader, content: memoryview) -> None:
    tensor = reader.message(content)
    if tensor.has(13) or any(value == _EXTERNAL for value in tensor.integers(14)):
        raise _RefusedError(f"its tensor {tensor.text(8)!r} is stored in another file: external data is not allowed")


def _check_ends(reader: Reader, graph: Message) -> tuple[Shape, int]:
    """The shape of the input, and how many columns the output has."""
    inputs = [_read_end(reader, content) for content in graph.messages(11)]
    outputs = [_read_end(reader, content) for content in graph.messages(12)]
    wanted = f"one input {INPUT_NAME!r}, uint8 [batch, height, width, 3]"
    if len(inputs) != 1 or inputs[0][0] != INPUT_NAME:
        raise _RefusedError(f"it must have {wanted}; it has {_names(inputs)}")
    _, kind, shape = inputs[0]
    if kind != _UINT8 or shape is None or len(shape) != 4 or shape[3] != 3:
        raise _RefusedError(f"it must have {wanted}; its input has type {kind} and shape {_shape(shape)}")
    wanted = f"one output {OUTPUT_NAME!r}, float32 [batch, classes]"
    if len(outputs) != 1 or outputs[0][0] != OUTPUT_NAME:
        raise _RefusedError(f"it must have {wanted}; it has {_names(outputs)}")
    _, kind, answer = outputs[0]
    if kind != _FLOAT32 or answer is None or len(answer) != 2 or answer[1] is None:
        raise _RefusedError(f"it must have {wanted}; its output has type {kind} and shape {_shape(answer)}")
    batch, height, width = shape[:3]
    if any(axis is not None and not 1 <= axis <= MAXIMUM_AXIS for axis in (batch, height, width)):
        raise _RefusedError(f"the axes of its input must be from 1 to {MAXIMUM_AXIS:,}, and are {_shape(shape)}")
    return (batch, height, width), answer[1]


_End = tuple[str, int, tuple[int | None, ...] | None]


def _read_end(reader: Reader, content: memoryview) -> _End:
    """Name, element type (0: not a tensor) and shape (None: not stated) of a graph's input or output."""
    value = reader.message(content)
    name = value.text(1)
    if not value.has(2):
        return name, 0, None
    kind = reader.message(value.single(2, "type"))
    if not kind.has(1):
        return name, 0, None
    tensor = reader.message(kind.single(1, "tensor type"))
    if not tensor.has(2):
        return name, tensor.integer(1), None
    axes: list[int | None] = []
    for axis_content in reader.message(tensor.single(2, "shape")).messages(1):
        axis = reader.message(axis_content)
        axes.append(axis.integer(1) if axis.has(1) and not axis.has(2) else None)
    return name, tensor.integer(1), tuple(axes)


def _check_labels(metadata: Mapping[str, str], *, columns: int) -> tuple[str, ...]:
    """The labels of the metadata, one for each of the output's `columns`."""
    if "labels" not in metadata:
        raise _RefusedError("its metadata has no `labels`: ferdeploy did not write it")
    names = _json_list(metadata["labels"])
    if not names or not all(isinstance(name, str) for name in names):
        raise _RefusedError(f"its `labels` must be a JSON list of texts, and are {metadata['labels'][:80]!r}")
    try:
        labels = check_labels([str(name) for name in names])
    except ValueError as error:
        raise _RefusedError(f"its `labels`: {error}") from None
    if len(labels) != columns:
        raise _RefusedError(f"its output has {columns} columns, and its metadata has {len(labels)} labels")
    return labels


def _check_metadata(metadata: Mapping[str, str]) -> None:
    precision = metadata.get("precision", "fp32")
    if precision not in PRECISIONS:
        raise _RefusedError(f"its precision is {precision[:40]!r}, and must be one of {', '.join(PRECISIONS)}")
    members, weights = _json_list(metadata.get("members")), _json_list(metadata.get("weights"))
    if len(_numbers(metadata.get("weights"), 0, 1)) != len(weights) or len(members) != len(weights):
        raise _RefusedError("its metadata must name as many `weights`, numbers from 0 to 1, as `members`")
    # People see these in their terminals. JSON can hide control characters from a check of its text: "\u001b".
    texts = {"name": [metadata.get("name", "")], "members": [metadata.get("members", ""), *map(str, members)]}
    for key, values in texts.items():
        for value in values:
            if not value.isprintable():
                raise _RefusedError(f"its metadata `{key}` holds control characters: {value[:60]!r}")


def _json_list(text: str | None) -> list[object]:
    """The list that `text` holds as JSON; empty for None, and for anything else than a list."""
    try:
        value = parse_json(text or "[]", source="metadata", what="list")
    except FerDeployError:
        return []
    return value if isinstance(value, list) else []


def _strings(text: str | None) -> tuple[str, ...]:
    """The texts in a JSON list, printable; values of other types are left out."""
    return tuple(printable(value) for value in _json_list(text) if isinstance(value, str))


def _numbers(text: str | None, low: float, high: float) -> tuple[float, ...]:
    """The numbers from `low` to `high` in a JSON list; other values are left out."""
    return tuple(
        float(value)
        for value in _json_list(text)
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    )


def _names(ends: list[_End]) -> str:
    return ", ".join(repr(name[:60]) for name, _, _ in ends[:8]) or "none"


def _shape(shape: tuple[int | None, ...] | None) -> str:
    return "unknown" if shape is None else f"[{', '.join('any' if axis is None else str(axis) for axis in shape)}]"


class _RefusedError(Exception):
    """The message is well formed, but the contract does not allow it."""
