"""From a network to an ONNX model, without the parity check: tracing, and the passes over the graph."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.benchmark(warmup=False, min_rounds=2)


@pytest.mark.parametrize("name", ["plain", "efficientnet-lite0", "efficientnet-b0"])
def test_build(name: str, benchmark, percentiles) -> None:
    import torch

    from fer_deploy.export.build import build_model
    from fer_deploy.export.graph import FaceClassifier, Member
    from fer_deploy.models import build_network

    torch.manual_seed(0)
    classifier = FaceClassifier([Member(name, build_network(name).eval())])
    percentiles(1)
    assert benchmark(build_model, classifier).graph.node
