"""The whole classifier as one torch module: uint8 faces of any size in, probabilities out.

Luma, the antialiased resize and the scaling to [-1, 1] are linear, so they are two matrix products, `rows @ (faces @
columns)`, with the luma weights folded into `columns`. The networks and the fusion follow. The ONNX file is compared
with what this module computes in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fer_deploy.ensemble import FUSIONS, LEAST_PROBABILITY, RANK_CONSTANT, AdaptiveTemperature, Fusion, Weights
from fer_deploy.pictures import LUMA

HALF_RANGE = 127.5
"""Grey levels 0 to 255 become value / 127.5 - 1, that is [-1, 1]: the study's (x / 255 - 0.5) / 0.5."""


@dataclass(frozen=True, eq=False)
class Member:
    """One network of a classifier, with its input size and temperature."""

    name: str
    """`B`, or `B~mirror` for the view of the mirrored face."""
    network: nn.Module
    """float32 (n, 1, s, s) in [-1, 1] to logits (n, classes). Two members may share one."""
    input_size: int = 48
    """The side s of the square face that the network takes, in pixels."""
    temperature: float = 1.0
    """Logits are divided by it before the softmax; above 0."""
    mirrored: bool = False
    """Whether the network sees the face mirrored left to right."""

    def __post_init__(self) -> None:
        if self.input_size < 1 or not 0 < self.temperature < math.inf:
            raise ValueError(f"member {self.name}: input size {self.input_size} and temperature {self.temperature}")


class FacePlane(nn.Module):
    """uint8 faces (n, h, w, 3) of any size to float32 planes (n, 1, size, size) in [-1, 1].

    Equal to Pillow's `Image.resize((size, size), BILINEAR)` of the luma in mode F: a triangle filter, normalised at the
    edges. Its half-width is the scale where the picture shrinks, so that every pixel counts, and one pixel where it
    grows. Faces without height or width raise.
    """

    luma: Tensor
    centres: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("luma", torch.tensor([[share / HALF_RANGE] for share in LUMA]), persistent=False)
        centres = (torch.arange(size, dtype=torch.float32) + 0.5) / size
        self.register_buffer("centres", centres[:, None], persistent=False)

    def forward(self, faces: Tensor) -> Tensor:
        """The planes of `faces`."""
        rows, columns = self._weights(faces.shape[1]), self._weights(faces.shape[2])
        # (w, 1, size) times (3, 1): each channel of a pixel contributes to each output column by its share of grey
        coloured = (columns.t()[:, None, :] * self.luma).flatten(0, 1)
        return (rows @ (faces.flatten(2).float() @ coloured) - 1).unsqueeze(1)

    def _weights(self, length: int) -> Tensor:
        """float32 (size, length): the share of each of `length` pixels in each of `size`; rows sum to 1."""
        positions = torch.arange(length, dtype=torch.float32, device=self.centres.device)
        # The length as a tensor: the exporter would fix a number. This fails on an empty picture.
        total = positions[-1] + 1
        half_width = (total / self.size).clamp(min=1)
        triangles = (half_width - (positions - (self.centres * total - 0.5)).abs()).relu()
        return triangles / triangles.sum(dim=1, keepdim=True)


