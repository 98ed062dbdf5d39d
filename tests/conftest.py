"""Data that tests share. Nothing here touches the user's cache, and no test needs the real FER2013 to be there."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face_files import USAGES, write_table

from fer_deploy.errors import FerDeployError
from fer_deploy.faces.dataset import SPLITS, Dataset, Faces
from fer_deploy.faces.load import load_dataset
from fer_deploy.faces.synthetic import synthetic_dataset

PACK = Path(__file__).resolve().parents[2] / "shared" / "fer2013"


def pytest_configure() -> None:
    """A shell's `make test &` lets its children ignore Ctrl-C, and theirs: programs that tests stop so must hear it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test that uses the real faces carries the `real` marker, and none has to say so twice."""
    for item in items:
        if {"fer2013", "fer2013_csv"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data sets that tests read are cached in a folder of their own."""
    before = os.environ.get("FERDEPLOY_CACHE")
    folder = tmp_path_factory.mktemp("cache")
    os.environ["FERDEPLOY_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["FERDEPLOY_CACHE"]
    else:
        os.environ["FERDEPLOY_CACHE"] = before


@pytest.fixture(scope="session")
def synthetic() -> Dataset:
    """A small data set of drawn faces: 420 to learn from, 70 each to choose on and to report."""
    return synthetic_dataset(420)


@pytest.fixture(scope="session")
def fer2013() -> Dataset:
    """The real FER2013 with its FER+ votes, from $FERDEPLOY_DATA or the pack beside the repository."""
    named = os.environ.get("FERDEPLOY_DATA")
    if named:
        try:
            dataset = load_dataset(named)
        except FerDeployError as error:
            pytest.skip(f"the data that $FERDEPLOY_DATA names cannot be used: {error}")
        if not dataset.official:
            pytest.skip(f"$FERDEPLOY_DATA names {dataset.name}, which is not the official FER2013")
        return dataset
    images, labels, usage, votes = _unpacked()
    parts = {}
    for split, name in USAGES.items():
        rows = np.flatnonzero(usage == name)
        parts[split] = Faces(images[rows], labels[rows].astype(np.int64), rows, votes[rows].astype(np.uint8))
    return Dataset.of("FER2013", parts["training"], validation=parts["validation"], test=parts["test"], official=True)


@pytest.fixture(scope="session")
def fer2013_csv(fer2013: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real fer2013.csv (301 MB), written once a session."""
    path = tmp_path_factory.mktemp("real") / "fer2013.csv"
    write_table(path, {split: fer2013.split(split) for split in SPLITS})
    return path


def _unpacked() -> tuple[np.ndarray[Any, Any], ...]:
    if not (PACK / "unpack.py").is_file():
        pytest.skip("the real FER2013 is not here: set FERDEPLOY_DATA to it, or put its pack beside the repository")
    spec = importlib.util.spec_from_file_location("fer2013_pack", PACK / "unpack.py")
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    return pack.load()[:4]


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray on this machine, shared by all tests, since it takes seconds to start."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    import ray

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()
