"""The target of each face: its one label, or the shares of FER+'s votes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fer_deploy.emotions import EMOTIONS, emotion_index
from fer_deploy.errors import DataError
from fer_deploy.faces import Faces
from fer_deploy.faces.dataset import VOTE_NAMES


def soft_labels(
    faces: Faces, labels: Literal["fer2013", "ferplus"], *, classes: Sequence[str] = EMOTIONS
) -> tuple[torch.Tensor, NDArray[np.bool_]]:
    """Targets for training or validation, and which faces have one.

    FER+ targets are the votes for the classes as shares; faces with no such vote, or whose most frequent vote is for
    something else (unknown, "not a face" and, where it is no class, contempt), are left out (Barsoum et al., 2016).

    Args:
        faces: n of them.
        labels: the recipe's; `fer2013` are the faces' own labels, whatever they are.
        classes: the names of the data's classes, c of them.

    Returns:
        float32 (kept, c), rows summing to one; bool (n,).

    Raises:
        DataError: the labels are FER+'s and the data has no votes.
    """
    if labels == "fer2013":
        targets = torch.nn.functional.one_hot(torch.from_numpy(faces.labels), len(classes)).float()
        return targets, np.ones(len(faces), bool)
    if faces.votes is None:
        raise DataError(
            "the recipe trains on FER+ votes and the data has none: put fer2013new.csv into the same folder"
        )
    votes = faces.votes.astype(np.float32)
    ours = np.zeros((len(faces), len(classes)), np.float32)
    for column, name in enumerate(VOTE_NAMES):
        place = emotion_index(name)
        label = name if place is None else EMOTIONS[place]
        if label in classes:
            ours[:, classes.index(label)] = votes[:, column]
    total = ours.sum(1)
    kept = (total > 0) & (ours.max(1) >= votes.max(1))
    return torch.from_numpy(ours[kept] / total[kept, None]), kept


def with_ferplus_labels(faces: Faces) -> Faces | None:
    """The faces to which FER+ gives one of the seven emotions, labelled by the most frequent vote; None without votes.

    FER+ variants are scored on these: they did not learn FER2013's labels.
    """
    if faces.votes is None:
        return None
    targets, kept = soft_labels(faces, "ferplus")
    return dataclasses.replace(faces.take(kept), labels=targets.argmax(1).numpy().astype(faces.labels.dtype))
