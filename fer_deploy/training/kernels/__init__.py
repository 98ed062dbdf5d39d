"""Faster training on the CPU: kernels of our own, exact to float32's rounding, under the networks' own modules.

`accelerate_network` changes the class of the modules that have a faster twin here; their parameters, buffers, names
and order stay what they are, and so does everything that is saved.
"""

from __future__ import annotations

import torch
from torch import nn

from fer_deploy.training.kernels.depthwise import DepthwiseConv2d
from fer_deploy.training.kernels.library import kernels
from fer_deploy.training.kernels.normalise import FusedBatchNorm2d, FusedBatchNormAct2d
from fer_deploy.training.kernels.pointwise import PointwiseConv2d

__all__ = ["accelerate_network"]

_TWINS: tuple[
    type[DepthwiseConv2d] | type[PointwiseConv2d] | type[FusedBatchNorm2d] | type[FusedBatchNormAct2d], ...
] = (
    DepthwiseConv2d,
    PointwiseConv2d,
    FusedBatchNorm2d,
    FusedBatchNormAct2d,
)


def accelerate_network(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Make `network` train faster on `device`, in place, and return it.

    On the CPU its weights go channels-last, and depthwise convolutions and batch norms (with the activation, where
    the module holds both) run on the kernels of this package when the inputs are channels-last float32 or bfloat16.
    Outputs and gradients equal PyTorch's to float32's rounding; state-dict names do not change. On other devices, or
    where the kernels cannot be built, nothing changes but the memory layout.
    """
    if torch.device(device).type != "cpu":
        return network
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if kernels() is None:
        return network
    for module in network.modules():
        for twin in _TWINS:
            if twin.applies_to(module):
                module.__class__ = twin
    return network
