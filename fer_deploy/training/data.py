"""The faces of one run, on the device: what it learns from, and what its epochs are validated on."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError, RecipeError, one_line
from fer_deploy.faces import Dataset, Faces
from fer_deploy.faces.store import SIZE
from fer_deploy.faces.threads import Progress, no_progress
from fer_deploy.faces.unlabelled import read_unlabelled
from fer_deploy.labels import LabelMap
from fer_deploy.recipes import Recipe, Stage
from fer_deploy.training.losses import balanced_weights, weights_for
from fer_deploy.training.targets import soft_labels

if TYPE_CHECKING:
    from fer_deploy.faces.summary import Summary

LARGEST_SHARE = 0.5
"""Faces that need more than this share of a GPU's free memory stay on the CPU; each batch is copied from there."""

RESIZED_AT_ONCE = 256
"""Unlabelled faces that are resized at a time."""


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Faces that the teachers label as one set, because their answers are cached together."""

    count: int
    pictures: Callable[[int], NDArray[np.uint8]]
    """From a network's input size to the faces for it, uint8 (n, side, side); small pictures keep a smaller side."""
    hashed: Callable[[], str]
    device: torch.device
    _by_size: dict[int, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.count

    def at(self, input_size: int) -> torch.Tensor:
        """The faces for a network's input size, uint8 (n, side, side); kept, so that every call returns the same."""
        if input_size not in self._by_size:
            array = self.pictures(input_size)
            same = (tensor for tensor in self._by_size.values() if tensor.shape == array.shape)
            present = next(same, None)
            self._by_size[input_size] = _on_device(array, self.device) if present is None else present
        return self._by_size[input_size]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the pixels in their order, 64 hexadecimal digits."""
        return self.hashed()


@dataclass(frozen=True, eq=False)
class TrainingData:
    """All faces of a run: n labelled ones, then m unlabelled ones."""

    labels: tuple[str, ...]
    """The names of the classes, c of them."""
    input_size: int
    """Side in pixels of the network's input."""
    targets: torch.Tensor
    """float32 (n + m, c) on the device: each row sums to one, but an unlabelled face's is zero."""
    labelled: int
    """n."""
    face_sets: tuple[FaceSet, ...]
    """The labelled faces and, if there are any, the unlabelled ones."""
    unlabelled_sha256: str
    """SHA-256 of the unlabelled pixels; empty without any."""
    validation_images: torch.Tensor
    """uint8 (v, side, side)."""
    validation_targets: torch.Tensor
    """float32 (v, c) on the device, rows that sum to one."""
    _together: dict[int, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        recipe: Recipe,
        *,
        workspace: Path,
        device: torch.device,
        message: Callable[[str], None] = lambda _line: None,
        progress: Progress = no_progress,
    ) -> TrainingData:
        """The faces that a recipe uses of a data set and, for its unlabelled faces, of a workspace.

        Training faces whose pixels equal a validation or test face are left out. `message` is called with a line about
        the unlabelled faces, and `progress` while faces are resized.

        Raises:
            DataError: no training or no validation face remains, or the folder of unlabelled faces cannot be used.
            RecipeError: the recipe does not fit the data's labels, see `check_labels_of`.
        """
        check_labels_of(recipe, dataset)
        size = recipe.network.input_size
        training, targets = _labelled(dataset.clean_training, dataset, recipe)
        validation, validation_targets = _labelled(dataset.validation, dataset, recipe)
        if not len(training):
            raise _no_faces(dataset, dataset.training, "learn from")
        if not len(validation):
            raise _no_faces(dataset, dataset.validation, "choose the best epoch by")
        labelled = FaceSet(
            len(training), lambda size: _pictures(training, size, progress), lambda: training.images_sha256, device
        )
        face_sets, unlabelled_sha256 = [labelled], ""
        if recipe.distillation is not None and recipe.distillation.unlabelled:
            side = labelled.at(size).shape[-1]
            unlabelled = read_unlabelled(
                workspace / recipe.distillation.unlabelled, dataset, side=side, message=message
            )
            unlabelled_sha256 = hashlib.sha256(unlabelled.data).hexdigest()

            def at_side(size: int) -> NDArray[np.uint8]:
                return _resized(unlabelled, labelled.at(size).shape[-1])

            face_sets.append(FaceSet(len(unlabelled), at_side, lambda: unlabelled_sha256, device))
            targets = torch.cat([targets, targets.new_zeros(len(unlabelled), len(dataset.labels))])
        return cls(
            labels=dataset.labels,
            input_size=size,
            targets=targets.to(device),
            labelled=len(training),
            face_sets=tuple(face_sets),
            unlabelled_sha256=unlabelled_sha256,
            validation_images=_on_device(_pictures(validation, size, progress), device),
            validation_targets=validation_targets.to(device),
        )

    def __len__(self) -> int:
        return len(self.targets)

    def at(self, input_size: int) -> torch.Tensor:
        """All faces for a network's input size, uint8 (n + m, side, side); on the CPU if the device is too small."""
        if len(self.face_sets) == 1:
            return self.face_sets[0].at(input_size)
        if input_size not in self._together:
            parts = [faces.at(input_size) for faces in self.face_sets]
            same = (together for together in self._together.values() if together.shape[-1] == parts[0].shape[-1])
            present = next(same, None)
            if present is None:
                present = torch.cat([part.to(parts[0].device) for part in parts])
            self._together[input_size] = present
        return self._together[input_size]

    @property
    def images(self) -> torch.Tensor:
        """All faces for the run's network, uint8 (n + m, side, side)."""
        return self.at(self.input_size)

    @cached_property
    def classes(self) -> torch.Tensor:
        """The class of each labelled face, its target's largest, int64 (n,) on the CPU."""
        return self.targets[: self.labelled].argmax(1).cpu()

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Labelled faces of each class."""
        return tuple(torch.bincount(self.classes, minlength=len(self.labels)).tolist())

    def fitted(self, stage: Stage) -> Stage:
        """The stage with its class weights as numbers, one for each class of the data."""
        weights = stage.loss.class_weights
        numbers = balanced_weights(self.counts) if weights == "balanced" else weights_for(weights, self.labels)
        return dataclasses.replace(stage, loss=dataclasses.replace(stage.loss, class_weights=numbers))


def check_labels_of(recipe: Recipe, dataset: Dataset) -> None:
    """Check that a recipe fits the labels of a data set, before anything is computed.

    Raises:
        RecipeError: the recipe names other classes than the data has, a list of class weights has another length, or
            the recipe trains on FER+ votes, which are for the seven expressions.
    """
    labels = dataset.labels
    if recipe.classes is not None and recipe.classes != labels:
        raise RecipeError(
            f"{recipe.name}: its classes are {_listed(recipe.classes)}, and {dataset.name} was read with "
            f"{_listed(labels)}: read the data with the recipe's classes, or remove them from the recipe"
        )
    wanted = recipe.data_labels()
    used = LabelMap.from_dict(dict(dataset.label_map or ({"numbering": "fer2013"} if dataset.official else {})))
    if wanted is not None and not (set(wanted.pairs) <= set(used.pairs) and wanted.numbering in (None, used.numbering)):
        raise RecipeError(
            f"{recipe.name}: {dataset.name} was read without the recipe's label_map: read the data with "
            f"--labels {one_line(str(wanted), limit=120)}, or with labels=recipe.data_labels() in Python"
        )
    if recipe.labels == "ferplus" and labels != EMOTIONS:
        raise RecipeError(
            f'{recipe.name}: labels = "ferplus" needs the seven expressions, and {dataset.name} has '
            f"{_listed(labels)}: remove that line from the recipe"
        )
    for number, stage in enumerate(recipe.stages):
        if stage.loss.class_weights != "balanced":
            try:
                weights_for(stage.loss.class_weights, labels)
            except ValueError as error:
                raise RecipeError(f"{recipe.name}: stage.{number}.loss.class_weights: {error}") from error


def summary_of(dataset: Dataset) -> Summary:
    """A data set's summary, computed once: it takes seconds for 30,000 pictures."""
    if dataset not in _SUMMARIES:
        _SUMMARIES[dataset] = dataset.summary()
    return _SUMMARIES[dataset]


_SUMMARIES: WeakKeyDictionary[Dataset, Summary] = WeakKeyDictionary()


def _listed(labels: tuple[str, ...]) -> str:
    return one_line(", ".join(labels), limit=120)


def _labelled(faces: Faces, dataset: Dataset, recipe: Recipe) -> tuple[Faces, torch.Tensor]:
    """The faces that have a target under the recipe's labels, and their targets."""
    targets, has_target = soft_labels(faces, recipe.labels, classes=dataset.labels)
    return faces if has_target.all() else faces.take(has_target), targets


def _pictures(faces: Faces, input_size: int, progress: Progress) -> NDArray[np.uint8]:
    """Faces for a network of this input size, uint8 (n, side, side).

    Faces of FER2013's size are never reduced: a smaller network sees them reduced after augmentation.
    """
    side = max(input_size, SIZE) if faces.pictures.uniform == (SIZE, SIZE) else input_size
    return faces.at(side, progress=progress)


def _resized(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Faces, uint8 (n, s, s), at another side, as the exported graph resizes them."""
    if images.shape[-1] == side:
        return images
    resized = np.empty((len(images), side, side), np.uint8)
    for start in range(0, len(images), RESIZED_AT_ONCE):
        some = torch.from_numpy(images[start : start + RESIZED_AT_ONCE]).float().unsqueeze(1)
        grey = F.interpolate(some, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        resized[start : start + RESIZED_AT_ONCE] = grey.squeeze(1).round().clamp(0, 255).byte().numpy()
    return resized


def _on_device(images: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Faces on the device or, where they would fill a GPU's memory, on the CPU; a mapped file stays mapped there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing writes to it
        tensor = torch.from_numpy(np.ascontiguousarray(images))
    if device.type == "cuda" and tensor.nbytes > LARGEST_SHARE * torch.cuda.mem_get_info(device)[0]:
        return tensor
    return tensor.to(device)


def _no_faces(dataset: Dataset, given: Faces, purpose: str) -> DataError:
    return DataError(
        f"{dataset.name}: none of {len(given):,} faces is left to {purpose}: each equals a face of a later split, or "
        "has no label: check how the data was split"
    )
