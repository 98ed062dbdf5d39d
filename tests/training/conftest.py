"""A recipe and a data set that train in a second, and every part of a recipe that may break on resuming."""

from __future__ import annotations

import pytest
import torch

from fer_deploy.faces import Dataset
from fer_deploy.faces.synthetic import synthetic_dataset
from fer_deploy.recipes import Recipe, parse_recipe

SMALL = """
name = "small"
title = "two stages, every kind of randomness"
network = { name = "plain", options = { widths = [4, 8], depths = [1, 2], stem_stride = 2, dropout = 0.2 } }
augmentation = { flip = 0.5, crop = 2, rotation = 10.0, cutout = 0.5 }

[[stage]]
epochs = 4
batch_size = 32
clip = 1.0
ema = 0.9
optimiser = { lr = 4e-3, weight_decay = 0.05 }
schedule = { name = "one-cycle", cycle_momentum = true }
loss = { smoothing = 0.1 }
mixing = { mixup_alpha = 0.4, cutmix_alpha = 1.0, probability = 0.5 }

[[stage]]
epochs = 3
batch_size = 16
optimiser = { lr = 1e-3 }
schedule = { name = "plateau", patience = 0 }
loss = { name = "focal" }
"""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    """Runs are the same bits for the same number of threads; the runs that fixtures share are made before any test."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_recipe() -> Recipe:
    return parse_recipe(SMALL, source="small.toml")


@pytest.fixture(scope="session")
def few_faces() -> Dataset:
    return synthetic_dataset(280)
