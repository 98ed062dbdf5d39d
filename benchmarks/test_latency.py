"""Each released file in plain ONNX Runtime on one thread: one face, and 32 at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

pytestmark = pytest.mark.benchmark(warmup=True, warmup_iterations=10, min_rounds=50)


def open_session(path: Path, *, threads: int = 1) -> onnxruntime.InferenceSession:
    """The file on `threads` threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("batch", [1, 32])
def test_file(model_path: Path, batch: int, faces: np.ndarray, benchmark, percentiles) -> None:
    session = open_session(model_path)
    shape = session.get_inputs()[0].shape
    if isinstance(shape[0], int) and shape[0] != batch:
        pytest.skip(f"this file takes batches of {shape[0]} only")
    if any(isinstance(side, int) and side != 48 for side in shape[1:3]):
        pytest.skip("this file takes faces of another size")
    percentiles(batch)
    (probabilities,) = benchmark(session.run, ["probabilities"], {"faces": np.ascontiguousarray(faces[:batch])})
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-3)
