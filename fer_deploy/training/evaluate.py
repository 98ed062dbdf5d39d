"""What a network's weights are worth on unchanged faces, and batch norm's statistics measured on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from fer_deploy.recipes import Augmentation, Recipe
from fer_deploy.training.augment import render
from fer_deploy.training.data import TrainingData
from fer_deploy.training.run import make_network

VALIDATION_BATCH = 512
PRECISE_BN_FACES = 4096
"""At most this many training faces, evenly spaced, give batch norm's statistics at the end."""


@torch.no_grad()
def validate(
    network: nn.Module, weights: Mapping[str, torch.Tensor] | None, data: TrainingData, *, size: int
) -> tuple[float, float]:
    """Mean loss and accuracy on the validation faces.

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
    correct = (logits.argmax(1) == data.validation_targets.argmax(1)).sum()
    return float(loss), int(correct) / len(logits)


@torch.no_grad()
def logits_of(network: nn.Module, images: torch.Tensor, *, size: int) -> torch.Tensor:
    """A network's logits, float32 (n, 7), for unchanged faces, uint8 (n, 48, 48); leaves it in evaluation mode."""
    network.eval()
    return torch.cat([network(faces).float() for faces in _unchanged(images, size)])


@torch.no_grad()
def with_precise_bn(weights: Mapping[str, torch.Tensor], recipe: Recipe, data: TrainingData) -> dict[str, torch.Tensor]:
    """The weights with the recipe's share of batch norms' running statistics measured on unchanged labelled faces."""
    network = make_network(recipe.network).to(data.images.device)
    network.load_state_dict(dict(weights))
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    labelled = data.images[: data.labelled]
    for faces in _unchanged(labelled[:: -(-len(labelled) // PRECISE_BN_FACES)], recipe.network.input_size):
        network(faces)
    measured = network.state_dict()
    return {
        name: tensor.lerp(measured[name], recipe.precise_bn)
        if name.endswith(("running_mean", "running_var"))
        else tensor
        for name, tensor in weights.items()
    }


def _unchanged(images: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Faces as the network reads them without augmentation, batch by batch."""
    for part in torch.split(images, VALIDATION_BATCH):
        yield render(part, None, Augmentation(), size=size).contiguous(memory_format=torch.channels_last)
