"""One training step on 64 faces on the CPU: forward, loss, backward, AdamW."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.benchmark(warmup=True, warmup_iterations=1, min_rounds=5)

BATCH = 64


@pytest.mark.parametrize("name", ["plain", "efficientnet-lite0", "efficientnet-b0"])
def test_step(name: str, benchmark, percentiles) -> None:
    import torch
    from torch.nn import functional

    from fer_deploy.models import build_network
    from fer_deploy.recipes.schema import Optimiser
    from fer_deploy.training.kernels import accelerate_network
    from fer_deploy.training.optim import make_optimiser

    torch.manual_seed(0)
    device = torch.device("cpu")
    network = accelerate_network(build_network(name), device).train()
    optimiser = make_optimiser(network, Optimiser(lr=1e-3), device=device)
    faces = torch.randn(BATCH, 1, 48, 48).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 7, (BATCH,))

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(network(faces), labels)
        loss.backward()
        optimiser.step()
        return float(loss)

    percentiles(BATCH)
    assert benchmark(step) >= 0
