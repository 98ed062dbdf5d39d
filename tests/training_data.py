"""Data sets of any labels, sizes and counts, drawn for tests of training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fer_deploy.faces import Dataset, Faces
from fer_deploy.faces.synthetic import colour_faces

EIGHT = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral", "contempt")
VALENCE = ("negative", "neutral", "positive")
SMALL_NETWORK = 'network = { name = "plain", options = { widths = [4, 8], depths = [1, 1], stem_stride = 2 } }'


def drawn_faces(counts: Sequence[int], *, side: int = 48, seed: int = 1) -> Faces:
    """Faces with so many of each class, classes beyond the seventh drawn as the first ones."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    pictures = colour_faces((labels % 7).tolist(), height=side, width=side, seed=seed, grey=True)
    grey = np.ascontiguousarray(pictures.reshape(len(labels), side, side, -1)[..., 0])
    return Faces(grey, labels, np.arange(len(labels)), classes=len(counts))


def drawn_dataset(labels: tuple[str, ...], *, counts: Sequence[int] | None = None, side: int = 48) -> Dataset:
    """A data set with these labels; `counts` are training faces of each class, 12 by default."""
    few = [3] * len(labels)
    return Dataset.of(
        "drawn",
        drawn_faces(counts or [12] * len(labels), side=side, seed=1),
        validation=drawn_faces(few, side=side, seed=2),
        test=drawn_faces(few, side=side, seed=3),
        official=False,
        labels=labels,
    )
