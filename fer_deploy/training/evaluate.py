"""What a network's weights are worth on unchanged faces, and batch norm's statistics measured on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import nn

from fer_deploy.recipes import Augmentation, Recipe
from fer_deploy.training.augment import render
from fer_deploy.training.data import TrainingData
from fer_deploy.training.run import make_network

VALIDATION_BATCH = 512
PRECISE_BN_FACES = 4096
"""At most this many training faces, evenly spaced, give batch norm's statistics at the end."""


class Validation(NamedTuple):
    """A network's figures on the validation faces."""

    loss: float
    """Mean cross-entropy."""
    accuracy: float
    """0 to 1."""
    macro_f1: float
    """0 to 1."""


@torch.no_grad()
def validate(
    network: nn.Module, weights: Mapping[str, torch.Tensor] | None, data: TrainingData, *, size: int
) -> Validation:
    """Loss, accuracy and macro-F1 on the validation faces.

    Args:
        network: left in evaluation mode, its weights unchanged.
        weights: validated instead of the network's own, if given.
        data: has the faces.
        size: side in pixels of the network's input.
    """
    if weights is not None:
        before = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(dict(weights))
    logits = logits_of(network, data.validation_images, size=size)
    if weights is not None:
        network.load_state_dict(before)
    loss = torch.nn.functional.cross_entropy(logits, data.validation_targets)
    return Validation(float(loss), *agreement(logits, data.validation_targets.argmax(1)))


def agreement(logits: torch.Tensor, classes: torch.Tensor) -> tuple[float, float]:
    """Accuracy and macro-F1, 0 to 1, of logits, (n, c), against classes, int64 (n,).

    Macro-F1 is the unweighted mean of the F1 scores of the classes that occur as a label or as an answer, as in
    scikit-learn.
    """
    confusion = confusion_of(logits, classes).double()
    hits, total = confusion.diagonal(), confusion.sum(0) + confusion.sum(1)
    met = total > 0
    return int(hits.sum()) / len(logits), float((2 * hits[met] / total[met]).mean())


def confusion_of(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """How often each class (row) got each answer (column), int64 (c, c) on the CPU, from logits (n, c)."""
    count = logits.shape[1]
    pairs = classes.cpu() * count + logits.argmax(1).cpu()
    return torch.bincount(pairs, minlength=count * count).reshape(count, count)


@torch.no_grad()
def logits_of(network: nn.Module, images: torch.Tensor, *, size: int) -> torch.Tensor:
    """A network's logits, float32 (n, classes), for unchanged faces, uint8 (n, side, side), on the network's device.

    The network is left in evaluation mode.
    """
    network.eval()
    device = next(network.parameters()).device
    return torch.cat([network(faces).float() for faces in _unchanged(images, size, device)])


@torch.no_grad()
def with_precise_bn(weights: Mapping[str, torch.Tensor], recipe: Recipe, data: TrainingData) -> dict[str, torch.Tensor]:
    """The weights with the recipe's share of batch norms' running statistics measured on unchanged labelled faces."""
    device = data.targets.device
    network = make_network(recipe.network, classes=len(data.labels)).to(device)
    network.load_state_dict(dict(weights))
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    labelled = data.images[: data.labelled]
    some = labelled[:: -(-len(labelled) // PRECISE_BN_FACES)]
    for faces in _unchanged(some, recipe.network.input_size, device):
        network(faces)
    measured = network.state_dict()
    return {
        name: tensor.lerp(measured[name], recipe.precise_bn)
        if name.endswith(("running_mean", "running_var"))
        else tensor
        for name, tensor in weights.items()
    }


def _unchanged(images: torch.Tensor, size: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Faces as the network reads them without augmentation, batch by batch."""
    for part in torch.split(images, VALIDATION_BATCH):
        yield render(part.to(device), None, Augmentation(), size=size).contiguous(memory_format=torch.channels_last)
