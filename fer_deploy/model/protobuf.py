"""A reader of protobuf messages that trusts nothing: bounded, without recursion, and without copying the file.

The encoding is that of https://protobuf.dev/programming-guides/encoding/. Reading a message allocates at most 200 bytes
for each field in it, and the number of fields is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


class MalformedError(Exception):
    """The bytes are not a well-formed message, or one with too many fields."""


class Message:
    """The fields of one message by number, each field's values in the order of the file."""

    def __init__(self, numbers: dict[int, list[int]], parts: dict[int, list[memoryview]]) -> None:
        self._numbers = numbers
        self._parts = parts

    def has(self, field: int) -> bool:
        """Whether the field has a value."""
        return field in self._parts or field in self._numbers

    def integers(self, field: int) -> list[int]:
        """The field's numbers, as unsigned 64-bit integers."""
        return self._numbers.get(field, [])

    def integer(self, field: int) -> int:
        """The field's last number, as protobuf has it, as a signed 64-bit integer; 0 where there is none."""
        values = self._numbers.get(field)
        if not values:
            return 0
        return values[-1] - (1 << 64) if values[-1] >> 63 else values[-1]

    def messages(self, field: int) -> list[memoryview]:
        """The field's parts, unread: messages, texts or bytes."""
        return self._parts.get(field, [])

    def single(self, field: int, what: str) -> memoryview:
        """The field's only part; MalformedError, which calls it `what`, where there is none or several.

        Protobuf would merge several. No writer makes them, and they could hide something.
        """
        parts = self._parts.get(field, [])
        if len(parts) != 1:
            raise MalformedError(f"it must have one {what}, and has {len(parts)}")
        return parts[0]

    def texts(self, field: int) -> list[str]:
        """The field's texts; MalformedError where one is not UTF-8."""
        try:
            return [str(part, "utf-8") for part in self._parts.get(field, [])]
        except UnicodeDecodeError:
            raise MalformedError("a text in it is not UTF-8") from None

    def text(self, field: int) -> str:
        """The field's last text; empty where there is none."""
        values = self.texts(field)
        return values[-1] if values else ""


class Reader:
    """Splits messages into fields.

    Args:
        maximum_fields: how many fields all messages together may have.
    """

    def __init__(self, maximum_fields: int) -> None:
        self._maximum = maximum_fields
        self._remaining = maximum_fields

    def message(self, content: memoryview) -> Message:
        """The fields of a message; those of messages inside it are not read.

        Raises:
            MalformedError: the bytes are not a message, or there are more than `maximum_fields`.
        """
        numbers: dict[int, list[int]] = {}
        parts: dict[int, list[memoryview]] = {}
        for field, value in self._fields(content):
            if isinstance(value, int):
                numbers.setdefault(field, []).append(value)
            else:
                parts.setdefault(field, []).append(value)
        return Message(numbers, parts)

    def _fields(self, content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        position, end = 0, len(content)
        while position < end:
            self._remaining -= 1
            if self._remaining < 0:
                raise MalformedError(f"it has more than {self._maximum:,} parts")
            key, position = _varint(content, position)
            field, wire = key >> 3, key & 7
            if not 1 <= field < 1 << 29:
                raise MalformedError(f"it has a field numbered {field}")
            if wire == _VARINT:
                number, position = _varint(content, position)
                yield field, number
                continue
            if wire == _BYTES:
                length, position = _varint(content, position)
            elif wire == _FIXED32:
                length = 4
            elif wire == _FIXED64:
                length = 8
            else:
                raise MalformedError(f"it has a field of wire type {wire}")
            if length > end - position:
                raise MalformedError("it ends in the middle of a field")
            if wire == _BYTES:
                yield field, content[position : position + length]
            position += length


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    """The number at `position`, least significant seven bits first, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            raise MalformedError("it ends in the middle of a number")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), position
    raise MalformedError("it has a number of more than ten bytes")
