"""The networks: a registry from name to network, the weights they start from, what they cost, and their folding.

>>> from fer_deploy.models import build_network, initialise
>>> network = build_network("efficientnet-lite0", stages=5, head=512)
>>> initialise(network, "xavier", name="efficientnet-lite0")
'Xavier-uniform weights and zero biases on linear layers, the network\'s own initialisation elsewhere'
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

__all__ = [
    "NETWORKS",
    "Cost",
    "NetworkEntry",
    "build_network",
    "fold",
    "initialise",
    "measure_cost",
    "total_cost",
]
