"""The plan: how an input is split into parts. Made once, kept in the output, and taken up again by every later run.

`_plan/plan.json` says of what input, with what model and options; it is written last, so that a plan that is there is
whole. `_plan/parts.parquet` lists the parts.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fer_deploy.errors import DataError
from fer_deploy.pictures import PICTURE_SUFFIXES
from fer_deploy.score.places import Place, WalkNotes
from fer_deploy.score.sources import Options, Part, Source
from fer_deploy.score.sources.images import LIST, Images
from fer_deploy.score.sources.parquet import SUFFIXES as PARQUET_SUFFIXES
from fer_deploy.score.sources.parquet import ParquetFiles
from fer_deploy.score.sources.webdataset import SUFFIXES as SHARD_SUFFIXES
from fer_deploy.score.sources.webdataset import WebDataset

FORMAT = 1
PLAN = "_plan/plan.json"
PARTS = "_plan/parts.parquet"
SUMMARY = "_summary.json"
KINDS = ("parquet", "images", "webdataset")

_SCHEMA = pa.schema(
    [("file", pa.binary()), ("first", pa.int64()), ("rows", pa.int64()), ("size", pa.int64()), ("modified", pa.int64())]
)


@dataclass(frozen=True)
class Plan:
    """How an input is scored, small enough to be sent everywhere.

    Attributes:
        identity: another for each plan; each file of the output tells whose it is.
        input: the input's address.
        output: the output's.
        kind: one of KINDS.
        options: how the input is read.
        model: the model's name.
        model_sha256: of its file.
        parts: how many there are.
        rows: rows of the input; -1 where it is not known before all is read.
        problems: what could not be read when the plan was made, a line each.
        left_out: what else was found and left out, and how often.
    """

    identity: str
    input: str
    output: str
    kind: str
    options: Options
    model: str
    model_sha256: str
    parts: int
    rows: int
    problems: tuple[str, ...]
    left_out: dict[str, int]

    def source(self) -> Source:
        """Reads the parts."""
        return _source(self.kind, Place(self.input), Place(self.output), self.options)

    def list_parts(self) -> list[Part]:
        """All parts, in order.

        Raises:
            DataError: the list is missing or damaged.
        """
        try:
            with Place(self.output).open(PARTS) as stream:
                table = pq.read_table(stream)
        except pa.ArrowException as error:
            raise DataError(f"{Place(self.output)}/{PARTS} is damaged: begin anew with --restart") from error
        return [Part(**row) for row in table.to_pylist()]


def part_name(number: int) -> str:
    """The output file of a part."""
    return f"part-{number:08d}.parquet"


def find_kind(place: Place, *, asked: str | None = None) -> str:
    """What kind of input is there: the kind asked for, else by the first file that is of a known kind.

    Raises:
        DataError: there is nothing, or nothing of a known kind.
    """
    is_what = place.kind()
    if is_what == "nothing":
        raise DataError(f"{place}: no such file or folder")
    if is_what == "other":
        raise DataError(f"{place}: neither a file nor a folder")
    if asked is not None:
        return asked
    names = [os.fsencode(place.address)] if is_what == "file" else (entry.name for entry in place.walk(WalkNotes()))
    for name in names:
        lower = name.lower()
        if lower.endswith(PARQUET_SUFFIXES):
            return "parquet"
        if lower.endswith(SHARD_SUFFIXES):
            return "webdataset"
        if lower.endswith(tuple(suffix.encode() for suffix in PICTURE_SUFFIXES)):
            return "images"
    raise DataError(f"{place}: no Parquet files, WebDataset shards (.tar) or pictures in it: --kind says what it holds")


def open_plan(output: Place) -> Plan | None:
    """The plan that is in an output; None where there is none.

    Raises:
        DataError: it cannot be read, or is of another version of this program.
    """
    if not output.exists(PLAN):
        return None
    try:
        with output.open(PLAN) as stream:
            content = json.loads(stream.read())
        if content.pop("format") != FORMAT:
            raise ValueError("its format is of another version")
        options = Options(**content.pop("options") | {})
        if options.keep is not None:
            options = Options(**asdict(options) | {"keep": tuple(options.keep)})
        return Plan(**content | {"options": options, "problems": tuple(content["problems"]), "output": output.address})
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{output}/{PLAN} cannot be read ({error}): begin anew with --restart") from error


def make_plan(input_place: Place, output: Place, *, kind: str, options: Options, model: str, model_sha256: str) -> Plan:
    """Split an input into parts, and write the plan into the output.

    Raises:
        DataError: nothing in the input can be scored, or an option does not fit it.
    """
    notes = WalkNotes()
    source = _source(kind, input_place, output, options)
    rows = parts = 0
    with output.writing(PARTS) as temporary:
        for part in _write_parts(source.parts(notes), temporary):
            parts += 1
            rows = rows + part.rows if rows >= 0 <= part.rows else -1
        if not parts:
            why = f": {notes.problems[0]}" if notes.problems else ""
            raise DataError(f"{input_place}: nothing to score as {kind}{why}")
    plan = Plan(
        uuid.uuid4().hex, input_place.address, output.address, kind, options, model, model_sha256, parts, rows,
        tuple(notes.problems), dict(sorted(notes.left_out.items())),
    )  # fmt: skip
    content = {"format": FORMAT} | asdict(plan)
    output.write(PLAN, json.dumps(content, indent=2).encode())
    return plan


def check_same(plan: Plan, **wanted: Any) -> None:
    """Make sure that a plan in the output is of the run that is asked for.

    Args:
        plan: what is there.
        wanted: fields of `Plan` and what they should be.

    Raises:
        DataError: one differs.
    """
    for name, value in wanted.items():
        there = getattr(plan, name)
        if name == "options":
            for field in fields(Options):
                mine, theirs = getattr(value, field.name), getattr(there, field.name)
                if mine != theirs and field.name != "block_rows":
                    raise _other_run(plan, field.name.replace("_", " "), theirs, mine)
        elif there != value:
            raise _other_run(plan, name.replace("_", " "), there, value)


def remove_run(output: Place) -> None:
    """Remove a run's files from an output: the plan first, so that nothing that is left can be taken for whole."""
    for name in (PLAN, SUMMARY, PARTS, LIST, *output.names("part-")):
        output.delete(name)
    remove_leftovers(output)


def remove_leftovers(output: Place) -> None:
    """Remove what workers that were killed left behind: half-written files, and counts of attempts."""
    for name in output.names("."):
        if name.startswith((".part-", ".attempts-")):
            output.delete(name)


def _other_run(plan: Plan, what: str, there: Any, wanted: Any) -> DataError:
    return DataError(
        f"{Place(plan.output)} holds a run with another {what} ({there}, not {wanted}): choose another folder, or "
        "begin anew with --restart"
    )


def _source(kind: str, place: Place, output: Place, options: Options) -> Source:
    if kind == "parquet":
        return ParquetFiles(place, options)
    if kind == "webdataset":
        return WebDataset(place, options)
    return Images(place, output, options)


def _write_parts(parts: Iterator[Part], path: Path) -> Iterator[Part]:
    with path.open("wb") as stream, pq.ParquetWriter(stream, _SCHEMA, compression="zstd") as writer:
        waiting: list[dict[str, Any]] = []
        for part in parts:
            yield part
            waiting.append(asdict(part))
            if len(waiting) == 10_000:
                writer.write_table(pa.Table.from_pylist(waiting, _SCHEMA))
                waiting = []
        if waiting:
            writer.write_table(pa.Table.from_pylist(waiting, _SCHEMA))
