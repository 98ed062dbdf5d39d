"""What the package's networks cost, kept beside the recipes so that listing them needs neither torch nor time.

`costs.json` is written by `python -m fer_deploy.recipes.costs`; a test measures every network and compares.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fer_deploy.recipes.schema import Network


@dataclass(frozen=True)
class Cost:
    """One face's cost: fvcore's multiply-adds in units of 1e9, parameters, activations (elements that layers give)."""

    gflops: float
    parameters: int
    activations: int


def network_key(network: Network) -> str:
    """The network's specification as one canonical line."""
    content = {"name": network.name, "options": dict(network.options), "input_size": network.input_size}
    return json.dumps(content, sort_keys=True)


def known_costs() -> dict[str, Cost]:
    """The kept costs, by `network_key`."""
    text = resources.files("fer_deploy.recipes").joinpath("costs.json").read_text(encoding="utf-8")
    return {key: Cost(**values) for key, values in json.loads(text).items()}


def _write() -> None:
    from fer_deploy.files import write_json
    from fer_deploy.models import build_network, measure_cost
    from fer_deploy.recipes.load import list_recipes, load_recipe

    networks = {network_key(recipe.network): recipe.network for recipe in map(load_recipe, list_recipes())}
    costs = {}
    for key, network in sorted(networks.items()):
        options: dict[str, Any] = dict(network.options)
        cost = measure_cost(build_network(network.name, **options), size=network.input_size)
        costs[key] = asdict(Cost(cost.gflops, cost.parameters, cost.activations))
    write_json(Path(__file__).with_name("costs.json"), costs)


if __name__ == "__main__":
    _write()
