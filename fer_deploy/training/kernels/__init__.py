"""Faster training on the CPU: kernels of our own, exact to float32's rounding, under the networks' own modules.

`accelerate_network` changes the class of the modules that have a faster twin here; their parameters, buffers, names
and order stay what they are, and so does everything that is saved.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from fer_deploy.training.kernels.library import kernels
from fer_deploy.training.kernels.modules import TWINS
from fer_deploy.training.kernels.operators import ACTIVATIONS, moments_of, normalise_depthwise

__all__ = ["accelerate_network"]


def accelerate_network(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Make `network` train faster on `device`, in place, and return it.

    On the CPU its weights go channels-last, and 1x1 and depthwise convolutions, batch norms with their activation,
    squeeze-excite and skips run on the kernels of this package where the maps are channels-last float32 or bfloat16.
    Outputs and gradients equal PyTorch's to float32's rounding; the names in the state dict do not change. Hooks on
    the parts of a fused block are not called. On other devices nothing changes, and where the kernels cannot be built
    only the memory layout.
    """
    if torch.device(device).type != "cpu":
        return network
    network.to(memory_format=torch.channels_last)
    if not kernels_work():
        return network
    for twin in TWINS:
        for module in network.modules():
            if twin.applies_to(module):
                module.__class__ = twin
    return network


@cache
def kernels_work() -> bool:
    """Whether the kernels can be had here, and answer as PyTorch does on a small example (asked once)."""
    if kernels() is None:
        return False
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(4, 24, 3, 3, generator=generator).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(24, 1, 3, 3, generator=generator).requires_grad_()
    norm = nn.BatchNorm2d(24)
    inputs = (maps, weight, norm.weight, norm.bias)
    with torch.enable_grad():
        expected = F.conv2d(
            F.silu(F.batch_norm(maps, None, None, norm.weight, norm.bias, training=True)), weight, padding=1, groups=24
        )
        answer, _ = normalise_depthwise(
            maps, norm, moments_of(maps.detach()), weight, stride=1, padding=1, activation=ACTIVATIONS[nn.SiLU]
        )
        pairs = [(expected, answer)]
        pairs += zip(
            *(torch.autograd.grad(output.square().sum(), inputs) for output in (expected, answer)), strict=True
        )
    if all(torch.allclose(right, given, rtol=1e-3, atol=1e-3) for right, given in pairs):
        return True
    logging.getLogger(__name__).warning(
        "the compiled kernels answer wrongly here: training uses PyTorch's own operators"
    )
    return False
