"""ImageNet weights fitted to our networks, which take one grey channel and have another last layer.

A stem of three channels is summed over them, so that a grey face gives what the same face in RGB would; the study drew
a new stem instead. The last layer gets new weights, drawn as `torch.nn.Linear` draws them, as in the study.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fer_deploy.errors import RunError
from fer_deploy.models.imagenet import ImageNetWeights
from fer_deploy.models.reduce import reduced_lite

_NEW_HEAD = ("conv_head.", "bn2.")
"""Tensors of a Lite's head. A Lite that is cut short, or has a head of its own width, keeps those it was built with."""


def transfer(network: nn.Module, source: ImageNetWeights) -> str:
    """Load ImageNet weights into `network`, except for the last layer, which gets new weights.

    EfficientNet-B0 may also get Lite0's, which have no squeeze-and-excitation: its gates then start near identity.

    Returns:
        A line that describes the weights and what was changed.

    Raises:
        RunError: the weights do not fit; the network is unchanged.
    """
    wanted = network.state_dict()
    last, layer = last_layer(network)
    gated = any(".se." in key for key in wanted) and source.by_order and len(source.state) < len(wanted)
    state = dict(source.state)
    if source.by_order:
        state = reduced_lite(_named(source, network, gated=gated), wanted)
    chosen: dict[str, Tensor] = {}
    for key, tensor in wanted.items():
        if key in last or key not in state:
            continue
        value = _fitted(state[key], tensor)
        if value is None:
            continue
        if key.endswith(".running_var"):
            # Batch norm divides by sqrt(variance + epsilon): with the difference of the epsilons moved into the
            # variance, evaluation gives the very same numbers.
            norm = network.get_submodule(key.removesuffix(".running_var"))
            assert isinstance(norm, nn.BatchNorm2d)
            value = value + (source.epsilon - norm.eps)
        chosen[key] = value
    missing = [key for key in wanted if key not in chosen and key not in last and not (gated and ".se." in key)]
    unexpected = [key for key in missing if not key.startswith(_NEW_HEAD)]
    if unexpected:
        raise RunError(
            f"{source.words} do not fit the network: '{unexpected[0]}' is missing in them, or has another shape"
        )
    network.load_state_dict(chosen, strict=False)
    layer.reset_parameters()
    words = source.words + ", stem summed over its channels"
    if gated:
        _open_gates(network)
        words += ", squeeze-and-excitation started near identity (these are not EfficientNet-B0's own weights)"
    return words + (", a new head" if missing else "") + ", a new last layer"


def last_layer(network: nn.Module) -> tuple[frozenset[str], nn.Linear]:
    """The names of the last linear layer's tensors, and the layer."""
    *_, (key, layer) = (item for item in network.named_modules() if isinstance(item[1], nn.Linear))
    assert isinstance(layer, nn.Linear)
    return frozenset(f"{key}.{tensor}" for tensor in layer.state_dict()), layer


def _fitted(value: Tensor, tensor: Tensor) -> Tensor | None:
    """`value` in the shape of `tensor`; None where it does not fit."""
    if tensor.ndim == 4 and tensor.shape[1] == 1 and value.shape[1] == 3:
        value = value.sum(dim=1, keepdim=True)
    if value.numel() == tensor.numel() and value.squeeze().shape == tensor.squeeze().shape:
        value = value.reshape(tensor.shape)  # torchvision has a linear layer where timm has a 1x1 convolution
    return value if value.shape == tensor.shape else None


def _named(source: ImageNetWeights, network: nn.Module, *, gated: bool) -> dict[str, Tensor]:
    """Weights that match by their order, under the network's names."""
    import timm

    names: list[str] = list(network.state_dict())
    if gated:
        names = [key for key in names if ".se." not in key]
    elif len(names) != len(source.state):  # a Lite cut short
        with torch.device("meta"):
            names = list(timm.create_model(source.model).state_dict())
    return dict(zip(names, source.state.values(), strict=True))


def _open_gates(network: nn.Module) -> None:
    """Start squeeze-and-excitation near identity: gates of sigmoid(2) = .88 that depend little on the face at first."""
    with torch.no_grad():
        for key, module in network.named_modules():
            if key.endswith(".se.conv_expand") and isinstance(module, nn.Conv2d) and module.bias is not None:
                module.weight.mul_(0.2)
                module.bias.add_(2.0)
