"""Plot the probabilities of a video's faces over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fer_deploy.errors import UnavailableError, install
from fer_deploy.files import replacing
from fer_deploy.reading.draw import COLOURS
from fer_deploy.reading.rows import FaceRow

MAXIMUM_TRACKS = 6
"""The plot shows at most this many faces: those seen longest."""


def plot_probabilities(path: Path, rows: Sequence[FaceRow], labels: Sequence[str], *, title: str) -> int:
    """Draw one panel per face with its smoothed probabilities as lines over time.

    Args:
        path: the PNG file.
        rows: a video's rows, in order of time.
        labels: the model's labels.
        title: the heading, such as the video's name.

    Returns:
        How many faces were left out because the plot shows at most MAXIMUM_TRACKS.

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
    figure = Figure(figsize=(10, 1.2 + 2.1 * max(1, len(drawn))), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title.replace("$", r"\$"))
    panels = figure.subplots(max(1, len(drawn)), 1, sharex=True, squeeze=False)[:, 0]
    for panel, track in zip(panels, drawn, strict=False):
        times = [row.time_s or 0.0 for row in tracks[track]]
        faces = [row.smoothed or row.face for row in tracks[track]]
        for label in labels:
            colour = tuple(value / 255 for value in COLOURS.get(label, (0, 0, 0)))
            values = [face.probabilities[label] for face in faces]
            panel.plot(times, values, color=colour, label=label, linewidth=1.6, marker="." if len(times) < 3 else None)
        panel.set_ylim(0, 1)
        panel.set_ylabel(f"face {track}")
        panel.grid(alpha=0.25)
    if not drawn:
        panels[0].text(0.5, 0.5, "no face found", ha="center", transform=panels[0].transAxes)
    else:
        panels[0].legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=7, frameon=False)
    panels[-1].set_xlabel("seconds")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return len(longest) - len(drawn)
