"""Edit CenterFace's ONNX file so that it takes pictures of any size, without the package `onnx`.

The file declares one input size, ten pictures of 32x32, although its operators take any size, and ONNX Runtime for
browsers refuses all others. It also lists its weights as inputs, which keeps engines from folding them. The edit
removes both. It works on protobuf's encoding (https://protobuf.dev/programming-guides/encoding/) with the field numbers
of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

_GRAPH = 7  # of ModelProto
_INITIALIZER, _INPUT, _OUTPUT = 5, 11, 12  # of GraphProto
_TENSOR_NAME = 8  # of TensorProto
_VALUE_NAME, _VALUE_TYPE = 1, 2  # of ValueInfoProto
_TENSOR_TYPE = 1  # of TypeProto
_SHAPE = 2  # of TypeProto.Tensor

_Edit = Callable[[int, bytes], bytes | None]
"""Field number and content to its new content; None drops the field."""


def free_sizes(content: bytes) -> bytes:
    """An ONNX model with inputs and outputs of any size, and without its weights among its inputs.

    Args:
        content: the model file.

    Raises:
        ValueError: it is not a protobuf message.
    """
    weights = {
        name
        for number, graph, _ in _fields(content)
        if number == _GRAPH
        for kind, tensor, _ in _fields(graph)
        if kind == _INITIALIZER
        for field, name, _ in _fields(tensor)
        if field == _TENSOR_NAME
    }

    def edit_graph(number: int, value: bytes) -> bytes | None:
        if number not in (_INPUT, _OUTPUT):
            return value
        if any(field == _VALUE_NAME and name in weights for field, name, _ in _fields(value)):
            return None
        return _edited(value, _within(_VALUE_TYPE, _within(_TENSOR_TYPE, _without(_SHAPE))))

    return _edited(content, lambda number, value: _edited(value, edit_graph) if number == _GRAPH else value)


def _within(wanted: int, inner: _Edit) -> _Edit:
    return lambda number, value: _edited(value, inner) if number == wanted else value


def _without(unwanted: int) -> _Edit:
    return lambda number, value: None if number == unwanted else value


def _edited(message: bytes, edit: _Edit) -> bytes:
    """The message with `edit` applied to each length-delimited field; other fields stay unchanged."""
    parts = []
    for number, value, raw in _fields(message):
        if raw[0] & 7 != 2:
            parts.append(raw)
            continue
        changed = edit(number, value)
        if changed is not None:
            parts.append(_number(number << 3 | 2) + _number(len(changed)) + changed)
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Each field's number, its content (empty for numbers) and its whole encoding."""
    position = 0
    while position < len(message):
        start = position
        key, position = _read_number(message, position)
        length = {1: 8, 5: 4}.get(key & 7, 0)
        if key & 7 == 2:
            length, position = _read_number(message, position)
        elif key & 7 == 0:
            _, position = _read_number(message, position)
        elif not length:
            raise ValueError(f"a field of wire type {key & 7}")
        end = position + length
        if end > len(message):
            raise ValueError("it ends in the middle of a field")
        yield key >> 3, message[position:end] if key & 7 == 2 else b"", message[start:end]
        position = end


def _read_number(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError("it ends in the middle of a number")


def _number(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
