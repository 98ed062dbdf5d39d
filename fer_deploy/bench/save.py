"""Write a result: report.json, the pages made from it, and every face's probabilities where they are wanted.

A report is never replaced by one with fewer figures: `folder_for` chooses a subfolder for that one.
"""

from __future__ import annotations

import csv
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from fer_deploy.bench.pages import SortKey
from fer_deploy.bench.pages.html import html_report
from fer_deploy.bench.pages.markdown import markdown_report
from fer_deploy.bench.report import OK, Report, Row, load_report, report_text
from fer_deploy.bench.run import BenchResult
from fer_deploy.emotions import label_columns
from fer_deploy.errors import MeasurementError
from fer_deploy.files import lock, replacing, shown, write_text

LEFTOVER_AGE_S = 600
"""Writing takes less than a second: an older temporary file was left by a kill."""

PARTIAL, WORSE = "partial", "worse"
"""Subfolders for a report with fewer figures than the present one, and for one that is worse than its baseline."""


def check_folder(folder: Path, *, predictions: bool = False) -> None:
    """Check that a report can be written below `folder`, before minutes are spent on measuring.

    Nothing is created. Links to folders are followed.

    Raises:
        MeasurementError: something on the way is not a folder, or may not be written to.
    """
    for path in (folder, folder / PARTIAL, folder / WORSE, *([folder / "predictions"] if predictions else [])):
        nearest = next(parent for parent in (path, *path.absolute().parents) if parent.exists() or parent.is_symlink())
        if not nearest.is_dir():
            raise MeasurementError(f"{shown(nearest)}: not a folder: name another one with --output")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise MeasurementError(f"{shown(nearest)}: this folder is not writable: name another one with --output")


def folder_for(
    report: Report, folder: Path, *, measured_all: bool = False, baseline: Path | None = None
) -> tuple[Path, str]:
    """Where to write a report so that nothing better is lost.

    Args:
        report: the new one.
        folder: where it should go.
        measured_all: whether everything in the workspace was measured: then rows of models that are gone are no loss.
        baseline: the earlier report that it is worse than; None where it was not compared, or is not worse.

    Returns:
        The folder, and a sentence about the report that is kept; empty where none is in the way.
    """
    path = folder / "report.json"
    if baseline and baseline.resolve() == path.resolve():
        # otherwise the next run would be compared with this one, and find nothing
        return folder / WORSE, f"{path} was kept as the baseline; the new report is in {folder / WORSE}"
    if not path.exists() and not path.is_symlink():
        return folder, ""
    try:
        losses = list(lost_figures(load_report(path), report, measured_all=measured_all))
        if not losses:
            return folder, ""
        more = f" (and {len(losses) - 1} more)" if len(losses) > 1 else ""
        reason = f"it has what the new report lacks: {losses[0]}{more}"
    except MeasurementError as error:
        reason = f"it is not a report of this version ({error})"
    return folder / PARTIAL, (
        f"{path} was kept, {reason}. The new report is in {folder / PARTIAL}: to replace the old one, delete it first, "
        "or choose another folder with --output"
    )


def lost_figures(old: Report, new: Report, *, measured_all: bool = False) -> Iterator[str]:
    """What `old` has and `new` lacks, one short reason each; none when `new` can replace it.

    Args:
        old: the report in place.
        new: the report to write.
        measured_all: whether `new` measured everything in the workspace on its engines.
    """
    if old.data and not new.data:
        yield f"accuracy on {old.data.name}"
    elif old.data and new.data:
        if old.data.name != new.data.name:
            yield f"accuracy on {old.data.name}, not on {new.data.name}"
        if new.data.rows < old.data.rows:
            yield f"{old.data.rows:,} scored faces instead of {new.data.rows:,}"
    old_plan, new_plan = old.settings.get("latency") or {}, new.settings.get("latency") or {}
    for key in ("samples", "seconds"):
        if new_plan and new_plan.get(key, 0) < old_plan.get(key, 0):
            yield f"times with {old_plan[key]:g} {key} per row instead of {new_plan.get(key, 0):g}"
    for before in old.rows:
        if before.status != OK:
            continue
        after = new.row(before.label)
        if after is None:
            is_gone = measured_all and before.engine in new.settings["engines"]
            if not is_gone:
                yield f"a row {before.label}"
        elif after.status != OK:
            yield f"figures of {before.label}, which failed now: {after.status}"
        elif missing := _missing(before, after):
            yield f"the {missing} of {before.label}"


def _missing(before: Row, after: Row) -> str:
    """The first group of figures that one row has and another lacks."""
    groups = {"quality": "accuracy", "latency": "times", "throughput": "throughput", "load": "loading time"}
    names = (name for key, name in groups.items() if getattr(before, key) and not getattr(after, key))
    return next(names, "GFLOPs" if before.cost.gflops and not after.cost.gflops else "")


def save_pages(report: Report, folder: Path, *, by: SortKey = "accuracy") -> list[Path]:
    """Write report.json and the pages made from it; none is replaced before all are written in full."""
    _remove_leftovers(folder)
    texts = {
        folder / "report.json": report_text(report),
        folder / "report.md": markdown_report(report, by=by),
        folder / "report.html": html_report(report, by=by),
    }
    # the lock keeps the files of two runs at the same time from being mixed
    with lock(folder / ".report.lock"), uninterrupted(), ExitStack() as moves:
        for path, text in reversed(texts.items()):  # the stack moves the last one first: report.json
            moves.enter_context(replacing(path)).write_text(text, encoding="utf-8", newline="\n")
    return list(texts)


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files of runs that were killed while they wrote, unless a run may be writing them now."""
    for path in folder.glob(".report.*.partial"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - LEFTOVER_AGE_S:
                path.unlink()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the block ends, so that files which belong together are replaced together."""
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield
        return
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda received_number, _frame: received.append(received_number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in received:
            signal.raise_signal(late)


def save_predictions(result: BenchResult, folder: Path) -> list[Path]:
    """Write one CSV per scored row: the face's row in the data, its label, the answer, each label's probability."""
    names = np.asarray(result.report.labels)
    heading = ["row", "label", "predicted", *label_columns(result.report.labels, ("row", "label", "predicted"))]
    written = []
    for label, probabilities in result.probabilities.items():
        path = folder / f"{label.replace(' on ', '.').replace('/', '~')}.csv"
        answers = names[probabilities.argmax(axis=1)]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(heading)
        for row, true, answer, values in zip(result.rows, names[result.labels], answers, probabilities, strict=True):
            table.writerow([row, true, answer, *(f"{value:.6f}" for value in values)])
        write_text(path, text.getvalue())
        written.append(path)
    return written
