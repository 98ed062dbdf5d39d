"""A recipe and a data set that train in a second, and every part of a recipe that may break on resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from small_recipe import SMALL

from fer_deploy.faces import Dataset
from fer_deploy.faces.synthetic import synthetic_dataset
from fer_deploy.recipes import Recipe, parse_recipe
from fer_deploy.training.fit import Settings, train


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


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, small_recipe: Recipe, few_faces: Dataset) -> Path:
    """A workspace in which the small recipe was trained without a break."""
    torch.set_num_threads(1)  # session fixtures come before the one above
    workspace = tmp_path_factory.mktemp("finished")
    assert train(small_recipe, few_faces, workspace=workspace, settings=Settings(device="cpu")).status == "complete"
    return workspace


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    """A workspace with 70 pictures in `faces/`."""
    (tmp_path / "faces").mkdir()
    for row, image in enumerate(synthetic_dataset(70).training.images):
        Image.fromarray(image).save(tmp_path / f"faces/{row:02}.png")
    return tmp_path
