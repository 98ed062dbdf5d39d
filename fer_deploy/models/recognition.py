"""dlib's network that was made to recognise people, with a 1-channel stem and a new last layer.

`fer_deploy.training.borrow` brings the weights that were published.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fer_deploy.models.entry import NetworkEntry
from fer_deploy.models.plain import draw_for_relu


@dataclass(frozen=True, kw_only=True)
class RecognitionOptions:
    """Options of dlib's network."""

    dropout: float = 0.2
    """Share of pooled features dropped before the last layer while training, [0, 1)."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


FACE_RESNET_STAGES = ((32, 3), (64, 4), (128, 3), (256, 3))
"""Channels and blocks of each of dlib's stages; the first block of every stage but the first has stride 2."""


class FaceResidual(nn.Module):
    """Two 3x3 convolutions with batch norm and the input added: float32 (n, in_channels, h, w) to (n, channels, …).

    With `stride` 2 the sides are halved and rounded down, the input averaged over 2x2 and given zeros for the channels
    that it lacks.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=0 if stride == 2 else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Apply the block."""
        skip = maps
        if self.stride == 2:
            skip = nn.functional.avg_pool2d(maps, 2)
            # dlib's windows start at the edge, as the average's do, and need a row more where a side is even
            maps = nn.functional.pad(maps, (0, 1, 0, 1))
        if self.new_channels:
            skip = nn.functional.pad(skip, (0, 0, 0, 0, 0, self.new_channels))
        maps = self.act1(self.bn1(self.conv1(maps)))
        result: Tensor = self.act2(self.bn2(self.conv2(maps)) + skip)
        return result


class FaceResNet(nn.Module):
    """dlib's face recognition network without its last block: float32 (n, 1, s, s), in [-1, 1], to logits (n, classes).

    A 7x7 convolution of stride 2, the largest of 3x3 at stride 2, and 13 residual blocks of plain 3x3 convolutions,
    which a processor trains several times faster for their multiply-adds than depthwise ones.
    """

    def __init__(self, classes: int = 7, options: RecognitionOptions | None = None) -> None:
        super().__init__()
        options = options or RecognitionOptions()
        self.stem = nn.Conv2d(1, 32, 7, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(32)
        self.act = nn.ReLU()
        self.largest = nn.MaxPool2d(3, 2)
        blocks = []
        channels = 32
        for stage, (width, count) in enumerate(FACE_RESNET_STAGES):
            for position in range(count):
                blocks.append(FaceResidual(channels, width, stride=2 if stage and not position else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(options.dropout)
        self.classifier = nn.Linear(channels, classes)
        draw_for_relu(self)

    def forward(self, faces: Tensor) -> Tensor:
        """Logits (n, classes) of faces (n, 1, s, s)."""
        maps = self.blocks(self.largest(self.act(self.bn(self.stem(faces)))))
        logits: Tensor = self.classifier(self.dropout(torch.flatten(self.pool(maps), 1)))
        return logits


RECOGNITION_NETWORKS = (
    NetworkEntry(
        name="face-resnet",
        build=FaceResNet,
        options_type=RecognitionOptions,
        description="dlib's residual network of 27 layers; weights that recognise people exist",
        source="ours, after dlib's dnn_face_recognition_ex (King 2017)",
        gflops=0.019725,
    ),
)
"""The entries of this module, for the registry."""
