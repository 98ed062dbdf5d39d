"""Score one part: read its rows a block at a time, and write one Parquet file, whole or not at all.

Each row of the part is one row of the file, in the same order, whether its picture could be read or not. So to write
the file again, after a worker died or because two workers had the same part, changes nothing.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fer_deploy.errors import DataError
from fer_deploy.pictures import Pixels, read_picture
from fer_deploy.recognizer import Recognizer
from fer_deploy.score.places import Place
from fer_deploy.score.plan import Plan, part_name
from fer_deploy.score.sources import Block, Part, Picture, Source

_DECODED_BYTES = 32 * 1024 * 1024
"""Pictures are computed when those decoded come to this much, however many rows the block has."""

RETRIES = 3
"""How often a part is tried again after its worker died."""

_GROUP_ROWS = 20_000
_GROUP_BYTES = 32 * 1024 * 1024
_METADATA = b"ferdeploy"


@dataclass(frozen=True)
class PartResult:
    """What became of a part.

    Attributes:
        number: the part's.
        rows: rows in its file; 0 where there is none.
        bad_rows: of them, those with an error.
        labels: label to count, of the others.
        problem: why there is no file; empty where there is.
        seconds: what it took; 0 where the file was there already.
        first_error: the first bad row's, as an example.
        worker: who did it, as `host:process`; empty where the file was there already.
    """

    number: int
    rows: int = 0
    bad_rows: int = 0
    labels: dict[str, int] | None = None
    problem: str = ""
    seconds: float = 0.0
    first_error: str = ""
    worker: str = ""


def score_part(
    recognizer: Recognizer, plan: Plan, source: Source, part: Part, *, number: int, output: Place
) -> PartResult:
    """Score a part, unless its file is there.

    Raises:
        DataError: the part cannot be read now.
    """
    there = read_result(output, plan, number)
    if there is not None:
        return there
    started = time.monotonic()
    attempts = f".attempts-{number:08d}"
    _count_attempt(output, attempts, number)
    labels: Counter[str] = Counter()
    rows = bad_rows = 0
    first_error = ""
    maximum_pixels = plan.options.maximum_pixels
    with output.writing(part_name(number)) as temporary, _Writer(temporary) as writer:
        for block in source.blocks(part):
            table = score_block(recognizer, block, maximum_pixels=maximum_pixels)
            writer.add(table)
            rows += table.num_rows
            bad_rows += table.num_rows - table.column("error").null_count
            first_error = first_error or next((error for error in table.column("error").to_pylist() if error), "")
            labels.update(label for label in table.column("label").to_pylist() if label)
        if not rows:
            empty = Block(source.schema().empty_table(), [])
            writer.add(score_block(recognizer, empty, maximum_pixels=maximum_pixels))
        content = {"plan": plan.identity, "rows": rows, "bad_rows": bad_rows, "labels": labels}
        writer.finish({_METADATA: json.dumps(content | {"first_error": first_error}).encode()})
    output.delete(attempts)
    worker = f"{socket.gethostname()}:{os.getpid()}"
    return PartResult(number, rows, bad_rows, dict(labels), "", time.monotonic() - started, first_error, worker)


def _count_attempt(output: Place, name: str, number: int) -> None:
    """Note that a worker begins a part; refuse it when so many others have begun it and not lived to its end.

    Ray gives a part again for as long as its workers die. A picture that kills each of them must not stop the rest.
    """
    before = 0
    if output.exists(name):
        try:
            before = int(output.read(name.encode(), maximum_bytes=100))
        except (DataError, ValueError):  # written by a worker that died while it wrote
            before = 1
    if before > RETRIES:
        raise DataError(f"part {number}: {before} workers died of it, one after another: look for a bad picture in it")
    output.write(name, str(before + 1).encode())


class _Writer:
    """Writes tables to a Parquet file, gathered to row groups of a useful size."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")  # Arrow takes paths of UTF-8 alone
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        with self._stream:
            if self._writer is not None:
                self._writer.close()

    def add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        if sum(one.num_rows for one in self._waiting) >= _GROUP_ROWS or (
            sum(one.nbytes for one in self._waiting) >= _GROUP_BYTES
        ):
            self._flush()

    def finish(self, metadata: dict[bytes, bytes]) -> None:
        self._flush()
        assert self._writer is not None
        self._writer.add_key_value_metadata(metadata)

    def _flush(self) -> None:
        if not self._waiting:
            return
        table, self._waiting = pa.concat_tables(self._waiting), []
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._stream, table.schema, compression="zstd")
        self._writer.write_table(table)


