"""A recipe and a data set that train in a second, and every part of a recipe that may break on resuming."""

from __future__ import annotations

import pytest
import torch
from small_recipe import SMALL

from fer_deploy.faces import Dataset
from fer_deploy.faces.synthetic import synthetic_dataset
from fer_deploy.recipes import Recipe, parse_recipe


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
