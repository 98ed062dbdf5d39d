"""Label sets other than the seven, for tests of every part that labels pass through."""

from __future__ import annotations

from fer_deploy.emotions import EMOTIONS

LABEL_SETS: dict[str, tuple[str, ...]] = {
    "eight with contempt": (*EMOTIONS, "contempt"),
    "three of valence": ("negative", "neutral", "positive"),
    "five of the seven": ("angry", "happy", "sad", "surprise", "neutral"),
    "the seven in another order": tuple(sorted(EMOTIONS)),
    "Chinese": ("高兴", "难过", "生气", "惊讶"),
    "Arabic": ("سعيد", "حزين", "غاضب"),
    "emoji": ("😀", "😢", "😡", "😮"),
    "two": ("smiling", "not smiling"),
    "thirty": tuple(f"class {number}" for number in range(30)),
}
"""By what they are."""
