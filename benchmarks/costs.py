"""Measure what each recipe's network costs, and write fer_deploy/recipes/costs.json, which `ferdeploy variants` reads.

Run it after adding or changing a recipe: `python benchmarks/costs.py`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fer_deploy.files import write_json
from fer_deploy.models import build_network, measure_cost
from fer_deploy.recipes import Network, list_experiments, list_recipes, load_recipe
from fer_deploy.recipes.costs import KnownCost, network_key

ROOT = Path(__file__).resolve().parents[1]


def measure(network: Network) -> KnownCost:
    """The cost of one face."""
    options: dict[str, Any] = dict(network.options)
    cost = measure_cost(build_network(network.name, input_size=network.input_size, **options), size=network.input_size)
    return KnownCost(cost.gflops, cost.parameters, cost.activations)


def networks() -> dict[str, Network]:
    """The networks of the package's recipes and of the experiments, by key, in the order of the keys."""
    recipes = [load_recipe(name, workspace=ROOT) for name in (*list_recipes(), *list_experiments(ROOT))]
    by_key = {network_key(recipe.network): recipe.network for recipe in recipes}
    return {key: by_key[key] for key in sorted(by_key)}


if __name__ == "__main__":
    costs = {key: asdict(measure(network)) for key, network in networks().items()}
    write_json(ROOT / "fer_deploy" / "recipes" / "costs.json", costs)
