"""`curves.png`: a run's loss, accuracy and learning rate over its epochs."""

from __future__ import annotations

import csv
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

from fer_deploy.errors import RunError, one_line
from fer_deploy.files import read_text, replacing
from fer_deploy.training.record import read_record, required

_COLUMNS = ("training_loss", "validation_loss", "training_accuracy", "validation_accuracy", "lr")
_MACRO_F1 = "validation_macro_f1"
"""A column of runs whose best epoch it chooses."""


def draw_curves(folder: Path) -> Path:
    """Draw loss, accuracy and learning rate over the epochs of a run, its stages marked.

    Args:
        folder: a run folder with `history.csv`, and `run.json` for the best epoch.

    Returns:
        The path of `curves.png` in it.

    Raises:
        RunError: the run has no history yet.
    """
    # It warns on stderr of a home folder that it cannot write to; here that only costs the time to list fonts.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = _read_history(folder / "history.csv")
    epochs = [int(row["epoch"]) for row in rows]
    column = columns.__getitem__
    figure = Figure(figsize=(8, 8), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2, 1))
    loss.plot(epochs, column("training_loss"), label="training", color="#9aa0a6")
    loss.plot(epochs, column("validation_loss"), label="validation", color="#1f6feb")
    loss.set_ylabel("loss")
    validation, title = column("validation_accuracy"), "best"
    accuracy.set_ylabel("accuracy")
    accuracy.plot(epochs, column("training_accuracy"), label="training (augmented)", color="#9aa0a6")
    accuracy.plot(epochs, validation, label="validation", color="#1f6feb")
    if _MACRO_F1 in columns:
        accuracy.plot(epochs, column(_MACRO_F1), label="validation macro-F1", color="#bf8700")
        accuracy.set_ylabel("accuracy, macro-F1")
        validation, title = column(_MACRO_F1), "best macro-F1"
    best = _best(folder, epochs, validation)
    title = f"{title} {validation[best]:.2%}, epoch {epochs[best]}"
    accuracy.plot(epochs[best], validation[best], "o", color="#d1242f", label=title)
    rate.plot(epochs, column("lr"), color="#1a7f37")
    rate.set_yscale("log")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("epoch")
    rate.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    _mark_stages(rows, loss, accuracy, rate)
    for axes in (loss, accuracy):
        axes.legend(frameon=False)
    figure.suptitle(folder.name)
    target = folder / "curves.png"
    with replacing(target) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return target


def _read_history(path: Path) -> tuple[list[dict[str, str]], dict[str, list[float]]]:
    """The rows of history.csv, and the columns that are drawn."""
    if not path.exists():
        raise RunError(f"{path.parent}: has no history.csv yet")
    rows = list(csv.DictReader(read_text(path, what="history", error=RunError).splitlines()))
    if not rows:
        raise RunError(f"{path}: has no epoch yet")
    try:
        for row in rows:
            int(row["epoch"]), int(row["stage"])
        names = (*_COLUMNS, _MACRO_F1) if _MACRO_F1 in rows[0] else _COLUMNS
        return rows, {name: [float(row[name]) for row in rows] for name in names}
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: damaged history ({one_line(error)}): train again with --restart") from error


def _mark_stages(rows: list[dict[str, str]], first: Any, *others: Any) -> None:
    """Draw a line where a stage begins, and write its number above the first of the diagrams."""
    starts = [row for before, row in pairwise(rows) if before["stage"] != row["stage"]]
    for axes in (first, *others):
        axes.grid(alpha=0.25)
        for row in starts:
            axes.axvline(int(row["epoch"]) - 0.5, color="black", linewidth=0.8, linestyle=":")
    for row in rows[:1] + starts:
        place = (int(row["epoch"]) - 0.4, 1.01)
        first.annotate(f"stage {row['stage']}", place, xycoords=("data", "axes fraction"), fontsize=8)


def _best(folder: Path, epochs: list[int], scores: list[float]) -> int:
    """The index of the epoch whose weights were saved; without a record of it, of the highest score."""
    try:
        path = folder / "run.json"
        return epochs.index(required(read_record(path), "best.epoch", path))
    except (RunError, ValueError):
        return max(range(len(epochs)), key=scores.__getitem__)
