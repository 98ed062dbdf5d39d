"""The front of the graph alone in ONNX Runtime: from uint8 faces of several sizes to a network's input planes."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.benchmark(warmup=True, warmup_iterations=5, min_rounds=30)


@pytest.fixture(scope="module")
def front_session():
    """A file whose network is one pooling layer, so that luma, resize and scaling dominate."""
    import onnxruntime
    import torch
    from torch import nn

    from fer_deploy.export.build import build_model
    from fer_deploy.export.graph import FaceClassifier, Member

    torch.manual_seed(0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 7))
    model = build_model(FaceClassifier([Member("front", network)]))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("side", [48, 96, 224, 512])
def test_front(side: int, front_session, benchmark, percentiles) -> None:
    picture = np.random.default_rng(side).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    percentiles(1)
    (probabilities,) = benchmark(front_session.run, ["probabilities"], {"faces": picture})
    assert probabilities.shape == (1, 7)
