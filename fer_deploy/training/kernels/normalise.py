"""Batch norm, an optional skip and the activation in one kernel each way, for channels-last maps on the CPU.

Only the input is kept for the way back (PyTorch's separate operators keep two or three maps), and the activation
is worked out again from it.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fer_deploy.training.kernels.depthwise import SUFFIXES, pointer, usable
from fer_deploy.training.kernels.library import kernels

ACTIVATIONS: dict[type[nn.Module], int] = {nn.Identity: 0, nn.ReLU: 1, nn.ReLU6: 2, nn.SiLU: 3, nn.Hardswish: 4}
"""The activations that the kernels know, with their numbers in kernels.cpp."""


class NormaliseActivate(torch.autograd.Function):
    """activation(batch_norm(maps) + skip) with the batch's own statistics.

    (maps (n, c, h, w), skip like maps or None, weight (c), bias (c), epsilon, number of the activation) ->
    (output like maps, mean (c), biased variance (c)); the last two carry no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, skip: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float, activation: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Statistics, then one pass over the maps."""
        suffix, threads = SUFFIXES[maps.dtype], torch.get_num_threads()
        channels = maps.shape[1]
        rows = maps.numel() // channels
        mean, variance = torch.empty(2, channels).unbind()
        getattr(kernels(), f"moments_{suffix}")(
            maps.data_ptr(), rows, channels, mean.data_ptr(), variance.data_ptr(), threads
        )
        inverse = torch.rsqrt(variance + epsilon)
        scale = weight * inverse
        offset = torch.addcmul(bias, mean, scale, value=-1)
        output = torch.empty_like(maps)
        getattr(kernels(), f"apply_{suffix}")(
            maps.data_ptr(), pointer(skip), output.data_ptr(), rows, channels, scale.data_ptr(), offset.data_ptr(),
            activation, threads,
        )  # fmt: skip
        ctx.save_for_backward(maps, skip, weight, mean, inverse, scale, offset)
        ctx.activation = activation
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor, _mean: Tensor, _variance: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor, None, None]:
        """The gradients of the maps, the skip, the weight and the bias."""
        maps, skip, weight, mean, inverse, scale, offset = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        channels = maps.shape[1]
        maps_gradient = torch.empty_like(maps) if ctx.needs_input_grad[0] else None
        skip_gradient = torch.empty_like(maps) if skip is not None else None
        weight_gradient, bias_gradient = torch.empty_like(weight), torch.empty_like(weight)
        getattr(kernels(), f"normalise_backward_{SUFFIXES[maps.dtype]}")(
            maps.data_ptr(), pointer(skip), gradient.data_ptr(), pointer(maps_gradient), pointer(skip_gradient),
            maps.numel() // channels, channels, mean.data_ptr(), inverse.data_ptr(), weight.data_ptr(),
            scale.data_ptr(), offset.data_ptr(), weight_gradient.data_ptr(), bias_gradient.data_ptr(),
            ctx.activation, torch.get_num_threads(),
        )  # fmt: skip
        return maps_gradient, skip_gradient, weight_gradient, bias_gradient, None, None


def normalise_activate(
    norm: nn.BatchNorm2d, maps: Tensor, *, skip: Tensor | None = None, activation: int = 0
) -> Tensor | None:
    """activation(norm(maps) + skip) by the kernels, running statistics updated; None where they do not apply.

    They apply to `norm` in training mode, or in evaluation mode when no gradient is wanted, for maps that `usable`
    accepts and float32 parameters.
    """
    if not usable(maps) or norm.weight is None or norm.weight.dtype != torch.float32:
        return None
    if skip is not None and (skip.dtype != maps.dtype or skip.shape != maps.shape or not usable(skip)):
        return None
    if not norm.training:
        if torch.is_grad_enabled() or norm.running_mean is None or norm.running_var is None:
            return None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        offset = torch.addcmul(norm.bias, norm.running_mean, scale, value=-1)
        output = torch.empty_like(maps)
        channels = maps.shape[1]
        getattr(kernels(), f"apply_{SUFFIXES[maps.dtype]}")(
            maps.data_ptr(), pointer(skip), output.data_ptr(), maps.numel() // channels, channels, scale.data_ptr(),
            offset.data_ptr(), activation, torch.get_num_threads(),
        )  # fmt: skip
        return output
    rows = maps.numel() // maps.shape[1]
    if rows < 2:  # PyTorch has the right error for it
        return None
    output, mean, variance = NormaliseActivate.apply(maps, skip, norm.weight, norm.bias, norm.eps, activation)
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        momentum = norm.momentum
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(norm.num_batches_tracked)
        with torch.no_grad():
            norm.running_mean.lerp_(mean, momentum or 0.0)
            norm.running_var.mul_(1 - (momentum or 0.0)).add_(variance, alpha=(momentum or 0.0) * rows / (rows - 1))
    return output


class FusedBatchNorm2d(nn.BatchNorm2d):
    """An `nn.BatchNorm2d` run by the kernels where they apply, else as PyTorch does."""

    @staticmethod
    def applies_to(module: nn.Module) -> bool:
        """Whether `module` is a batch norm that can become one of these."""
        return type(module) is nn.BatchNorm2d and module.affine

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, c, h, w) -> the same shape."""
        output = normalise_activate(self, maps)
        return super().forward(maps) if output is None else output


class FusedBatchNormAct2d(BatchNormAct2d):  # type: ignore[misc]
    """timm's batch norm with activation, run as one kernel where that applies, else as timm does."""

    @staticmethod
    def applies_to(module: nn.Module) -> bool:
        """Whether `module` is a batch norm that can become one of these."""
        return (
            type(module) is BatchNormAct2d
            and module.affine
            and type(module.drop) is nn.Identity
            and type(module.act) in ACTIVATIONS
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, c, h, w) -> the same shape."""
        output = normalise_activate(self, maps, activation=ACTIVATIONS[type(self.act)])
        if output is None:
            fallback: Tensor = super().forward(maps)
            return fallback
        return output
