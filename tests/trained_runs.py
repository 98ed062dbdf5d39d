"""Run folders with networks that really learned the drawn faces, in about a second each: what exports start from.

Parity means something on trained weights alone: the logits of an untrained network lie within a hair of each other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fer_deploy.faces import Dataset
from fer_deploy.models import build_network
from fer_deploy.models.cost import measure_cost
from fer_deploy.recipes import parse_recipe, recipe_to_dict
from fer_deploy.training.record import RUN_FORMAT
from fer_deploy.training.run import Run, half_precision, save_weights

RECIPE = """
name = "{name}"
title = "a run of the tests"
network = {{ name = "plain", options = {{ widths = [8, 16, 24], depths = [1, 1, 2], stem_stride = 2 }} }}
[[stage]]
epochs = 1
"""


def train_network(dataset: Dataset, *, seed: int, epochs: int = 4) -> nn.Module:
    """A small plain network, trained on the training split for a second or two, in evaluation mode."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    classes = len(dataset.labels)
    network = build_network("plain", classes=classes, widths=(8, 16, 24), depths=(1, 1, 2), stem_stride=2)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    images = torch.from_numpy(dataset.training.at(48)).float()[:, None] / 127.5 - 1
    labels = torch.from_numpy(dataset.training.labels)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimiser.step()
    return network.eval()


def write_run(
    workspace: Path,
    name: str,
    network: nn.Module,
    *,
    data: str = "synthetic",
    labels: tuple[str, ...] | None = None,
    temperature: float | None = None,
) -> Run:
    """Save `network`, one of `train_network`'s, as the complete run `name` of a workspace. Labels None: the seven."""
    folder = workspace / "training" / name
    folder.mkdir(parents=True, exist_ok=True)
    recipe = parse_recipe(RECIPE.format(name=name), source="the tests")
    record: dict[str, Any] = {
        "format": RUN_FORMAT,
        "name": name,
        "status": "complete",
        "recipe": recipe_to_dict(recipe),
        "data": {"name": data} | ({"labels": list(labels)} if labels else {}),
        "best": {"stage": 1, "epoch": 1, "validation_accuracy": 0.5},
        "gflops": measure_cost(network).gflops,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "temperature": temperature,
        "weights_sha256": save_weights(folder, half_precision(network.state_dict())),
    }
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return Run.open(folder)
