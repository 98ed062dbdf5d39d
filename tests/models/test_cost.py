"""What networks cost: the study's figures to the last digit, and counts held against independent ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fer_deploy.models import NETWORKS, Cost, build_network, fold, measure_cost, total_cost

Built = Callable[[str], nn.Module]

STUDY_GFLOPS = {
    "baseline": 0.327505,
    "resemotenet": 0.240087,
    "vgg19": 0.913409,
    "efficientnet-b0": 0.023211,
    "efficientnet-b1": 0.035440,
    "mobilenetv3-large": 0.014446,
    "efficientnetv2-s": 0.156170,
}
"""The study's figures, recomputed to six decimals."""


def count_multiply_adds(network: nn.Module, faces: Tensor) -> int:
    """Multiply-adds of convolutions and linear layers, from the shapes that pass through them."""
    total = 0

    def watch(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        per_output = module.weight[0].numel()  # type: ignore[operator,index]
        total += output.numel() * per_output

    watched = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [module.register_forward_hook(watch) for module in watched]
    with torch.no_grad():
        network(faces)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_figures_of_every_network(name: str, built: Built) -> None:
    cost = measure_cost(built(name))
    assert round(cost.gflops, 6) == NETWORKS[name].gflops == STUDY_GFLOPS.get(name, NETWORKS[name].gflops)
    assert cost.parameters == sum(parameter.numel() for parameter in built(name).parameters())
    multiply_adds = count_multiply_adds(built(name), torch.zeros(1, 1, 48, 48))
    assert round(cost.torch_gflops * 1e9) == 2 * multiply_adds  # PyTorch counts these, each twice, and nothing else
    assert cost.gflops * 1e9 >= multiply_adds  # batch norm and pooling come on top


def test_no_network_of_the_study_is_left_out() -> None:
    assert set(STUDY_GFLOPS) <= set(NETWORKS)


def test_pooling_costs_the_same_written_as_a_mean() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(1, 7)

        def forward(self, faces: Tensor) -> Tensor:
            return self.linear(faces.mean((2, 3)))  # type: ignore[no-any-return]

    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 7))
    assert measure_cost(Mean()).gflops * 1e9 == measure_cost(pooled).gflops * 1e9 == 48 * 48 + 7


def test_batch_norm_costs_two_per_element_and_nothing_once_folded() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    elements = 3 * 48 * 48
    assert round(measure_cost(network).gflops * 1e9) == elements + 2 * elements + elements
    assert round(measure_cost(fold(network)).gflops * 1e9) == elements + elements


def test_uncounted_operators_are_named(built: Built) -> None:
    assert measure_cost(built("efficientnet-b0")).uncounted == (
        "aten::add",
        "aten::mul",
        "aten::sigmoid",
        "aten::silu_",
    )
    assert measure_cost(built("baseline")).uncounted == ("aten::max_pool2d",)


def test_activations_are_what_convolutions_and_linear_layers_write() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7)
    )
    assert measure_cost(network).activations == 3 * 48 * 48 + 7


def test_larger_faces_cost_in_proportion_to_their_area(built: Built) -> None:
    small, large = (measure_cost(built("plain"), size=size) for size in (48, 96))
    assert large.gflops / small.gflops == pytest.approx(4, rel=1e-3)
    assert large.parameters == small.parameters


def test_an_ensemble_costs_its_members_sum(built: Built) -> None:
    member, other = measure_cost(built("efficientnet-b0")), measure_cost(built("plain"))
    both = total_cost([member, other])
    assert both == member + other
    assert both.gflops == member.gflops + other.gflops
    assert both.parameters == member.parameters + other.parameters
    assert both.activations == member.activations + other.activations
    assert both.torch_gflops == member.torch_gflops + other.torch_gflops
    assert set(both.uncounted) == {*member.uncounted, *other.uncounted}
    assert round(total_cost([member] * 5).gflops, 5) == 0.11605  # the study's A+B+C+D+E
    assert round(total_cost([member] * 2).gflops, 5) == 0.04642  # its B+E
    assert total_cost([other]) == other
    with pytest.raises(ValueError, match="at least one"):
        total_cost([])
    with pytest.raises(TypeError):
        member + 1  # type: ignore[operator]


def test_measuring_leaves_the_network_and_the_random_numbers_alone() -> None:
    network = build_network("plain", branches=True)
    network.layers[0].norm.eval()  # type: ignore[union-attr,index,operator]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    random_state = torch.random.get_rng_state()
    measure_cost(network)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "options", "multiply_adds", "parameters"),
    [
        ("plain", {}, 0.0226e9, 0.35e6),
        ("plain", {"widths": (8, 16, 32, 64), "depths": (1, 1, 2, 2)}, 0.0048e9, 0.07e6),
        ("efficientnet-lite0", {"stages": 5, "head": 512}, 0.0114e9, 0.76e6),
    ],
)
def test_trial_networks_are_rebuilt(
    name: str, options: dict[str, Any], multiply_adds: float, parameters: float
) -> None:
    cost = measure_cost(build_network(name, **options))
    assert cost.torch_gflops * 1e9 / 2 == pytest.approx(multiply_adds, abs=0.5e5)
    assert cost.parameters == pytest.approx(parameters, abs=0.5e4)


def test_training_branches_cost_nothing() -> None:
    plain = build_network("plain")
    branched = build_network("plain", branches=True)
    assert measure_cost(branched) == measure_cost(plain)
    assert measure_cost(fold(branched)) == measure_cost(fold(plain))
    assert measure_cost(fold(plain)).gflops < measure_cost(plain).gflops
    assert measure_cost(fold(plain)).uncounted == ()


def test_cost_is_a_value() -> None:
    cost = Cost(gflops=1.0, parameters=2, activations=3, uncounted=(), torch_gflops=2.0)
    assert cost == Cost(gflops=1.0, parameters=2, activations=3, uncounted=(), torch_gflops=2.0)
    assert len({cost, cost}) == 1
