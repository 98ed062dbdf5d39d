"""What a scoring run can be configured with. Light: the command line builds its options from these dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

InputKind = Literal["parquet", "images", "webdataset"]
"""Parquet files, a folder of pictures, or WebDataset shards."""


@dataclass(frozen=True)
class InputOptions:
    """How the input is split and read."""

    column: str = ""
    """The Parquet column, or the ending of the shard members, that holds the picture. Default: detected."""

    keep: tuple[str, ...] | None = None
    """Names of the Parquet columns to copy to the output; None copies all but the picture."""

    rows_per_part: int = 10_000
    """Approximate rows per output file. A crash loses at most this many rows per worker."""

    block_rows: int = 512
    """Rows that a worker reads, decodes and computes at a time. Memory grows with it."""

    maximum_pixels: int = 80_000_000
    """Pictures with more pixels than this (in millions) get an error instead of a result."""


@dataclass(frozen=True)
class WorkerOptions:
    """How many processes compute, and on what."""

    workers: int | None = None
    """Worker processes. Default: as many as the machine or cluster has room for."""

    threads: int = 1
    """Processor threads of each worker; a worker reserves as many cores."""

    providers: tuple[str, ...] = ("cpu",)
    """ONNX Runtime's execution providers, best first. If the first is not `cpu`, each worker reserves one GPU."""

    part_minutes: float = 60.0
    """Minutes that a part may take. A part that takes longer is given up and reported; the others are computed."""

    address: str = ""
    """A running Ray cluster, as HOST:PORT, or `auto` on one of its machines. Default: start Ray on this machine."""


@dataclass(frozen=True)
class ScoreJob:
    """One run: what to score, with what model, and where the results go.

    Attributes:
        input: a folder, a file or an address (`s3://...`).
        output: a folder or an address.
        model: an ONNX file; None takes the default model.
        kind: what the input holds; None detects it.
        options: how the input is read.
        workers: how many processes compute, and on what.
        restart: delete the results of an earlier run in `output` first.
    """

    input: str
    output: str
    model: str | None = None
    kind: InputKind | None = None
    options: InputOptions = field(default_factory=InputOptions)
    workers: WorkerOptions = field(default_factory=WorkerOptions)
    restart: bool = False
