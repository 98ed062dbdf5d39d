"""The kernels as differentiable operators on channels-last maps, float32 or bfloat16, on the CPU.

A batch norm is described by its `Moments` (the batch's mean and variance), its weight and its bias. With these an
operator computes the normalised and activated maps from the batch norm's input whenever it needs them, so that only
that input is kept for the backward pass.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fer_deploy.training.kernels.library import kernels

ACTIVATIONS: dict[type[nn.Module], int] = {nn.Identity: 0, nn.ReLU: 1, nn.ReLU6: 2, nn.SiLU: 3, nn.Hardswish: 4}
"""The activations that the kernels support, with their numbers in kernels.cpp."""

_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class Moments(NamedTuple):
    """Mean and (biased) variance of each channel over batch, height and width: float32 (c), without gradient."""

    mean: Tensor
    variance: Tensor


class Affine(NamedTuple):
    """Batch norm as a scale and an offset, float32 (c) each, with what the backward pass needs."""

    scale: Tensor
    offset: Tensor
    mean: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, moments: Moments, weight: Tensor, bias: Tensor, *, epsilon: float) -> Affine:
        """From the batch's moments and the parameters."""
        inverse = torch.rsqrt(moments.variance + epsilon)
        scale = weight * inverse
        return cls(scale, torch.addcmul(bias, moments.mean, scale, value=-1), moments.mean, inverse)


def usable(maps: Tensor) -> bool:
    """Whether the kernels accept these maps: on the CPU, 4-dimensional, channels-last, not empty, of a known type."""
    return (
        maps.device.type == "cpu"
        and maps.ndim == 4
        and maps.dtype in _TYPES
        and maps.numel() > 0
        and maps.is_contiguous(memory_format=torch.channels_last)
    )


def moments_of(maps: Tensor) -> Moments:
    """The batch's moments of maps (n, c, h, w)."""
    mean, variance = torch.empty(2, maps.shape[1]).unbind()
    _call("moments", maps, maps, _rows(maps), maps.shape[1], mean, variance)
    return Moments(mean, variance)


def apply_affine(maps: Tensor, scale: Tensor, offset: Tensor, *, skip: Tensor | None = None, activation: int) -> Tensor:
    """activation(scale * maps + offset + skip), without gradient."""
    output = torch.empty_like(maps)
    _call("apply", maps, maps, skip, None, output, 1, _rows(maps), maps.shape[1], scale, offset, activation)
    return output


def depthwise(maps: Tensor, weight: Tensor, *, stride: int, padding: int) -> tuple[Tensor, Moments]:
    """Depthwise convolution of maps (n, c, h, w) with weight float32 (c, 1, k, k), and the result's moments."""
    output, mean, variance = _Depthwise.apply(maps, None, None, None, weight, stride, padding, 0)
    return output, Moments(mean, variance)


def normalise_depthwise(
    maps: Tensor, norm: nn.BatchNorm2d, moments: Moments, weight: Tensor, *, stride: int, padding: int, activation: int
) -> tuple[Tensor, Moments]:
    """Depthwise convolution of activation(norm(maps)), and the result's moments."""
    with torch.no_grad():
        affine = Affine.of(moments, norm.weight, norm.bias, epsilon=norm.eps)
    output, mean, variance = _Depthwise.apply(maps, norm.weight, norm.bias, affine, weight, stride, padding, activation)
    return output, Moments(mean, variance)


def normalise(
    maps: Tensor, norm: nn.BatchNorm2d, moments: Moments, *, skip: Tensor | None = None, activation: int
) -> Tensor:
    """activation(norm(maps) + skip)."""
    output: Tensor = _Normalise.apply(maps, skip, norm.weight, norm.bias, moments, norm.eps, activation)
    return output


