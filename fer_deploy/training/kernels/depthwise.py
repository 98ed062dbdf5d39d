"""Depthwise convolution on the CPU with a forward and a backward of its own, for channels-last maps.

PyTorch's backward of a depthwise convolution is very slow on the maps of 2x2 and 3x3 that a 48x48 face ends in.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fer_deploy.training.kernels.library import kernels

SUFFIXES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class DepthwiseConvolution(torch.autograd.Function):
    """(maps (n, c, h, w) float32 or bfloat16 channels-last, weight (c, 1, k, k) float32, stride, padding) -> maps."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        """The convolution; keeps the maps and the weights for the way back."""
        batch, channels, height, width = maps.shape
        size = weight.shape[-1]
        out_height = (height + 2 * padding - size) // stride + 1
        out_width = (width + 2 * padding - size) // stride + 1
        taps = weight.reshape(channels, size * size).t().contiguous()
        output = torch.empty(
            (batch, channels, out_height, out_width), dtype=maps.dtype, memory_format=torch.channels_last
        )
        ctx.shape = (ctypes.c_int64 * 9)(batch, height, width, channels, out_height, out_width, size, stride, padding)
        ctx.save_for_backward(maps, taps)
        function = getattr(kernels(), f"depthwise_forward_{SUFFIXES[maps.dtype]}")
        function(maps.data_ptr(), taps.data_ptr(), output.data_ptr(), ctx.shape, torch.get_num_threads())
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """The gradients of the maps and of the weights, each only when wanted."""
        maps, taps = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        maps_gradient = torch.empty_like(maps) if ctx.needs_input_grad[0] else None
        taps_gradient = torch.empty_like(taps) if ctx.needs_input_grad[1] else None
        function = getattr(kernels(), f"depthwise_backward_{SUFFIXES[maps.dtype]}")
        function(
            maps.data_ptr(), taps.data_ptr(), gradient.data_ptr(), pointer(maps_gradient), pointer(taps_gradient),
            ctx.shape, torch.get_num_threads(),
        )  # fmt: skip
        weight_gradient = None
        if taps_gradient is not None:
            size = ctx.shape[6]
            weight_gradient = taps_gradient.t().reshape(maps.shape[1], 1, size, size)
        return maps_gradient, weight_gradient, None, None


class DepthwiseConv2d(nn.Conv2d):
    """An `nn.Conv2d` that is depthwise, run by `DepthwiseConvolution` where that applies, else as PyTorch does."""

    @staticmethod
    def applies_to(module: nn.Module) -> bool:
        """Whether `module` is a convolution that can become one of these."""
        return (
            type(module) is nn.Conv2d
            and module.groups == module.in_channels == module.out_channels > 1
            and module.bias is None
            and module.kernel_size[0] == module.kernel_size[1] <= 7
            and module.stride[0] == module.stride[1]
            and module.dilation == (1, 1)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and module.padding[0] == module.padding[1]
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, c, h, w) -> (n, c, h', w')."""
        if torch.is_autocast_enabled("cpu"):
            maps = maps.to(torch.get_autocast_dtype("cpu"))
        if not usable(maps) or self.weight.dtype != torch.float32:
            return super().forward(maps)
        return DepthwiseConvolution.apply(maps, self.weight, self.stride[0], int(self.padding[0]))


def usable(maps: Tensor) -> bool:
    """Whether the kernels can take these maps: on the CPU, 4-dimensional, channels-last, not empty, of a known type."""
    return (
        maps.device.type == "cpu"
        and maps.ndim == 4
        and maps.numel() > 0
        and maps.dtype in SUFFIXES
        and maps.is_contiguous(memory_format=torch.channels_last)
    )


def pointer(tensor: Tensor | None) -> int | None:
    """The tensor's address, or None (a null pointer) without one."""
    return None if tensor is None else tensor.data_ptr()
