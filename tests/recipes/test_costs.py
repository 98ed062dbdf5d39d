"""The costs that `ferdeploy variants` shows are those of the recipes' networks."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from fer_deploy.recipes.costs import known_costs

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "costs.py"))


def test_the_cost_of_every_recipes_network_is_stored() -> None:
    assert list(known_costs()) == list(TOOL["networks"]()), "run python benchmarks/costs.py"


@pytest.mark.parametrize("name", ["baseline", "plain", "efficientnet-lite0"])
def test_stored_costs_are_measured_ones(name: str) -> None:
    networks = {key: network for key, network in TOOL["networks"]().items() if network.name == name}
    assert networks
    for key, network in networks.items():
        assert known_costs()[key] == TOOL["measure"](network), key
