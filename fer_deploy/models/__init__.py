"""The networks: a registry from name to network, the weights they start from, what they cost, and their folding.

>>> from fer_deploy.models import build_network, fold, initialise, measure_cost
>>> network = build_network("plain", widths=(8, 16, 32, 64), depths=(1, 1, 2, 2))
>>> initialise(network, "default", name="plain")
"the network's own initialisation"
>>> round(measure_cost(network).gflops, 4), measure_cost(network).parameters
(0.0049, 71231)
>>> fold(network).layers[0]
Sequential(
  (0): Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
  (1): ReLU(inplace=True)
)
"""

from __future__ import annotations

from fer_deploy.models.cost import Cost as Cost
from fer_deploy.models.cost import measure_cost as measure_cost
from fer_deploy.models.cost import total_cost as total_cost
from fer_deploy.models.entry import NetworkEntry as NetworkEntry
from fer_deploy.models.fold import fold as fold
from fer_deploy.models.initialise import initialise as initialise
from fer_deploy.models.registry import NETWORKS as NETWORKS
from fer_deploy.models.registry import build_network as build_network
from fer_deploy.models.registry import network_options as network_options
from fer_deploy.models.registry import register_network as register_network

__all__ = [
    "NETWORKS",
    "Cost",
    "NetworkEntry",
    "build_network",
    "fold",
    "initialise",
    "measure_cost",
    "network_options",
    "register_network",
    "total_cost",
]
