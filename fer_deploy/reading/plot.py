"""Plot the probabilities of a video's faces over time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_deploy.errors import UnavailableError, install
from fer_deploy.files import replacing
from fer_deploy.fonts import font_for, joins_letters, missing_notes, numbered
from fer_deploy.reading.draw import colours_of
from fer_deploy.reading.rows import FaceRow

MAXIMUM_TRACKS = 6
"""The plot shows at most this many faces: those seen longest."""

MAXIMUM_LINES = 12
"""A panel has at most this many lines: those of the labels that reach the highest probabilities."""


def plot_probabilities(path: Path, rows: Sequence[FaceRow], labels: Sequence[str], *, title: str) -> list[str]:
    """Draw one panel per face with its smoothed probabilities as lines over time.

    Args:
        path: the PNG file.
        rows: a video's rows, in order of time.
        labels: the model's labels.
        title: the heading, such as the video's name.

    Returns:
        What the plot leaves out or replaces, one sentence each.

    Raises:
        UnavailableError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnavailableError(f"plots need matplotlib: {install('video')}") from error
    tracks: dict[int, list[FaceRow]] = {}
    for row in rows:
        tracks.setdefault(row.track or 0, []).append(row)
    longest = sorted(tracks, key=lambda track: (-len(tracks[track]), track))
    drawn = sorted(longest[:MAXIMUM_TRACKS])
    lines = _labels_to_draw([row for track in drawn for row in tracks[track]], labels)
    colours = colours_of(labels)
    figure = Figure(figsize=(10, 1.2 + 2.1 * max(1, len(drawn))), layout="constrained")
    FigureCanvasAgg(figure)
    _write(figure.suptitle(""), title)
    panels = figure.subplots(max(1, len(drawn)), 1, sharex=True, squeeze=False)[:, 0]
    for panel, track in zip(panels, drawn, strict=False):
        times = [row.time_s or 0.0 for row in tracks[track]]
        faces = [row.smoothed or row.face for row in tracks[track]]
        for label in lines:
            colour = tuple(value / 255 for value in colours[label])
            values = [face.probabilities[label] for face in faces]
            panel.plot(times, values, color=colour, linewidth=1.6, marker="." if len(times) < 3 else None)
        panel.set_ylim(0, 1)
        panel.set_ylabel(f"face {track}")
        panel.grid(alpha=0.25)
    if not drawn:
        panels[0].text(0.5, 0.5, "no face found", ha="center", transform=panels[0].transAxes)
    else:
        places = [str(number) for number, _ in enumerate(lines)]  # Matplotlib leaves out names that begin with _
        legend = panels[0].legend(
            panels[0].lines, places, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=7, frameon=False
        )
        for entry, label in zip(legend.get_texts(), lines, strict=True):
            _write(entry, label if _can_write(label) else numbered(label, labels))
    panels[-1].set_xlabel("seconds")
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # characters of the title that no font has become boxes
        figure.savefig(temporary, format="png", dpi=120)
    notes = []
    if len(longest) > len(drawn):
        notes.append(f"the plot shows the faces seen longest and leaves out {len(longest) - len(drawn)}")
    if len(labels) > len(lines):
        notes.append(
            f"the plot shows the {len(lines)} labels that reach most, and leaves out {len(labels) - len(lines)}"
        )
    return [*notes, *missing_notes(labels, missing=[label for label in lines if not _can_write(label)])]


def _labels_to_draw(rows: Sequence[FaceRow], labels: Sequence[str]) -> list[str]:
    """At most MAXIMUM_LINES labels, in their order: those that reach the highest probabilities."""
    peaks = {
        label: max(((row.smoothed or row.face).probabilities[label] for row in rows), default=0.0) for label in labels
    }
    kept = set(sorted(labels, key=lambda label: -peaks[label])[:MAXIMUM_LINES])
    return [label for label in labels if label in kept]


def _can_write(text: str) -> bool:
    """Whether a font here has the text's characters, and this Matplotlib joins them: older ones join no letters."""
    import matplotlib

    return font_for(text) is not None and (matplotlib.__version_info__ >= (3, 11) or not joins_letters(text))


def _write(place: Any, text: str) -> None:
    """Write a text into a place of the figure, in a font that has its characters."""
    place.set_text(text.replace("$", r"\$"))
    if font := font_for(text):  # the plain font of Matplotlib has what BUILT_IN has
        from matplotlib.font_manager import FontProperties

        place.set_fontproperties(FontProperties(fname=font, size=place.get_fontsize()))
