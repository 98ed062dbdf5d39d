"""The weights that a network starts from: its own, Xavier's, ImageNet's, or a file's.

`imagenet` finds ImageNet weights, `transfer` fits them to our networks, and `weights_file` reads files of ours.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fer_deploy.errors import RecipeError
from fer_deploy.models.imagenet import find_weights
from fer_deploy.models.registry import NETWORKS
from fer_deploy.models.timm_networks import timm_source
from fer_deploy.models.timm_weights import load_timm_imagenet
from fer_deploy.models.transfer import transfer
from fer_deploy.models.weights_file import load_weights_file


def initialise(network: nn.Module, how: str | Path, *, name: str) -> str:
    """Give `network`, which the registry built as `name`, its first weights.

    Args:
        network: the network. It is unchanged after an error.
        how: one of

            - "default": the weights that it was built with are kept.
            - "xavier": Xavier-uniform weights and zero biases on linear layers only.
            - "imagenet": ImageNet weights with a new last layer, see `imagenet.find_weights` and `transfer.transfer`,
              and for networks of timm `timm_weights`.
            - the path of a .safetensors file, see `weights_file.load_weights_file`.
        name: the network's name in the registry.

    Returns:
        A line that describes the weights, for the run's record.

    Raises:
        UnavailableError: ImageNet weights can't be had here.
        RecipeError: the network has no ImageNet weights, or `how` is unknown.
        RunError: a weights file is missing, damaged, or of another network.
    """
    if how == "default":
        return "the network's own initialisation"
    if how == "xavier":
        return _xavier(network, name)
    if how == "imagenet":
        if (source := timm_source(network)) is not None:
            return load_timm_imagenet(network, source)
        return transfer(network, find_weights(name))
    path = Path(how)
    if path.suffix != ".safetensors":
        raise RecipeError(f"initialisation '{how}' is not known: give default, xavier, imagenet or a .safetensors file")
    return load_weights_file(network, path, name=name)


def _xavier(network: nn.Module, name: str) -> str:
    pooled = NETWORKS[name].pooled_convolutions if name in NETWORKS else ()
    for key, module in network.named_modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and key in pooled):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return "Xavier-uniform weights and zero biases on linear layers, the network's own initialisation elsewhere"
