"""A small data set in files, for the readers."""

from __future__ import annotations

from pathlib import Path

import pytest
from face_files import splits_of, write_table

from fer_deploy.faces.dataset import Dataset, Faces
from fer_deploy.faces.synthetic import synthetic_dataset


@pytest.fixture(scope="session")
def small() -> Dataset:
    """63 faces to learn from and 14 in each other split."""
    whole = synthetic_dataset(84)
    return Dataset.of(
        "small", whole.training.take(slice(63)), validation=whole.validation, test=whole.test, official=False
    )


@pytest.fixture(scope="session")
def small_splits(small: Dataset) -> dict[str, Faces]:
    """The splits of `small`, with rows as in `small_table`."""
    return splits_of(small)


@pytest.fixture(scope="session")
def small_table(small_splits: dict[str, Faces], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small` as a comma-separated table. Not to be changed: copy it."""
    path = tmp_path_factory.mktemp("small") / "faces.csv"
    write_table(path, small_splits)
    return path
