"""The seven labels, in FER2013's order, and the names that other people give them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

EMOTIONS: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The labels in FER2013's order: position i is class i, in data, networks, files and reports alike."""

ALIASES: dict[str, str] = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "scared": "fear",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprised": "surprise",
    "suprise": "surprise",
    "calm": "neutral",
}
"""Other spellings met in public copies of the data, lower case, each with its label."""


def emotion_index(name: str) -> int | None:
    """The class (0 to 6) that a name in any case means, or None when it is not one of the seven."""
    plain = name.strip().lower()
    label = ALIASES.get(plain, plain)
    return EMOTIONS.index(label) if label in EMOTIONS else None


def label_columns(labels: Sequence[str], taken: Collection[str]) -> tuple[str, ...]:
    """The columns of a table that hold the labels' probabilities: the labels, but for those that the table takes.

    >>> label_columns(["happy", "file"], taken={"file", "label"})
    ('happy', 'probability_file')
    """
    names: list[str] = []
    for label in labels:
        name = label
        while name in taken or name in names or (name != label and name in labels):
            name = f"probability_{name}"
        names.append(name)
    return tuple(names)