def read_result(output: Place, plan: Plan, number: int) -> PartResult | None:
    """What a part's file tells of itself; None where there is no such file of this plan, or it is damaged."""
    try:
        with output.open(part_name(number)) as stream, pq.ParquetFile(stream) as file:
            content = json.loads((file.metadata.metadata or {}).get(_METADATA, b"{}"))
            if content.get("plan") != plan.identity or content["rows"] != file.metadata.num_rows:
                return None
    except (DataError, pa.ArrowException, OSError, ValueError, KeyError):
        return None
    return PartResult(
        number, content["rows"], content["bad_rows"], content["labels"], "", 0.0, content.get("first_error", "")
    )


def score_block(recognizer: Recognizer, block: Block, *, maximum_pixels: int) -> pa.Table:
    """The block's keys, and beside them what the model says of each picture, or why it says nothing.

    Returns:
        The keys' columns, then `label` (string), `probability` (float32), a column a label (float32), and `error`
        (string): the first ones null where the picture is bad, the last null where it is good.
    """
    labels = recognizer.labels
    count = len(block.pictures)
    values = np.full((count, len(labels)), np.nan, np.float32)
    errors: list[str | None] = [None] * count
    for positions, pictures in _decoded(block.pictures, errors, maximum_pixels):
        for position, row in zip(positions, _read(recognizer, pictures), strict=True):
            if isinstance(row, DataError):
                errors[position] = str(row)
            else:
                values[position] = row
    bad = np.array([error is not None for error in errors], bool)
    best = np.where(bad, 0, np.argmax(np.nan_to_num(values, nan=-1.0), axis=1)) if count else np.zeros(0, np.int64)
    columns = dict(zip(block.keys.column_names, block.keys.columns, strict=True))
    columns["label"] = pa.array([None if bad[i] else labels[best[i]] for i in range(count)], pa.string())
    columns["probability"] = pa.array(values[np.arange(count), best], pa.float32(), mask=bad)
    for number, label in enumerate(labels):
        columns[label] = pa.array(values[:, number], pa.float32(), mask=bad)
    columns["error"] = pa.array(errors, pa.string())
    return pa.table(columns)


def _decoded(
    pictures: Sequence[Picture], errors: list[str | None], maximum_pixels: int
) -> Iterator[tuple[list[int], list[Pixels]]]:
    """Groups of decoded pictures with their positions, each of bounded memory; what is bad goes into `errors`."""
    positions: list[int] = []
    group: list[Pixels] = []
    size = 0
    for position, picture in enumerate(pictures):
        try:
            if isinstance(picture, DataError):
                raise picture
            pixels = read_picture(picture, name="the picture", maximum_pixels=maximum_pixels).pixels
        except DataError as error:
            errors[position] = str(error)
            continue
        if group and size + pixels.nbytes > _DECODED_BYTES:
            yield positions, group
            positions, group, size = [], [], 0
        positions.append(position)
        group.append(pixels)
        size += pixels.nbytes
    if group:
        yield positions, group


def _read(recognizer: Recognizer, pictures: Sequence[Pixels]) -> Sequence[NDArray[np.float32] | DataError]:
    try:
        return list(recognizer.probabilities_of(pictures))
    except DataError as error:
        if len(pictures) == 1:
            return [error]
        # One picture may be to blame (a size that a file of fixed size does not take).
        return [row for picture in pictures for row in _read(recognizer, [picture])]
