"""The study's own networks, as used for its results: its baseline, ResEmoteNet, and VGG19 with batch norm.

Widths, biases and dropout are those of the study's published notebook; fvcore counts exactly the study's multiply-adds
for each. All take float32 faces (n, 1, s, s), normalised to [-1, 1], and return logits (n, classes).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from fer_deploy.models.entry import NetworkEntry, NoOptions

_POOL = 0
"""Marks a 2x2 max-pool in the lists of widths below."""

_VGG19_WIDTHS = (64, 64, _POOL, 128, 128, _POOL, *(256,) * 4, _POOL, *(512,) * 4, _POOL, *(512,) * 4, _POOL)


class Baseline(nn.Module):
    """Nine 3x3 convolutions and six linear layers, without batch norm. Takes only faces of 48x48."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        groups = ((1, 8, 32, 64), (64, 128, 128), (128, 256, 256))
        convolutions: list[nn.Module] = []
        for group in groups:
            for before, after in pairwise(group):
                convolutions += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
            convolutions.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*convolutions)
        linears: list[nn.Module] = []
        for before, after in pairwise((256 * 6 * 6, 2304, 1152, 576, 288, 144)):
            linears += [nn.Linear(before, after), nn.ReLU(inplace=True)]
        self.classifier = nn.Sequential(*linears, nn.Linear(144, classes))

    def forward(self, faces: Tensor) -> Tensor:
        """Logits (n, classes) of faces (n, 1, 48, 48)."""
        logits: Tensor = self.classifier(torch.flatten(self.features(faces), 1))
        return logits


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate in (0, 1) computed from all channels' means; two linear layers without bias."""

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """The gated maps, (n, channels, h, w) as given."""
        gates: Tensor = self.gate(torch.flatten(self.pool(maps), 1))
        return maps * gates[:, :, None, None]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions of stride 2 and 1, plus a 1x1 projection of stride 2, each with batch norm; then ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.projection = nn.Conv2d(in_channels, channels, 1, stride=2, bias=False)
        self.projection_norm = nn.BatchNorm2d(channels)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, channels, h / 2, w / 2), rounded up, of maps (n, in_channels, h, w)."""
        inner = self.norm2(self.conv2(self.activation(self.norm1(self.conv1(maps)))))
        result: Tensor = self.activation(inner + self.projection_norm(self.projection(maps)))
        return result


class ResEmoteNet(nn.Module):
    """ResEmoteNet (Roy et al. 2024) with a 1-channel stem and no bias in its convolutions, as the study wrote it."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        stem: list[nn.Module] = []
        for before, after in pairwise((1, 64, 128, 256)):
            stem += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
            stem.append(nn.MaxPool2d(2))
            if after < 256:
                stem.append(nn.Dropout(0.2))
        self.stem = nn.Sequential(*stem)
        self.excitation = SqueezeExcitation(256)
        self.blocks = nn.Sequential(*(ResidualBlock(*widths) for widths in pairwise((256, 512, 1024, 2048))))
        self.pool = nn.AdaptiveAvgPool2d(1)
        linears: list[nn.Module] = []
        for before, after in pairwise((2048, 1024, 512, 256)):
            linears += [nn.Linear(before, after), nn.ReLU(inplace=True), nn.Dropout(0.5)]
        self.classifier = nn.Sequential(*linears, nn.Linear(256, classes))

    def forward(self, faces: Tensor) -> Tensor:
        """Logits (n, classes) of faces (n, 1, s, s)."""
        maps = self.blocks(self.excitation(self.stem(faces)))
        logits: Tensor = self.classifier(torch.flatten(self.pool(maps), 1))
        return logits


class VGG19(nn.Module):
    """VGG19 (Simonyan and Zisserman 2014) with batch norm, no bias in its convolutions, and pooling to 1x1."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width in _VGG19_WIDTHS:
            if width == _POOL:
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
                layers.append(nn.ReLU(inplace=True))
                channels = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(512, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, classes),
        )

    def forward(self, faces: Tensor) -> Tensor:
        """Logits (n, classes) of faces (n, 1, s, s), s at least 32."""
        logits: Tensor = self.classifier(torch.flatten(self.pool(self.features(faces)), 1))
        return logits


def _baseline(classes: int, _: NoOptions) -> nn.Module:
    return Baseline(classes)


def _resemotenet(classes: int, _: NoOptions) -> nn.Module:
    return ResEmoteNet(classes)


def _vgg19(classes: int, _: NoOptions) -> nn.Module:
    return VGG19(classes)


STUDY_NETWORKS = (
    NetworkEntry(
        name="baseline",
        build=_baseline,
        options_type=NoOptions,
        description="the study's starting point: seven convolutions, six linear layers, no batch norm; 48x48 alone",
        source="the study's notebook",
        gflops=0.327505,
    ),
    NetworkEntry(
        name="resemotenet",
        build=_resemotenet,
        options_type=NoOptions,
        description="ResEmoteNet: a convolutional stem, squeeze-and-excitation, three residual blocks",
        source="the study's notebook, after Roy et al. 2024",
        gflops=0.240087,
    ),
    NetworkEntry(
        name="vgg19",
        build=_vgg19,
        options_type=NoOptions,
        description="VGG19 with batch norm and pooling to 1x1",
        source="the study's notebook, after Simonyan and Zisserman 2014",
        gflops=0.913409,
    ),
)
"""The entries of this module, for the registry."""
