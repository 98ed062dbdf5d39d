"""Faster training on the CPU: compiled kernels that replace PyTorch's own under the networks' modules.

Purpose: people train here on processors without a GPU. EfficientNet-B0 at 48x48 trains 1.38 times as fast on two
threads of an AMD EPYC (`benchmarks/training-speed.md`; `make bench-training` measures it again). On GPUs nothing
changes. Results equal PyTorch's to float32's rounding.

Cost: 770 lines of Python and 660 of C++ (`kernels.cpp`), compiled by the machine's own C++ compiler at first use. They
are optional: without a compiler, on another device or with FERDEPLOY_KERNELS=0, training uses PyTorch's operators.

Tests: `tests/training/test_kernels.py` (470 lines) compares each operator's outputs and gradients with float64, in all
shapes of the networks and odd ones; whole networks with PyTorch's; and every way in which the library can be absent or
wrong. `kernels_work` repeats a small comparison in each process before the kernels are used.

`accelerate_network` changes the class of the modules that have a faster twin in this package. Their parameters,
buffers, names and order do not change, and neither does anything that is saved.
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

    On the CPU its weights become channels-last, and 1x1 and depthwise convolutions, batch norms with their activation,
    squeeze-excite and skips use this package's kernels for channels-last maps in float32 or bfloat16. Outputs and
    gradients equal PyTorch's to float32's rounding. Names in the state dict do not change. Hooks on the parts of a
    fused block are not called. Other devices change nothing; without kernels only the memory layout changes.
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
    """Whether the kernels are available and agree with PyTorch on a small example. Computed once per process."""
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
    if all(torch.allclose(wanted, given, rtol=1e-3, atol=1e-3) for wanted, given in pairs):
        return True
    logging.getLogger(__name__).warning(
        "the compiled kernels give wrong results on this machine: training uses PyTorch's own operators"
    )
    return False
