"""Folding: the same function, with fewer layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fer_deploy.errors import ExportError
from fer_deploy.models import NETWORKS, build_network, fold

Built = Callable[[str], nn.Module]
Draw = Callable[..., Tensor]
Settle = Callable[[nn.Module], None]

CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in sorted(NETWORKS)),
    ("plain", {"branches": True}),
    ("plain", {"branches": True, "head": 40, "stem_stride": 2}),
    ("plain", {"widths": (8, 16, 32, 64), "depths": (1, 1, 2, 2)}),
    ("efficientnet-lite0", {"stages": 5, "head": 512}),
    ("efficientnet-lite0", {"stages": 3, "head": 64, "expanded": (48, 24, 96, 48)}),
]


def _norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(("name", "options"), CASES)
def test_folded_network_is_the_same_function(
    name: str, options: dict[str, Any], built: Built, draw_faces: Draw, settle_statistics: Settle
) -> None:
    network = build_network(name, **options) if options else copy.deepcopy(built(name))
    if name == "inception-v3" or ("net" in name and name != "resemotenet"):
        # through some 50 to 110 random layers float32's rounding itself grows to 1e-3, in the network as in the folded
        # one: here the algebra is compared
        network = network.double()
    precision = next(network.parameters()).dtype
    settle_statistics(network)
    folded = fold(network)
    assert {tensor.dtype for tensor in folded.parameters()} == {precision}
    faces = draw_faces(3).to(precision)
    with torch.no_grad():
        expected, logits = network(faces), folded(faces)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    assert _norms(folded) == 0
    if name != "baseline":  # which has no batch norm, and hardly sees the face before it is trained
        assert _norms(network) > 0
        assert float((expected - expected.mean(0)).abs().max()) > 1e-3  # the answer hangs on the face


@pytest.mark.parametrize("branches", [False, True])
def test_plain_network_becomes_convolutions_and_relus(
    branches: bool, draw_faces: Draw, settle_statistics: Settle
) -> None:
    network = build_network("plain", branches=branches)
    settle_statistics(network)
    folded = fold(network)
    leaves = [type(leaf) for layer in folded.layers for leaf in layer.modules() if not list(leaf.children())]  # type: ignore[union-attr]
    assert leaves == [nn.Conv2d, nn.ReLU] * 10
    assert all(layer[0].kernel_size == (3, 3) and layer[0].bias is not None for layer in folded.layers)  # type: ignore[union-attr]
    assert not folded.training


def test_folding_does_not_change_the_network_itself(draw_faces: Draw) -> None:
    network = build_network("efficientnet-lite0", stages=1, head=8)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    folded = fold(network)
    assert not any(module.training for module in folded.modules())
    assert [module.training for module in network.modules()] == modes
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    ours = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert not ours & {tensor.data_ptr() for tensor in folded.state_dict().values()}


class _Shared(nn.Module):
    """A convolution whose raw result is used beside its batch norm, and a batch norm before any convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(1)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 1)
        self.twice_norm = nn.BatchNorm2d(4)

    def forward(self, faces: Tensor) -> Tensor:
        raw = self.conv(self.first(faces))
        maps = self.twice(self.norm(raw) + raw)
        return (self.twice_norm(maps) + self.twice_norm(self.twice(maps))).mean((2, 3))  # type: ignore[no-any-return]


def test_batch_norms_that_cannot_be_folded_stay(draw_faces: Draw, settle_statistics: Settle) -> None:
    network = _Shared()
    settle_statistics(network)
    folded = fold(network)
    assert _norms(folded) == _norms(network) == 3
    with torch.no_grad():
        torch.testing.assert_close(folded(draw_faces(2)), network(draw_faces(2)), atol=1e-5, rtol=0)


class _Branching(nn.Module):
    def forward(self, faces: Tensor) -> Tensor:
        return faces if faces.sum() > 0 else -faces


def test_a_network_that_cannot_be_traced_is_named() -> None:
    with pytest.raises(ExportError, match=r"^_Branching cannot be folded: torch\.fx cannot trace it \(.+\)$"):
        fold(_Branching())
