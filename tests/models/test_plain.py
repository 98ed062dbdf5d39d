"""Our own family: where it strides, what its layers are while training, and that each kind of layer folds exactly."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fer_deploy.models
from fer_deploy.models import build_network
from fer_deploy.models.plain import PlainLayer

Draw = Callable[..., Tensor]


@pytest.mark.parametrize(
    ("options", "sides"),
    [
        ({}, [48, 24, 24, 12, 12, 12, 6, 6, 6, 6]),
        ({"widths": (4, 8, 8), "depths": (2, 1, 2)}, [48, 48, 24, 12, 12]),
        ({"widths": (4, 8), "depths": (1, 1), "stem_stride": 2}, [24, 12]),
        ({"widths": (4, 8), "depths": (1, 1), "head": 5}, [48, 24, 24]),
    ],
)
def test_first_layer_of_a_stage_halves_the_map(options: dict[str, Any], sides: list[int], draw_faces: Draw) -> None:
    network = build_network("plain", **options).eval()
    maps, seen = draw_faces(1), []
    for layer in network.layers:  # type: ignore[union-attr]
        maps = layer(maps)
        seen.append(maps.shape[-1])
    assert seen == sides
    assert maps.shape[1] == (options.get("head") or options.get("widths", (96,))[-1])


@pytest.mark.parametrize("branches", [False, True])
@pytest.mark.parametrize(("in_channels", "channels", "stride"), [(6, 6, 1), (6, 6, 2), (1, 6, 1), (6, 12, 2)])
def test_layer_folds_to_one_convolution(in_channels: int, channels: int, stride: int, branches: bool) -> None:
    layer = PlainLayer(in_channels, channels, stride=stride, branches=branches).eval()
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.2, 2.0)  # type: ignore[arg-type]
    maps = torch.randn(2, in_channels, 7, 9)
    folded = layer.folded()
    with torch.no_grad():
        expected = layer(maps)
        assert float(expected.std()) > 0.1
        torch.testing.assert_close(folded(maps), expected, atol=1e-5, rtol=1e-5)
    assert [type(step) for step in folded] == [nn.Conv2d, nn.ReLU]


@pytest.mark.parametrize(("stride", "kinds"), [(1, {"conv", "point", "skip"}), (2, {"conv", "point"})])
def test_branches_are_those_of_repvgg(stride: int, kinds: set[str]) -> None:
    layer = PlainLayer(4, 4, stride=stride, branches=True).eval()
    found = set()
    for kind, norm in (("conv", layer.norm), ("point", layer.point_norm), ("skip", layer.skip_norm)):
        if norm is None:
            continue
        for other in (layer.norm, layer.point_norm, layer.skip_norm):
            if other is not None:
                nn.init.zeros_(other.weight)
        nn.init.ones_(norm.weight)  # this branch alone
        if float(layer(torch.rand(1, 4, 5, 5)).detach().abs().sum()) > 0:
            found.add(kind)
    assert found == kinds


def test_example_in_the_documentation() -> None:
    results = doctest.testmod(fer_deploy.models)
    assert results.attempted > 4
    assert results.failed == 0
