"""Results as rows, with the same columns in JSON, CSV and Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fer_deploy.emotions import label_columns
from fer_deploy.errors import printable
from fer_deploy.recognizer import Recognition

PLACE_COLUMNS = ("left", "top", "right", "bottom", "score")
"""A face's box and the detector's score; empty if the picture is one face.

The box is in pixels of the picture or frame as it is shown: upright, with square pixels."""

_OWN_COLUMNS = frozenset(
    {
        "file",
        "frame",
        "time_s",
        "track",
        *PLACE_COLUMNS,
        "label",
        "probability",
        "smoothed_label",
        "smoothed_probability",
    }
)


@dataclass(frozen=True)
class FaceRow:
    """One face.

    Attributes:
        file: the picture's or video's path as text, which may hold control characters.
        face: the result.
        frame: the frame's number from 0; None for a picture.
        time_s: the frame's time in seconds; None for a picture.
        track: the face's number within its video, the same in all its frames; None for a picture.
        smoothed: the face's result, smoothed over time; None for a picture.
    """

    file: str
    face: Recognition
    frame: int | None = None
    time_s: float | None = None
    track: int | None = None
    smoothed: Recognition | None = None


def columns(labels: Sequence[str], *, video: bool) -> dict[str, type]:
    """The columns in order, each name with the type of its values.

    Args:
        labels: the model's labels.
        video: whether to include the columns for videos.

    >>> list(columns(["sad", "happy"], video=False))
    ['file', 'left', 'top', 'right', 'bottom', 'score', 'label', 'probability', 'sad', 'happy']
    """
    names: dict[str, type] = {"file": str}
    if video:
        names |= {"frame": int, "time_s": float, "track": int}
    names |= dict.fromkeys(PLACE_COLUMNS, float)
    names |= {"label": str, "probability": float} | dict.fromkeys(probability_columns(labels), float)
    if video:
        names |= {"smoothed_label": str, "smoothed_probability": float}
        names |= {f"smoothed_{name}": float for name in probability_columns(labels)}
    return names


def probability_columns(labels: Sequence[str]) -> tuple[str, ...]:
    """The columns of the labels' probabilities: the labels or, for one named as another column, `probability_<label>`.

    They do not depend on whether there are videos.
    """
    return label_columns(labels, _OWN_COLUMNS.union(f"smoothed_{label}" for label in labels))


def as_values(row: FaceRow, labels: Sequence[str], *, video: bool) -> dict[str, Any]:
    """A row's value for each of `columns`; None where it does not apply."""
    box = row.face.box
    values: dict[str, Any] = {"file": printable(row.file)}
    if video:
        time = None if row.time_s is None else round(row.time_s, 6)
        values |= {"frame": row.frame, "time_s": time, "track": row.track}
    values |= {name: None if box is None else round(float(getattr(box, name)), 3) for name in PLACE_COLUMNS}
    values |= _probabilities(row.face, labels, "")
    if video:
        values |= _probabilities(row.smoothed, labels, "smoothed_")
    return values


def as_json(row: FaceRow) -> dict[str, Any]:
    """A row as a JSON object, without the keys that do not apply."""
    values: dict[str, Any] = {"file": row.file}
    if row.frame is not None:
        values |= {"frame": row.frame, "time_s": round(row.time_s or 0.0, 6), "track": row.track}
    values |= _plain(row.face)
    if row.smoothed is not None:
        smoothed = _plain(row.smoothed)
        values["smoothed"] = {"label": smoothed["label"], "probabilities": smoothed["probabilities"]}
    return values


def _plain(face: Recognition) -> dict[str, Any]:
    values = face.as_dict()
    values["probabilities"] = {label: round(value, 6) for label, value in values["probabilities"].items()}
    if values["box"] is None:
        del values["box"]
    else:
        values["box"] = {edge: round(value, 3) for edge, value in values["box"].items()}
    return values


def _probabilities(face: Recognition | None, labels: Sequence[str], prefix: str) -> dict[str, Any]:
    named = list(zip(probability_columns(labels), labels, strict=True))
    if face is None:
        return dict.fromkeys([f"{prefix}label", f"{prefix}probability", *(f"{prefix}{name}" for name, _ in named)])
    return {
        f"{prefix}label": face.label,
        f"{prefix}probability": round(face.probability, 6),
        **{f"{prefix}{name}": round(face.probabilities[label], 6) for name, label in named},
    }
