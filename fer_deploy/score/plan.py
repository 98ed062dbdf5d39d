"""The plan: how an input is split into parts. It is made once, stored in the output, and read by every later run.

`_plan/plan.json` records the input, the model and the options. It is written last, so a plan that exists is complete.
`_plan/parts.parquet` lists the parts.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError, one_line
from fer_deploy.files import MAXIMUM_TEXT_BYTES, parse_json, shown
from fer_deploy.folders import LeftOut
from fer_deploy.score.folders import folder_names
from fer_deploy.score.options import InputKind, InputOptions
from fer_deploy.score.places import Place
from fer_deploy.score.sources import InputPart, InputSource
from fer_deploy.score.sources.images import LIST, Images
from fer_deploy.score.sources.images import SUFFIXES as PICTURE_SUFFIXES
from fer_deploy.score.sources.parquet import SUFFIXES as PARQUET_SUFFIXES
from fer_deploy.score.sources.parquet import ParquetFiles
from fer_deploy.score.sources.webdataset import SUFFIXES as SHARD_SUFFIXES
from fer_deploy.score.sources.webdataset import WebDataset

FORMAT = 1
PLAN = "_plan/plan.json"
PARTS = "_plan/parts.parquet"
SUMMARY = "_summary.json"

_SCHEMA = pa.schema(
    [("file", pa.binary()), ("first", pa.int64()), ("rows", pa.int64()), ("size", pa.int64()), ("modified", pa.int64())]
)


@dataclass(frozen=True)
class ScorePlan:
    """How an input is scored. Small enough to be sent to every worker.

    Attributes:
        identity: unique for each plan; every file of the output records the plan that it belongs to.
        input: the input's address.
        output: the output's address.
        kind: what the input holds, see `options.InputKind`.
        options: how the input is read.
        model: the model's name.
        model_sha256: the SHA-256 of the model file.
        parts: number of parts.
        rows: rows of the input; -1 if the number is only known after reading.
        problems: what could not be read when the plan was made, one line each.
        left_out: what else was found and not taken, with counts.
        folders: names of values in the input's folders (`label=happy/`), each a column of the output.
        labels: the model's labels, in its order.
    """

    identity: str
    input: str
    output: str
    kind: str
    options: InputOptions
    model: str
    model_sha256: str
    parts: int
    rows: int
    problems: tuple[str, ...]
    left_out: dict[str, int]
    folders: tuple[str, ...] = ()
    labels: tuple[str, ...] = EMOTIONS

    def source(self) -> InputSource:
        """The source that reads the parts."""
        return _source(self.kind, Place(self.input), Place(self.output), self.options, self.labels)

    def left_out_line(self) -> str:
        """What the input holds that is not scored, as one line; empty if nothing was left out."""
        return str(LeftOut(Counter(self.left_out)))

    def list_parts(self) -> list[InputPart]:
        """All parts, in order.

        Raises:
            DataError: the list is missing or damaged.
        """
        damaged = f"{Place(self.output)}/{PARTS} is damaged: start over with --restart"
        try:
            with Place(self.output).open(PARTS) as stream:
                table = pq.read_table(stream)
        except (pa.ArrowException, OSError) as error:
            raise DataError(damaged) from error
        if table.schema.remove_metadata() != _SCHEMA or any(column.null_count for column in table.columns):
            raise DataError(damaged)
        parts = [InputPart(**row) for row in table.to_pylist()]
        if len(parts) != self.parts or any(part.first < 0 or part.rows < -1 for part in parts):
            raise DataError(damaged)
        return parts


def part_name(number: int) -> str:
    """The output file of a part."""
    return f"part-{number:08d}.parquet"


def find_kind(place: Place, *, wanted: str | None = None) -> str:
    """What kind of input a place holds: `wanted`, or the kind of the first file whose ending is known.

    Raises:
        DataError: nothing is there, or nothing of a known kind.
    """
    kind = place.kind()
    if kind == "nothing":
        raise DataError(f"{place}: no such file or folder")
    if kind == "other":
        raise DataError(f"{place}: neither a file nor a folder")
    if wanted is not None:
        return wanted
    suffixes = {"parquet": PARQUET_SUFFIXES, "webdataset": SHARD_SUFFIXES, "images": PICTURE_SUFFIXES}
    listed = tuple(suffix for endings in suffixes.values() for suffix in endings)
    left_out = LeftOut()
    names = [os.fsencode(place.address)] if kind == "file" else (file.name for file in place.walk(listed, left_out))
    for name in names:
        for known, endings in suffixes.items():
            if name.lower().endswith(endings):
                return known
    what = "is no Parquet file, WebDataset shard (.tar) or picture by its name: name the kind with --kind"
    if kind == "folder" or left_out.problems:
        what = f"holds no Parquet files, WebDataset shards (.tar) or pictures: {_instead(left_out)}"
    raise DataError(f"{place}: {what}")


def open_plan(output: Place) -> ScorePlan | None:
    """The plan stored in an output; None if there is none. Its `input` lacks a password that the address may need.

    Raises:
        DataError: it cannot be read, or another version of this program wrote it.
    """
    if not output.exists(PLAN):
        return None
    where = f"{output}/{PLAN}"
    text = output.read(PLAN.encode(), maximum_bytes=MAXIMUM_TEXT_BYTES, what="plan")
    try:
        return _restored(parse_json(text, source=PLAN, what="plan", error=DataError), output)
    except (DataError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{where} cannot be read: {one_line(error)}: start over with --restart") from error


def _restored(content: Any, output: Place) -> ScorePlan:
    """A plan from its JSON. Values of another type, or out of range, raise ValueError, LookupError or TypeError."""
    if content.pop("format") != FORMAT:
        raise ValueError("another version of ferdeploy wrote it")
    stored = content.pop("options")
    options = InputOptions(**stored | {"keep": stored["keep"] if stored["keep"] is None else tuple(stored["keep"])})
    numbers = (options.rows_per_part, options.block_rows, options.maximum_pixels, content["parts"], content["rows"] + 2)
    if not all(type(number) is int and 0 < number < 1 << 60 for number in numbers):
        raise ValueError("a number is out of range")
    texts = [content[name] for name in ("identity", "input", "kind", "model", "model_sha256")]
    lists = [content["problems"], content.get("folders", []), content.get("labels", []), options.keep or ()]
    texts += [options.column, *(text for one in lists for text in one)]
    left_out = {str(reason): int(count) for reason, count in content["left_out"].items()}
    if not all(isinstance(text, str) for text in texts) or content["kind"] not in get_args(InputKind):
        raise ValueError("a value is of another type")
    restored = {"options": options, "output": output.address, "left_out": left_out}
    restored |= {name: tuple(content.get(name, ())) for name in ("problems", "folders")}
    restored |= {"labels": tuple(content.get("labels", EMOTIONS))}
    return ScorePlan(**content | restored)


def make_plan(
    input_place: Place,
    output: Place,
    *,
    kind: str,
    options: InputOptions,
    model: str,
    model_sha256: str,
    labels: tuple[str, ...] = EMOTIONS,
) -> ScorePlan:
    """Split an input into parts, and store the plan in the output.

    Raises:
        DataError: the input holds nothing to score, or an option does not fit it.
    """
    left_out = LeftOut()
    source = _source(kind, input_place, output, options, labels)
    rows = parts = 0
    folders: dict[bytes, None] = {}  # a set that keeps its order
    with output.writing(PARTS) as temporary:
        for part in _write_parts(source.parts(left_out), temporary):
            parts += 1
            folders[part.file.rpartition(b"/")[0] + b"/"] = None
            rows = rows + part.rows if rows >= 0 <= part.rows else -1
        if not parts:
            raise DataError(f"{input_place}: nothing to score as {kind}: {_instead(left_out)}")
    plan = ScorePlan(
        identity=uuid.uuid4().hex,
        input=input_place.address,
        output=output.address,
        kind=kind,
        options=options,
        model=model,
        model_sha256=model_sha256,
        parts=parts,
        rows=rows,
        problems=tuple(left_out.problems),
        left_out=dict(sorted(left_out.counts.items())),
        labels=labels,
        folders=folder_names(shown(name) for name in (source.names() if isinstance(source, Images) else folders)),
    )
    # Passwords in addresses are not stored: whoever resumes the run names the input again.
    addresses = {"input": input_place.public_address, "output": output.public_address}
    content = {"format": FORMAT} | asdict(plan) | addresses
    output.write(PLAN, json.dumps(content, indent=2).encode())
    return plan


def _instead(left_out: LeftOut) -> str:
    """What a folder holds that cannot be scored."""
    return left_out.problems[0] if left_out.problems else str(left_out) or "it is empty"


def check_same(plan: ScorePlan, **wanted: Any) -> None:
    """Refuse to continue a run that has other settings.

    Args:
        plan: the plan in the output.
        wanted: fields of `ScorePlan` and the values they must have. `block_rows` may differ: it changes no result.

    Raises:
        DataError: a value differs.
    """
    for name, value in wanted.items():
        stored = getattr(plan, name)
        if name == "options":
            for field in fields(InputOptions):
                old, new = getattr(stored, field.name), getattr(value, field.name)
                if old != new and field.name != "block_rows":
                    raise _other_run(plan, field.name, old, new)
        elif stored != value:
            raise _other_run(plan, name, stored, value)


def remove_run(output: Place) -> None:
    """Remove a run's files from an output. The plan goes first, so an interrupted removal never looks complete."""
    for name in (PLAN, SUMMARY, PARTS, LIST, *output.names("part-")):
        output.delete(name)
    remove_leftovers(output)


def remove_leftovers(output: Place) -> None:
    """Remove what killed workers left behind: half-written files and counts of attempts."""
    for name in output.names("."):
        if name.startswith((".part-", ".attempts-")):
            output.delete(name)


def _other_run(plan: ScorePlan, name: str, stored: Any, wanted: Any) -> DataError:
    return DataError(
        f"{Place(plan.output)} holds a run with another {name.replace('_', ' ')} ({stored}, not {wanted}): "
        "choose another folder, or start over with --restart"
    )


def _source(kind: str, place: Place, output: Place, options: InputOptions, labels: tuple[str, ...]) -> InputSource:
    if kind == "parquet":
        return ParquetFiles(place, options, labels=labels)
    if kind == "webdataset":
        return WebDataset(place, options)
    return Images(place, output, options)


def _write_parts(parts: Iterator[InputPart], path: Path) -> Iterator[InputPart]:
    """Pass the parts on, and write their list to `path` meanwhile, so that the list is never in memory whole."""
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
