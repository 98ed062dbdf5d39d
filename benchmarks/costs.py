"""Count what the packaged recipes' networks cost, and write fer_deploy/recipes/costs.json.

    python benchmarks/costs.py

Run it after adding a recipe. A test counts every network and compares.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fer_deploy.files import write_json
from fer_deploy.models import build_network, measure_cost
from fer_deploy.recipes import list_recipes, load_recipe
from fer_deploy.recipes.costs import Cost, network_key

COSTS = Path(__file__).resolve().parents[1] / "fer_deploy" / "recipes" / "costs.json"


def packaged_costs() -> dict[str, dict[str, Any]]:
    """The cost of every packaged recipe's network, by `network_key`."""
    networks = {network_key(recipe.network): recipe.network for recipe in map(load_recipe, list_recipes())}
    costs = {}
    for key, network in sorted(networks.items()):
        options: dict[str, Any] = dict(network.options)
        cost = measure_cost(build_network(network.name, **options), size=network.input_size)
        costs[key] = asdict(Cost(cost.gflops, cost.parameters, cost.activations))
    return costs


if __name__ == "__main__":
    write_json(COSTS, packaged_costs())
    print(f"wrote {COSTS}")