class FaceClassifier(nn.Module):
    """uint8 faces (n, h, w, 3), RGB, any size, to float32 probabilities (n, classes) whose rows sum to 1.

    Faces are resized once for all members of the same input size, and a network that several members share (a face and
    its mirror image) runs once on all their views.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        weights: Weights | None = None,
        fusion: Fusion = "wap",
        calibration: AdaptiveTemperature | None = None,
    ) -> None:
        super().__init__()
        if not members:
            raise ValueError("a classifier needs a member")
        weights = weights or Weights.equal(len(members))
        if len(weights.values) != len(members):
            raise ValueError(f"{len(members)} members need as many weights, got {len(weights.values)}")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
        self.members = tuple(members)
        self.weights = weights
        self.fusion: Fusion = fusion
        self.calibration = calibration
        self._calls = _calls(members)
        self.networks = nn.ModuleList(self.members[views[0]].network for views in self._calls)
        self.planes = nn.ModuleDict(
            {str(size): FacePlane(size) for size in sorted({member.input_size for member in members})}
        )
        self.eval()

    @property
    def input_size(self) -> int:
        """The largest input size of the networks, in pixels."""
        return max(member.input_size for member in self.members)

    def forward(self, faces: Tensor) -> Tensor:
        """The fused, calibrated probabilities of `faces`."""
        return self.fuse(self.member_probabilities(faces))

    def member_probabilities(self, faces: Tensor) -> list[Tensor]:
        """Each member's probabilities of `faces`, float32 (n, classes)."""
        return self.plane_probabilities(self.planes_of(faces))

    def planes_of(self, faces: Tensor) -> dict[int, Tensor]:
        """The networks' inputs for `faces`: float32 (n, 1, s, s) in [-1, 1] for each input size s."""
        return {int(size): plane(faces) for size, plane in self.planes.items()}

    def plane_probabilities(self, planes: Mapping[int, Tensor]) -> list[Tensor]:
        """Each member's probabilities, float32 (n, classes), of faces that `planes_of` has prepared."""
        answers: dict[int, Tensor] = {}
        for network, views in zip(self.networks, self._calls, strict=True):
            plane = planes[self.members[views[0]].input_size]
            inputs = [plane.flip(3) if self.members[view].mirrored else plane for view in views]
            logits = network(inputs[0] if len(inputs) == 1 else torch.cat(inputs))
            split = [logits] if len(inputs) == 1 else logits.reshape(len(inputs), -1, logits.shape[-1])
            for position, view in enumerate(views):
                temperature = self.members[view].temperature
                scaled = split[position] if temperature == 1 else split[position] / temperature
                answers[view] = scaled.softmax(dim=-1)
        return [answers[index] for index in range(len(self.members))]

    def fuse(self, probabilities: Sequence[Tensor]) -> Tensor:
        """The classifier's probabilities from its members' (n, classes): fused as in `ensemble`, calibrated."""
        if len(probabilities) == 1 and self.fusion == "wap":
            return self._calibrated(probabilities[0])
        total: Any = 0
        for member, weight in zip(probabilities, self.weights.values, strict=True):
            total = total + (member if self.fusion == "wap" else _rank_score(member)) * weight
        return self._calibrated(total if self.fusion == "wap" else total / total.sum(dim=-1, keepdim=True))

    def _calibrated(self, probabilities: Tensor) -> Tensor:
        """Probabilities (n, classes) after the adaptive temperature, if there is one."""
        how = self.calibration
        if how is None:
            return probabilities
        logarithms = probabilities.clamp(min=LEAST_PROBABILITY).log()
        spread = logarithms.amax(dim=-1, keepdim=True) - logarithms.mean(dim=-1, keepdim=True)
        return (logarithms * (spread * how.slope + how.base)).softmax(dim=-1)


def _calls(members: Sequence[Member]) -> list[list[int]]:
    """The members that each call of a network serves: those that share the network and its input size."""
    calls: dict[tuple[int, int], list[int]] = {}
    for index, member in enumerate(members):
        calls.setdefault((id(member.network), member.input_size), []).append(index)
    return list(calls.values())


def _rank_score(probabilities: Tensor) -> Tensor:
    """1 / (k + rank) of each class: rank 1 for the most probable, ties to the earlier class."""
    classes = probabilities.shape[-1]
    one, other = probabilities[:, :, None], probabilities[:, None, :]
    earlier = torch.ones(classes, classes, dtype=torch.bool, device=probabilities.device).tril(-1)
    ahead = (other > one) | ((other == one) & earlier)
    return 1 / (ahead.float().sum(dim=-1) + (1 + RANK_CONSTANT))
