"""Shared by the benchmark suites: the released files, drawn faces, and percentiles in every result.

    pytest benchmarks --benchmark-only                      all suites
    make bench-compare                                      save them, and compare with the last saved run

They do not run with the tests. Without ONNX files in `exports/`, suites that need them are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fer_deploy.faces.synthetic import synthetic_faces

WORKSPACE = Path(os.environ.get("FERDEPLOY_WORKSPACE") or Path(__file__).resolve().parents[1])
"""The workspace whose exports are measured: $FERDEPLOY_WORKSPACE, by default this repository."""

SAMPLES_FOR_P99 = 1000


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test that takes `model_path` every exported file."""
    if "model_path" in metafunc.fixturenames:
        paths = sorted((WORKSPACE / "exports").glob("*.onnx"))
        skipped = pytest.param(None, marks=pytest.mark.skip(reason=f"no ONNX file in {WORKSPACE / 'exports'}"))
        metafunc.parametrize("model_path", paths or [skipped], ids=[path.stem for path in paths] or ["none"])


@pytest.fixture(scope="session")
def faces() -> np.ndarray:
    """256 drawn faces, uint8 (256, 48, 48, 3)."""
    return np.repeat(synthetic_faces(256, seed=0).images[..., None], 3, axis=3)


@pytest.fixture
def percentiles(benchmark) -> Iterator[Callable[[int], None]]:
    """Add p50, p90 and, from 1,000 rounds on, p99 to the result's extra_info; call it with the faces per round."""
    faces_per_round = [1]

    def note(batch: int) -> None:
        faces_per_round[0] = batch

    yield note
    if benchmark.stats is None:  # --benchmark-disable
        return
    samples = np.asarray(benchmark.stats.stats.data) * 1e3
    wanted = (50, 90, 99) if len(samples) >= SAMPLES_FOR_P99 else (50, 90)
    for percent in wanted:
        benchmark.extra_info[f"p{percent}_ms"] = float(np.percentile(samples, percent, method="inverted_cdf"))
    benchmark.extra_info["samples"] = len(samples)
    benchmark.extra_info["images_per_s"] = faces_per_round[0] / (float(np.median(samples)) / 1e3)