def normalise_gate(
    maps: Tensor,
    norm: nn.BatchNorm2d,
    moments: Moments,
    *,
    activation: int,
    excite: Callable[[Tensor], Tensor],
    parameters: tuple[Tensor, ...],
) -> Tensor:
    """y * excite(mean of y over height and width) with y = activation(norm(maps)): batch norm, then squeeze-excite.

    `excite` takes (n, c, 1, 1) and returns that shape; `parameters` are all of its parameters that get a gradient.
    """
    output: Tensor = _Gate.apply(maps, norm.weight, norm.bias, moments, norm.eps, activation, excite, *parameters)
    return output


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        affine: Affine | None,
        weight: Tensor,
        stride: int,
        padding: int,
        activation: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        del norm_bias  # it gets a gradient; its value is part of `affine`
        batch, channels, height, width = maps.shape
        size = weight.shape[-1]
        out_height = (height + 2 * padding - size) // stride + 1
        out_width = (width + 2 * padding - size) // stride + 1
        taps = weight.reshape(channels, size * size).t().contiguous()
        output = torch.empty(
            (batch, channels, out_height, out_width), dtype=maps.dtype, memory_format=torch.channels_last
        )
        mean, variance = torch.empty(2, channels).unbind()
        ctx.shape = (ctypes.c_int64 * 9)(batch, height, width, channels, out_height, out_width, size, stride, padding)
        ctx.activation = activation
        scale, offset, *rest = affine or (None,) * 4
        ctx.save_for_backward(maps, norm_weight, taps, scale, offset, *rest)
        _call("depthwise_forward", maps, maps, scale, offset, activation, taps, output, mean, variance, ctx.shape)
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _mean: Tensor, _variance: Tensor) -> tuple[Tensor | None, ...]:
        maps, norm_weight, taps, scale, offset, mean, inverse = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        through = scale is not None
        maps_gradient = torch.empty_like(maps) if ctx.needs_input_grad[0] or through else None
        taps_gradient = torch.empty_like(taps) if ctx.needs_input_grad[4] else None
        norm_weight_gradient, norm_bias_gradient = torch.empty(2, maps.shape[1]).unbind() if through else (None, None)
        _call(
            "depthwise_backward", maps, maps, scale, offset, mean, inverse, norm_weight, ctx.activation, taps, gradient,
            maps_gradient, taps_gradient, norm_weight_gradient, norm_bias_gradient, ctx.shape,
        )  # fmt: skip
        weight_gradient = None
        if taps_gradient is not None:
            size = ctx.shape[6]
            weight_gradient = taps_gradient.t().reshape(maps.shape[1], 1, size, size)
        return maps_gradient, norm_weight_gradient, norm_bias_gradient, None, weight_gradient, None, None, None


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        skip: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        moments: Moments,
        epsilon: float,
        activation: int,
    ) -> Tensor:
        affine = Affine.of(moments, weight, bias, epsilon=epsilon)
        output = apply_affine(maps, affine.scale, affine.offset, skip=skip, activation=activation)
        ctx.activation, ctx.skips = activation, skip is not None
        ctx.save_for_backward(maps, skip if activation else None, weight, *affine)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, skip, weight, *affine = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        maps_gradient = torch.empty_like(maps)
        skip_gradient = gradient if ctx.skips else None  # without an activation it is the gradient itself
        if skip is not None:
            skip_gradient = torch.empty_like(maps)
        weight_gradient, bias_gradient = _normalise_backward(
            maps, gradient, maps_gradient, weight, Affine(*affine), ctx.activation,
            skip=skip, skip_gradient=skip_gradient if skip is not None else None,
        )  # fmt: skip
        return maps_gradient, skip_gradient, weight_gradient, bias_gradient, None, None, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        weight: Tensor,
        bias: Tensor,
        moments: Moments,
        epsilon: float,
        activation: int,
        excite: Callable[[Tensor], Tensor],
        *parameters: Tensor,
    ) -> Tensor:
        affine = Affine.of(moments, weight, bias, epsilon=epsilon)
        batch, channels, height, width = maps.shape
        pooled = torch.empty(batch, channels)
        _call("pool", maps, maps, None, pooled, batch, height * width, channels, *affine[:2], activation)
        with torch.enable_grad():
            squeezed = pooled.requires_grad_()
            gates = excite(squeezed[:, :, None, None]).flatten(1).float()
        gate = gates.detach().contiguous()
        output = torch.empty_like(maps)
        _call("apply", maps, maps, None, gate, output, batch, height * width, channels, *affine[:2], activation)
        ctx.activation, ctx.graph, ctx.parameters = activation, (squeezed, gates), parameters
        ctx.save_for_backward(maps, weight, gate, *affine)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, gate, *rest = ctx.saved_tensors
        affine = Affine(*rest)
        batch, channels, height, width = maps.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        gate_gradient = torch.empty(batch, channels)
        _call("pool", maps, maps, gradient, gate_gradient, batch, height * width, channels, *affine[:2], ctx.activation)
        squeezed, gates = ctx.graph
        ctx.graph = None
        more, *parameter_gradients = torch.autograd.grad(gates, (squeezed, *ctx.parameters), gate_gradient)
        maps_gradient = torch.empty_like(maps)
        weight_gradient, bias_gradient = _normalise_backward(
            maps, gradient, maps_gradient, weight, affine, ctx.activation, gate=gate, more=more / (height * width)
        )
        return maps_gradient, weight_gradient, bias_gradient, None, None, None, None, *parameter_gradients


def _normalise_backward(
    maps: Tensor,
    gradient: Tensor,
    maps_gradient: Tensor,
    weight: Tensor,
    affine: Affine,
    activation: int,
    *,
    skip: Tensor | None = None,
    skip_gradient: Tensor | None = None,
    gate: Tensor | None = None,
    more: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Fill `maps_gradient` and `skip_gradient`; return the gradients of the batch norm's weight and bias."""
    batch, channels, height, width = maps.shape
    images, rows = (batch, height * width) if gate is not None else (1, batch * height * width)
    weight_gradient, bias_gradient = torch.empty(2, channels).unbind()
    _call(
        "normalise_backward", maps, maps, skip, gradient, gate, more, maps_gradient, skip_gradient, images, rows,
        channels, affine.mean, affine.inverse, weight, affine.scale, affine.offset, weight_gradient, bias_gradient,
        activation,
    )  # fmt: skip
    return weight_gradient, bias_gradient


def _rows(maps: Tensor) -> int:
    return maps.numel() // maps.shape[1]


def _call(name: str, like: Tensor, *arguments: Any) -> None:
    """Call the kernel for `like`'s type. Tensors are passed as addresses, and must be dense."""
    function = getattr(kernels(), f"{name}_{_TYPES[like.dtype]}")
    function(*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments), torch.get_num_threads())
