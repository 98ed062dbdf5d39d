"""What the package's networks cost, kept beside the recipes so that listing them needs neither torch nor time.

`python benchmarks/costs.py` measures the networks of all recipes and writes `costs.json`; a test fails where a network
is missing or its cost differs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

from fer_deploy.recipes.schema import Network


@dataclass(frozen=True)
class KnownCost:
    """The cost of one face."""

    gflops: float
    """Multiply-adds as fvcore counts them, in units of 1e9."""
    parameters: int
    """Weights that training changes."""
    activations: int
    """Elements in the outputs of convolutions and linear layers."""


def network_key(network: Network) -> str:
    """The network's specification as one canonical line of JSON."""
    content = {"name": network.name, "options": dict(network.options), "input_size": network.input_size}
    return json.dumps(content, sort_keys=True)


def known_costs() -> dict[str, KnownCost]:
    """The stored costs, by `network_key`."""
    text = resources.files("fer_deploy.recipes").joinpath("costs.json").read_text(encoding="utf-8")
    return {key: KnownCost(**values) for key, values in json.loads(text).items()}
