"""The seven labels, in FER2013's order, and the names that other people give them."""

from __future__ import annotations

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
