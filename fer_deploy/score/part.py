"""Score one part: read its rows a block at a time, and write one Parquet file, whole or not at all.

Every row of the part is one row of the file, in the same order, whether its picture could be read or not. Writing the
file again, because a worker died or because two workers had the same part, therefore changes nothing.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fer_deploy.errors import DataError
from fer_deploy.files import parse_json
from fer_deploy.pictures import Pixels, read_picture
from fer_deploy.recognizer import Recognizer
from fer_deploy.score.folders import add_folder_columns
from fer_deploy.score.places import Place
from fer_deploy.score.plan import ScorePlan, part_name
from fer_deploy.score.sources import InputPart, InputPicture, InputSource, RowBlock, probability_columns

_DECODED_BYTES = 32 * 1024 * 1024
"""Decoded pictures are given to the model as soon as they take this many bytes."""

RETRIES = 3
"""How often a part is tried again after its worker has died."""

_TOO_SLOW = "not finished"
_NOTE_SECONDS = 30

_GROUP_ROWS = 20_000
_GROUP_BYTES = 32 * 1024 * 1024
_METADATA = b"ferdeploy"


@dataclass(frozen=True)
class PartResult:
    """The outcome of a part.

    Attributes:
        number: the part's number, from 0.
        rows: rows in its file; 0 without a file.
        bad_rows: rows with an error.
        labels: how many of the other rows have each label.
        problem: why there is no file; empty if there is one.
        seconds: how long it took; 0 if the file existed already.
        first_error: the error of the first bad row, as an example.
        worker: the process that computed it, as `host:process`; empty if the file existed already.
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
    recognizer: Recognizer, plan: ScorePlan, source: InputSource, part: InputPart, *, number: int, output: Place
) -> PartResult:
    """Score a part, unless its file exists already.

    Raises:
        DataError: the part cannot be read at the moment, or too many workers have died while they computed it.
    """
    finished = read_result(output, plan, number)
    if finished is not None:
        return finished
    started = time.monotonic()
    attempts = _attempts_name(number)
    _count_attempt(output, attempts, number)
    labels: Counter[str] = Counter()
    rows = bad_rows = 0
    first_error = ""
    maximum_pixels = plan.options.maximum_pixels
    with output.writing(part_name(number)) as temporary, _Writer(temporary) as writer:
        for block in source.blocks(part):
            table = score_block(recognizer, block, maximum_pixels=maximum_pixels, folders=plan.folders)
            writer.add(table)
            rows += table.num_rows
            bad_rows += table.num_rows - table.column("error").null_count
            first_error = first_error or next((error for error in table.column("error").to_pylist() if error), "")
            labels.update(label for label in table.column("label").to_pylist() if label)
        if not rows:
            empty = RowBlock(source.schema().empty_table(), [])
            writer.add(score_block(recognizer, empty, maximum_pixels=maximum_pixels, folders=plan.folders))
        content = {"plan": plan.identity, "rows": rows, "bad_rows": bad_rows, "labels": labels}
        writer.finish({_METADATA: json.dumps(content | {"first_error": first_error}).encode()})
    output.delete(attempts)
    worker = f"{socket.gethostname()}:{os.getpid()}"
    seconds = time.monotonic() - started
    return PartResult(number, rows, bad_rows, dict(labels), seconds=seconds, first_error=first_error, worker=worker)


def _count_attempt(output: Place, name: str, number: int) -> None:
    """Record that a worker begins a part, and refuse the part if too many workers began it and died.

    Ray hands a part out again for as long as its workers die, so a picture that kills every worker would stop the run.
    """
    attempts = 0
    if output.exists(name):
        try:
            text = output.read(name.encode(), maximum_bytes=100, what="count of attempts").decode(errors="replace")
            if text.startswith(_TOO_SLOW):
                raise DataError(f"part {number}: {text}: see --part-minutes")
            attempts = int(text)
        except ValueError:  # damaged
            attempts = 1
    if attempts > RETRIES:
        raise DataError(f"part {number}: {attempts} workers in a row died while computing it: look for a bad picture")
    output.write(name, str(attempts + 1).encode())


