"""Networks built once for the tests that only look at them, faces to look with, and statistics to fold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Protocol

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_deploy.models import build_network


def _draw_faces(count: int, *, size: int = 48, seed: int = 0) -> Tensor:
    """Smooth patches of light and dark, float32 (count, 1, size, size) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 6, 6, generator=generator)
    return F.interpolate(coarse, (size, size), mode="bicubic").clamp(-1, 1)


def _settle_statistics(network: nn.Module, *, seed: int = 0) -> None:
    """Give every batch norm random scales and shifts, and statistics near what it then meets: random, yet no
    activation explodes from layer to layer, so that a difference of outputs is a difference of functions."""
    generator = torch.Generator().manual_seed(seed)
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
        nn.init.normal_(norm.bias, 0, 0.3, generator=generator)
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        network(_draw_faces(16, seed=seed + 1).to(next(network.parameters()).dtype))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None
            assert variance is not None
            mean += torch.randn(mean.shape, generator=generator, dtype=mean.dtype) * 0.02 * variance.sqrt()
            variance *= torch.rand(variance.shape, generator=generator, dtype=variance.dtype) * 0.1 + 0.95


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from more, and busy machines lose much; the networks go when these tests do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    _built.cache_clear()


@cache
def _built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_network(name).eval()


class DrawFaces(Protocol):
    """See `_draw_faces`."""

    def __call__(self, count: int, *, size: int = 48, seed: int = 0) -> Tensor: ...


@pytest.fixture
def draw_faces() -> DrawFaces:
    return _draw_faces


@pytest.fixture
def settle_statistics() -> Callable[[nn.Module], None]:
    return _settle_statistics


@pytest.fixture
def built() -> Callable[[str], nn.Module]:
    """The network of a name with its default options, in evaluation mode; shared, so not to be changed."""
    return _built


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
