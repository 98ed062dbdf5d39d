"""The faces of one run, on the device: what it learns from, and what its epochs are validated on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError
from fer_deploy.faces import Dataset, Faces
from fer_deploy.faces.unlabelled import read_unlabelled
from fer_deploy.recipes import Recipe
from fer_deploy.training.targets import soft_labels


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Faces that the teachers label as one set, because their answers are cached together."""

    images: torch.Tensor
    """uint8 (n, 48, 48)."""
    sha256: str
    """SHA-256 of the pixels in their order, 64 hexadecimal digits."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """All faces of a run: n labelled ones, then m unlabelled ones."""

    images: torch.Tensor
    """uint8 (n + m, 48, 48)."""
    targets: torch.Tensor
    """float32 (n + m, 7): each row sums to one, but an unlabelled face's is zero."""
    labelled: int
    """n."""
    face_sets: tuple[FaceSet, ...]
    """The labelled faces and, if there are any, the unlabelled ones."""
    unlabelled_sha256: str
    """SHA-256 of the unlabelled pixels; empty without any."""
    validation_images: torch.Tensor
    """uint8 (v, 48, 48)."""
    validation_targets: torch.Tensor
    """float32 (v, 7), rows that sum to one."""

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        recipe: Recipe,
        *,
        workspace: Path,
        device: torch.device,
        message: Callable[[str], None] = lambda _line: None,
    ) -> TrainingData:
        """The faces that a recipe uses of a data set and, for its unlabelled faces, of a workspace.

        Training faces whose pixels equal a validation or test face are left out. `message` is called with a line about
        the unlabelled faces.

        Raises:
            DataError: no training or no validation face remains, or the folder of unlabelled faces cannot be used.
        """
        training, targets = _labelled(dataset.clean_training, recipe)
        validation, validation_targets = _labelled(dataset.validation, recipe)
        if not len(training):
            raise _no_faces(dataset, dataset.training, "learn from")
        if not len(validation):
            raise _no_faces(dataset, dataset.validation, "choose the best epoch by")
        face_sets = [FaceSet(_on_device(training, device), training.images_sha256)]
        images, unlabelled_sha256 = face_sets[0].images, ""
        if recipe.distillation is not None and recipe.distillation.unlabelled:
            unlabelled = read_unlabelled(workspace / recipe.distillation.unlabelled, dataset, message=message)
            unlabelled_sha256 = hashlib.sha256(unlabelled.data).hexdigest()
            face_sets.append(FaceSet(torch.from_numpy(unlabelled).to(device), unlabelled_sha256))
            images = torch.cat([faces.images for faces in face_sets])
            targets = torch.cat([targets, targets.new_zeros(len(unlabelled), len(EMOTIONS))])
        return cls(
            images=images,
            targets=targets.to(device),
            labelled=len(training),
            face_sets=tuple(face_sets),
            unlabelled_sha256=unlabelled_sha256,
            validation_images=_on_device(validation, device),
            validation_targets=validation_targets.to(device),
        )

    def __len__(self) -> int:
        return len(self.images)


def _labelled(faces: Faces, recipe: Recipe) -> tuple[Faces, torch.Tensor]:
    """The faces that have a target under the recipe's labels, and their targets."""
    targets, has_target = soft_labels(faces, recipe.labels)
    return faces.take(has_target), targets


def _on_device(faces: Faces, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(faces.images)).to(device)


def _no_faces(dataset: Dataset, given: Faces, purpose: str) -> DataError:
    return DataError(
        f"{dataset.name}: none of {len(given):,} faces is left to {purpose}: each equals a face of a later split, or "
        "has no label: check how the data was split"
    )
