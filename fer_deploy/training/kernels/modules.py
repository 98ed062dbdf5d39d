"""Modules that use the kernels: twins of PyTorch's, timm's and our own, with the same parameters and buffers.

A twin is a subclass of the module that it replaces. Where the kernels do not apply (another device, another memory
layout, evaluation with gradients) it calls its parent's `forward`, so that replacing is always safe.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual, SqueezeExcite
from torch import Tensor, nn

from fer_deploy.models.plain import PlainLayer
from fer_deploy.training.kernels.operators import (
    ACTIVATIONS,
    Moments,
    apply_affine,
    depthwise,
    moments_of,
    normalise,
    normalise_depthwise,
    normalise_gate,
    usable,
)


class PointwiseConv2d(nn.Conv2d):
    """An `nn.Conv2d` of kernel 1x1, computed as a matrix product.

    In channels-last memory a map (n, c, h, w) is a matrix (n*h*w, c). For the shapes of EfficientNet-B0 at 48x48,
    PyTorch's product of it with the weights takes 0.75 of the time of its convolution.
    """

    @staticmethod
    def applies_to(module: nn.Module) -> bool:
        """Whether `module` can become one of these."""
        return (
            type(module) is nn.Conv2d
            and module.kernel_size == (1, 1)
            and module.stride == (1, 1)
            and module.padding in ((0, 0), "valid", "same")
            and module.groups == 1
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, c, h, w) -> (n, c', h, w)."""
        if maps.ndim != 4 or not maps.is_contiguous(memory_format=torch.channels_last):
            return super().forward(maps)
        return F.linear(maps.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise `nn.Conv2d`. PyTorch's backward pass is very slow on maps of 2x2 and 3x3."""

    @staticmethod
    def applies_to(module: nn.Module) -> bool:
        """Whether `module` can become one of these."""
        return (
            type(module) is nn.Conv2d
            and module.groups == module.in_channels == module.out_channels > 1
            and module.bias is None
            and module.kernel_size[0] == module.kernel_size[1]
            and module.stride[0] == module.stride[1]
            and module.dilation == (1, 1)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and module.padding[0] == module.padding[1]
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, c, h, w) -> (n, c, h', w')."""
        maps = _as_autocast(maps)
        if not usable(maps) or self.weight.dtype != torch.float32:
            return super().forward(maps)
        return depthwise(maps, self.weight, stride=self.stride[0], padding=int(self.padding[0]))[0]


class KernelBatchNorm2d(nn.BatchNorm2d):
    """An `nn.BatchNorm2d` on the kernels."""

    @staticmethod
    def applies_to(module: nn.Module) -> bool:
        """Whether `module` can become one of these."""
        return type(module) is nn.BatchNorm2d and module.affine

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, c, h, w) -> the same shape."""
        output = _norm_activate(self, maps, activation=0)
        return super().forward(maps) if output is None else output


class KernelBatchNormAct2d(BatchNormAct2d):
    """timm's batch norm with its activation: one kernel forward, one backward."""

    @staticmethod
    def applies_to(module: nn.Module) -> bool:
        """Whether `module` can become one of these."""
        return (
            type(module) is BatchNormAct2d
            and module.affine
            and type(module.drop) is nn.Identity
            and type(module.act) in ACTIVATIONS
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, c, h, w) -> the same shape."""
        output = _norm_activate(self, maps, activation=_activation(self))
        if output is None:
            output = super().forward(maps)  # type: ignore[no-untyped-call]
        return output


class KernelInvertedResidual(InvertedResidual):
    """timm's MBConv block: expand, depthwise, squeeze-excite, project, add. Batch norms are fused with what follows."""

    @staticmethod
    def applies_to(module: nn.Module) -> bool:
        """Whether `module`, its parts already twins, can become one of these."""
        return (
            type(module) is InvertedResidual
            and getattr(module, "conv_s2d", None) is None
            and isinstance(module.bn1, KernelBatchNormAct2d)
            and isinstance(module.bn3, KernelBatchNormAct2d)
            and _has_depthwise_parts(module, module.bn2)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, c, h, w) -> (n, c', h', w')."""
        maps = _as_autocast(maps)
        if not all(_trainable(norm, maps) for norm in (self.bn1, self.bn2, self.bn3)):
            output: Tensor = super().forward(maps)  # type: ignore[no-untyped-call]
            return output
        inner = self.conv_pw(maps)
        moments = _batch_moments(self.bn1, inner)
        convolution = self.conv_dw
        inner, moments = normalise_depthwise(
            inner,
            self.bn1,
            moments,
            convolution.weight,
            stride=convolution.stride[0],
            padding=int(convolution.padding[0]),
            activation=_activation(self.bn1),
        )
        inner = self.conv_pwl(_norm_excite(self.bn2, self.se, inner, moments))
        return _norm_add(self.bn3, self.drop_path, inner, maps if self.has_skip else None)


class KernelDepthwiseSeparableConv(DepthwiseSeparableConv):
    """timm's block without expansion: depthwise, squeeze-excite, project, add."""

    @staticmethod
    def applies_to(module: nn.Module) -> bool:
        """Whether `module`, its parts already twins, can become one of these."""
        return (
            type(module) is DepthwiseSeparableConv
            and getattr(module, "conv_s2d", None) is None
            and isinstance(module.bn2, KernelBatchNormAct2d)
            and _has_depthwise_parts(module, module.bn1)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, c, h, w) -> (n, c', h', w')."""
        maps = _as_autocast(maps)
        if not all(_trainable(norm, maps) for norm in (self.bn1, self.bn2)):
            output: Tensor = super().forward(maps)  # type: ignore[no-untyped-call]
            return output
        convolution = self.conv_dw
        inner, moments = depthwise(
            maps, convolution.weight, stride=convolution.stride[0], padding=int(convolution.padding[0])
        )
        inner = self.conv_pw(_norm_excite(self.bn1, self.se, inner, moments))
        return _norm_add(self.bn2, self.drop_path, inner, maps if self.has_skip else None)


class KernelPlainLayer(PlainLayer):
    """A layer of our plain family: batch norms, the sum of the branches and ReLU fused."""

    @staticmethod
    def applies_to(module: nn.Module) -> bool:
        """Whether `module` can become one of these."""
        return type(module) is PlainLayer

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, c, h, w) -> (n, c', h', w')."""
        maps = _as_autocast(maps)
        if not _trainable(self.norm, maps):
            return super().forward(maps)
        inner = self.conv(maps)
        skip: Tensor | None = maps if self.keeps_shape else None
        if skip is not None and self.skip_norm is not None:
            skip = normalise(skip, self.skip_norm, _batch_moments(self.skip_norm, skip), activation=0)
        if self.point is not None and self.point_norm is not None:
            point = self.point(maps)
            skip = normalise(point, self.point_norm, _batch_moments(self.point_norm, point), skip=skip, activation=0)
        return normalise(inner, self.norm, _batch_moments(self.norm, inner), skip=skip, activation=ACTIVATIONS[nn.ReLU])


TWINS: tuple[type[Any], ...] = (
    PointwiseConv2d,
    DepthwiseConv2d,
    KernelBatchNorm2d,
    KernelBatchNormAct2d,
    KernelInvertedResidual,
    KernelDepthwiseSeparableConv,
    KernelPlainLayer,
)
"""All twins; parts come before the blocks that require them."""


def _has_depthwise_parts(block: Any, norm: nn.Module) -> bool:
    return (
        isinstance(block.conv_dw, DepthwiseConv2d)
        and isinstance(norm, KernelBatchNormAct2d)
        and type(block.aa) is nn.Identity
        and type(block.se) in (nn.Identity, SqueezeExcite)
    )


def _activation(norm: BatchNormAct2d) -> int:
    return ACTIVATIONS[type(norm.act)]


def _as_autocast(maps: Tensor) -> Tensor:
    """Maps in the type that autocasting, if it is on, gives a convolution's input."""
    return maps.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else maps


def _trainable(norm: nn.BatchNorm2d, maps: Tensor) -> bool:
    """Whether `norm`, in training, can use the kernels for these maps, or for maps computed from them.

    A batch of one is left to PyTorch, which raises an error for maps with a single value per channel.
    """
    return norm.training and norm.weight.dtype == torch.float32 and usable(maps) and maps.shape[0] > 1


def _batch_moments(norm: nn.BatchNorm2d, maps: Tensor) -> Moments:
    """The batch's moments; `norm`'s running statistics are updated with them."""
    moments = moments_of(maps.detach())
    _track(norm, moments, maps.numel() // maps.shape[1])
    return moments


def _track(norm: nn.BatchNorm2d, moments: Moments, rows: int) -> None:
    """Update the running statistics as PyTorch does, from moments over `rows` values."""
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    share = momentum or 0.0
    norm.running_mean.lerp_(moments.mean, share)
    norm.running_var.mul_(1 - share).add_(moments.variance, alpha=share * rows / (rows - 1))


def _norm_activate(norm: nn.BatchNorm2d, maps: Tensor, *, activation: int) -> Tensor | None:
    """activation(norm(maps)), or None where the kernels do not apply."""
    if _trainable(norm, maps):
        return normalise(maps, norm, _batch_moments(norm, maps), activation=activation)
    if norm.training or torch.is_grad_enabled() or not usable(maps) or norm.weight.dtype != torch.float32:
        return None
    if norm.running_mean is None or norm.running_var is None:
        return None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    offset = torch.addcmul(norm.bias, norm.running_mean, scale, value=-1)
    return apply_affine(maps, scale, offset, activation=activation)


def _norm_excite(norm: BatchNormAct2d, excite: nn.Module, maps: Tensor, moments: Moments) -> Tensor:
    """excite(activation(norm(maps))); `excite` is squeeze-excite or the identity."""
    _track(norm, moments, maps.numel() // maps.shape[1])
    if not isinstance(excite, SqueezeExcite):
        return normalise(maps, norm, moments, activation=_activation(norm))
    return normalise_gate(
        maps,
        norm,
        moments,
        activation=_activation(norm),
        excite=lambda pooled: excite.gate(excite.conv_expand(excite.act1(excite.conv_reduce(pooled)))),
        parameters=tuple(parameter for parameter in excite.parameters() if parameter.requires_grad),
    )


def _norm_add(norm: BatchNormAct2d, drop_path: nn.Module, maps: Tensor, skip: Tensor | None) -> Tensor:
    """drop_path(norm(maps)) + skip."""
    if skip is not None and type(drop_path) is not nn.Identity:
        output: Tensor = drop_path(norm(maps)) + skip
        return output
    return normalise(maps, norm, _batch_moments(norm, maps), skip=skip, activation=_activation(norm))
