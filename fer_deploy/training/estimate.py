"""How long planned runs will take on this machine, from a few steps of each network on random faces."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from torch.nn import functional

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import RunError, TrainingError
from fer_deploy.models import measure_cost
from fer_deploy.recipes import Recipe
from fer_deploy.training.devices import autocast, describe_failure, half_type
from fer_deploy.training.kernels import accelerate_network
from fer_deploy.training.run import Run, make_network

STEPS = 3
"""Timed steps, after one to warm up; the fastest counts."""
LARGEST_CPU_BATCH = 32
"""Faces per step on a CPU, where the rate hardly depends on it."""


def measure_rate(recipe: Recipe, *, device: torch.device, classes: int = len(EMOTIONS)) -> float:
    """Training faces per second of a recipe's network on `device`: forward, backward and step.

    Augmentation, validation and teachers take more time. PyTorch's random generator keeps its state.

    Raises:
        RecipeError: the network does not take faces of the recipe's size.
        TrainingError: the device is out of memory, or was lost.
    """
    try:
        return _measure_rate(recipe, device, classes)
    except RuntimeError as error:
        failure = describe_failure(error)
        if failure is not None:
            raise TrainingError(f"{recipe.name}: {failure}") from error
        measure_cost(make_network(recipe.network), size=recipe.network.input_size)
        raise


def _measure_rate(recipe: Recipe, device: torch.device, classes: int) -> float:
    stage = recipe.stages[0]
    batch = min(stage.batch_size, LARGEST_CPU_BATCH) if device.type == "cpu" else stage.batch_size
    with torch.random.fork_rng(devices=[]):
        network = make_network(recipe.network, classes=classes).to(device)
        size = recipe.network.input_size
        faces = torch.rand(batch, 1, size, size).to(device).contiguous(memory_format=torch.channels_last)
        labels = (torch.arange(batch) % classes).to(device)
        accelerate_network(network, device).train()
        optimiser = torch.optim.SGD(network.parameters(), lr=1e-6)
        half = half_type(stage.precision, device)
        fastest = math.inf
        for _ in range(STEPS + 1):
            began = time.perf_counter()
            with autocast(device, half):
                logits = network(faces)
            loss = functional.cross_entropy(logits.float(), labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            float(loss.detach())  # waits for the device
            fastest = min(fastest, time.perf_counter() - began)
    return batch / fastest


def epochs_left(recipe: Recipe, folder: Path) -> int:
    """The most epochs of a recipe that its run folder still lacks; 0 if the run is complete."""
    planned = sum(stage.length for stage in recipe.stages)
    try:
        record = Run.open(folder, partial=True).record
    except RunError:
        return planned
    return 0 if record["status"] == "complete" else max(0, planned - int(record.get("epochs_run", 0)))
