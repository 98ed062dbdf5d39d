"""The released files take any batch, height and width from 1 on, and each face's answer depends on that face alone."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fer_deploy.model.names import DYNAMIC, ModelName
from fer_deploy.model.session import Model, open_model

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "exports").glob("*.onnx"))
NODE = ROOT / "examples" / "node"
PIXELS = 1 << 20
"""Pixels of all faces together in one case."""

Case = tuple[int, int, int, int]
"""Batch, height, width and seed of the pixels."""


def side(largest: int) -> st.SearchStrategy[int]:
    """Sides around the network's own 48 pixels, and any others."""
    return st.one_of(st.integers(1, 100), st.integers(1, largest))


CASES: st.SearchStrategy[Case] = st.tuples(
    st.integers(1, 70), side(3000), side(3000), st.integers(0, 9)
).filter(lambda case: case[0] * case[1] * case[2] <= PIXELS)  # fmt: skip


def faces_of(case: Case) -> np.ndarray:
    """Distinct faces, uint8 (batch, height, width, 3): a level and a slope of each, and noise."""
    batch, height, width, seed = case
    generator = np.random.default_rng(seed)
    level, slope = generator.uniform(0, 255, (batch, 1, 1, 3)), generator.uniform(-100, 100, (batch, 1, 1, 1))
    noise = generator.normal(0, 20, (batch, height, width, 1))
    return (level + slope * np.linspace(-1, 1, height)[:, None, None] + noise).clip(0, 255).astype(np.uint8)


@functools.cache
def opened(path: Path) -> Model:
    return open_model(path, threads=1)


@pytest.mark.skipif(not FILES, reason="exports/ has no files")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_axis_is_free(path: Path) -> None:
    model = opened(path)
    assert model.contract.shape == ModelName.parse(path).shape == DYNAMIC

    @settings(max_examples=12, deadline=None, derandomize=True, database=None)
    @given(CASES)
    @example((1, 1, 1, 0))
    @example((65, 1, 1, 0))
    @example((2, 1, 3000, 0))
    @example((2, 3000, 1, 0))
    @example((1, 1000, 1000, 0))
    def check(case: Case) -> None:
        faces = faces_of(case)
        answers = model(faces)  # which checks shape, range and sum
        for number in {0, len(faces) // 2, len(faces) - 1}:
            np.testing.assert_allclose(answers[number], model(faces[number : number + 1])[0], atol=1e-4)

    check()


PROGRAM = """
import { readFileSync } from "node:fs";
process.env.ORT_DISABLE_TELEMETRY ??= "1";
const { InferenceSession, Tensor } = await import("onnxruntime-node");
const session = await InferenceSession.create(process.argv[1]);
for (const [file, shape] of JSON.parse(readFileSync(0, "utf8"))) {
  const { probabilities } = await session.run({ faces: new Tensor("uint8", readFileSync(file), shape) });
  console.log(JSON.stringify([probabilities.dims, Array.from(probabilities.data)]));
}
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
@pytest.mark.parametrize("path", [path for path in FILES if ModelName.parse(path).precision == "fp32"][-2:], ids=str)
def test_every_axis_is_free_in_node(path: Path, tmp_path: Path) -> None:
    if not (NODE / "node_modules").is_dir():
        pytest.skip("examples/node has no node_modules")

    @settings(max_examples=1, deadline=None, derandomize=True, database=None)
    @given(st.lists(CASES, min_size=12, max_size=12))
    @example([(1, 1, 1, 0), (65, 1, 1, 0), (2, 1, 3000, 0), (2, 3000, 1, 0), (3, 47, 53, 1)])
    def check(cases: list[Case]) -> None:
        batches = [faces_of(case) for case in cases]
        described = []
        for number, faces in enumerate(batches):
            file = tmp_path / f"{number}.bin"
            file.write_bytes(faces.tobytes())
            described.append([str(file), list(faces.shape)])
        done = subprocess.run(
            ["node", "--input-type=module", "-e", PROGRAM, path],
            cwd=NODE, input=json.dumps(described), capture_output=True, text=True, check=True, timeout=100,
        )  # fmt: skip
        for line, faces in zip(done.stdout.splitlines(), batches, strict=True):
            dimensions, values = json.loads(line)
            assert dimensions == [len(faces), 7]
            np.testing.assert_allclose(np.reshape(values, (-1, 7)), opened(path)(faces), atol=1e-4)

    check()
