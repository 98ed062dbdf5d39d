"""What the packaged networks cost, stored so that listing them needs neither torch nor time.

`benchmarks/costs.py` writes `costs.json`; a test counts every network and compares.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

from fer_deploy.recipes.schema import Network


@dataclass(frozen=True)
class Cost:
    """What one face costs: fvcore's multiply-adds in units of 1e9, parameters, elements of the layers' outputs."""

    gflops: float
    parameters: int
    activations: int


def network_key(network: Network) -> str:
    """The network's specification as one canonical line."""
    content = {"name": network.name, "options": dict(network.options), "input_size": network.input_size}
    return json.dumps(content, sort_keys=True)


def known_costs() -> dict[str, Cost]:
    """The stored costs, by `network_key`."""
    text = resources.files("fer_deploy.recipes").joinpath("costs.json").read_text(encoding="utf-8")
    return {key: Cost(**values) for key, values in json.loads(text).items()}