@contextmanager
def deadline(output: Place, number: int, *, seconds: float) -> Iterator[None]:
    """Kill this process if the block takes longer, after leaving a note that makes other workers refuse the part.

    Only the end of the process stops a reader that hangs in a system call or in a library.
    """

    def note() -> None:
        output.write(_attempts_name(number), f"{_TOO_SLOW} within {seconds / 60:g} minutes".encode())

    def expire() -> None:
        writer = threading.Thread(target=note, daemon=True)
        writer.start()
        writer.join(_NOTE_SECONDS)  # the output may be what hangs
        os._exit(1)

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _attempts_name(number: int) -> str:
    return f".attempts-{number:08d}"


class _Writer:
    """Writes tables to a Parquet file, and collects them into row groups of a useful size."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")  # Arrow itself opens UTF-8 paths only
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
        rows, size = sum(table.num_rows for table in self._waiting), sum(table.nbytes for table in self._waiting)
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
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


def read_result(output: Place, plan: ScorePlan, number: int) -> PartResult | None:
    """The outcome that a part's file records; None if there is no such file, or it is damaged or of another plan."""
    name = part_name(number)
    try:
        with output.open(name) as stream, pq.ParquetFile(stream) as file:
            text = (file.metadata.metadata or {}).get(_METADATA, b"{}")
            content = parse_json(text, source=name, what="result", error=DataError)
            if content["plan"] != plan.identity or content["rows"] != file.metadata.num_rows:
                return None
        labels = {str(label): int(count) for label, count in content["labels"].items()}
        bad_rows, first_error = int(content["bad_rows"]), str(content.get("first_error", ""))
    except (DataError, pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # whatever is wrong with the file, the part can be computed again
    return PartResult(number, content["rows"], bad_rows, labels, first_error=first_error)


def score_block(
    recognizer: Recognizer, block: RowBlock, *, maximum_pixels: int, folders: Sequence[str] = ()
) -> pa.Table:
    """The block's keys with the model's answer for each picture, or the reason why there is none.

    Args:
        recognizer: the model.
        block: the rows.
        maximum_pixels: a larger picture is a bad one.
        folders: names of values in the folders of the rows' files, see `folders`.

    Returns:
        The columns of the keys, then `label` (string), `probability` (float32), one float32 column per label
        (see `sources.probability_columns`), and `error` (string). For a bad picture
        `error` alone is set; otherwise it alone is null.
    """
    labels = recognizer.labels
    count = len(block.pictures)
    values = np.full((count, len(labels)), np.nan, np.float32)
    errors: list[str | None] = [None] * count
    for positions, pictures in _decoded(block.pictures, errors, maximum_pixels):
        for position, row in zip(positions, _probabilities(recognizer, pictures), strict=True):
            if isinstance(row, DataError):
                errors[position] = str(row)
            else:
                values[position] = row
    bad = np.array([error is not None for error in errors], bool)
    best = np.where(bad, 0, np.argmax(np.nan_to_num(values, nan=-1.0), axis=1)) if count else np.zeros(0, np.int64)
    keys = add_folder_columns(block.keys, folders, labels=labels)
    columns = dict(zip(keys.column_names, keys.columns, strict=True))
    columns["label"] = pa.array([None if bad[i] else labels[best[i]] for i in range(count)], pa.string())
    columns["probability"] = pa.array(values[np.arange(count), best], pa.float32(), mask=bad)
    for number, name in enumerate(probability_columns(labels)):
        columns[name] = pa.array(values[:, number], pa.float32(), mask=bad)
    columns["error"] = pa.array(errors, pa.string())
    return pa.table(columns)


def _decoded(
    pictures: Sequence[InputPicture], errors: list[str | None], maximum_pixels: int
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


def _probabilities(recognizer: Recognizer, pictures: Sequence[Pixels]) -> Sequence[NDArray[np.float32] | DataError]:
    try:
        return list(recognizer.probabilities_of(pictures))
    except DataError as error:
        if len(pictures) == 1:
            return [error]
        # One picture may be the cause (a size that a model of fixed size refuses), so each is tried alone.
        return [row for picture in pictures for row in _probabilities(recognizer, [picture])]
