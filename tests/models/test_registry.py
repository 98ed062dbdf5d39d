"""The registry: who is in it, what building takes, and what every network in it must do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fer_deploy.errors import RecipeError
from fer_deploy.models import NETWORKS, NetworkEntry, build_network, registry

Draw = Callable[..., Tensor]
Built = Callable[[str], nn.Module]


def test_every_family_of_the_study_is_there() -> None:
    assert set(NETWORKS) >= {
        "baseline",
        "resemotenet",
        "vgg19",
        "efficientnet-b0",
        "efficientnet-b1",
        "mobilenetv3-large",
        "efficientnetv2-s",
        "efficientnet-lite0",
        "plain",
    }


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_entries_are_complete(name: str) -> None:
    entry = NETWORKS[name]
    assert entry.name == name
    assert entry.description
    assert "\n" not in entry.description
    assert entry.source
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.options_type().anything = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("size", [48, 64])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_logits_have_one_row_a_face(name: str, size: int, built: Built, draw_faces: Draw) -> None:
    if name == "baseline" and size != 48:  # its linear layers fix the side
        with pytest.raises(RuntimeError), torch.no_grad():
            built(name)(draw_faces(1, size=size))
        return
    with torch.no_grad():
        logits = built(name)(draw_faces(3, size=size))
    assert logits.shape == (3, 7)
    assert logits.dtype == torch.float32
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_faces_do_not_see_each_other_in_evaluation(name: str, built: Built, draw_faces: Draw) -> None:
    faces = draw_faces(3)
    with torch.no_grad():
        together, alone = built(name)(faces)[1:2], built(name)(faces[1:2])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_gradient_reaches_every_weight_and_weights_survive_a_round_trip(name: str, draw_faces: Draw) -> None:
    network = build_network(name, classes=5)
    assert network.training
    logits = network(draw_faces(4))
    assert logits.shape == (4, 5)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert bool(torch.isfinite(parameter.grad).all()), key
    assert float(next(network.parameters()).grad.abs().max()) > 0  # type: ignore[union-attr]

    with torch.device("meta"):  # no weights of its own: whatever it knows afterwards, it has been told
        other = build_network(name, classes=5).eval()
    other = other.to_empty(device="cpu")
    other.load_state_dict(network.state_dict(), strict=True)
    network.eval()
    with torch.no_grad():
        assert torch.equal(network(draw_faces(1)), other(draw_faces(1)))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("efficientnet-b9", {}, "there is no network 'efficientnet-b9': did you mean 'efficientnet-b"),
        ("zebra", {}, "there is no network 'zebra'; there is baseline, "),
        ("plain", {"width": (1,)}, "network 'plain' has no option 'width': did you mean 'widths'?"),
        ("vgg19", {"depth": 3}, "network 'vgg19' has no option 'depth'; it has no options"),
        ("plain", {"widths": 8}, "option 'widths' must be a list of whole numbers, got 8"),
        ("plain", {"widths": (8, "16")}, "option 'widths' must be a list of whole numbers"),
        ("plain", {"widths": (8, 16), "depths": (1,)}, "as long as each other"),
        ("plain", {"widths": (8, 0), "depths": (1, 1)}, "at least 1"),
        ("plain", {"widths": (10**30,), "depths": (1,)}, "option 'widths' must be at most 65,536"),
        ("plain", {"widths": (8, 8), "depths": (500, 501)}, "depths must add up to at most 1,000 layers, got 1,001"),
        ("plain", {"dropout": 10**400}, "option 'dropout' must be at most 65,536"),
        ("efficientnet-lite0", {"head": 10**30}, "option 'head' must be at most 65,536"),
        ("plain", {"stem_stride": 3}, "stem_stride must be 1 or 2, got 3"),
        ("plain", {"branches": 1}, "option 'branches' must be true or false, got 1"),
        ("plain", {"head": -1}, "head must be 0 (none) or a width"),
        ("plain", {"dropout": 1.0}, "dropout must be in [0, 1)"),
        ("plain", {"dropout": float("nan")}, "dropout must be in [0, 1)"),
        ("efficientnet-b0", {"dropout": "much"}, "option 'dropout' must be a number, got 'much'"),
        ("efficientnet-b0", {"drop_path": -0.1}, "drop_path must be in [0, 1)"),
        ("efficientnet-lite0", {"stages": 8}, "stages must be 1 to 7, got 8"),
        ("efficientnet-lite0", {"stages": True}, "option 'stages' must be a whole number, got True"),
        ("efficientnet-lite0", {"head": 0}, "head must be at least 1, got 0"),
        ("efficientnet-lite0", {"stages": 2, "expanded": [48]}, "expanded must be 2 widths, one for each block, got 1"),
        ("efficientnet-lite0", {"expanded": [48] * 14}, "expanded must be 15 widths"),
        ("efficientnet-lite0", {"stages": 2, "expanded": [48, 0]}, "expanded must be at least 1 everywhere"),
        ("efficientnet-lite0", {"expanded": [1.5]}, "option 'expanded' must be a list of whole numbers, got [1.5]"),
        ("plain", {"classes": 0}, "classes must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_names_and_options_are_reported(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build_network(name, **arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_are_accepted_as_toml_writes_them() -> None:
    network = build_network("plain", widths=[8, 16], depths=[1, 2], dropout=0)
    assert [layer.conv.out_channels for layer in network.layers] == [8, 16, 16]  # type: ignore[union-attr]
    assert network.dropout.p == 0.0


def test_dropout_and_stochastic_depth_are_the_study_s() -> None:
    from timm.layers import DropPath

    network = build_network("efficientnet-b0")
    assert network.drop_rate == 0.2
    rates = [module.drop_prob for module in network.modules() if isinstance(module, DropPath)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.2 * 15 / 16)  # of block 15 of 0 to 15, as torchvision spreads it
    assert not any(isinstance(module, DropPath) for module in build_network("mobilenetv3-large").modules())


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5, 6])
def test_a_cut_lite0_is_the_full_ones_first_stages(stages: int, built: Built, draw_faces: Draw) -> None:
    whole = built("efficientnet-lite0")
    cut = build_network("efficientnet-lite0", stages=stages, head=64).eval()
    shared = {key: value for key, value in whole.state_dict().items() if key.split(".")[0] in ("conv_stem", "bn1")}
    shared |= {
        key: value
        for key, value in whole.state_dict().items()
        if key.startswith("blocks.") and int(key.split(".")[1]) < stages
    }
    left = cut.load_state_dict(shared, strict=False)
    assert not left.unexpected_keys
    assert {key.split(".")[0] for key in left.missing_keys} == {"conv_head", "bn2", "classifier"}
    faces = draw_faces(2)
    with torch.no_grad():
        maps = whole.blocks[:stages](whole.bn1(whole.conv_stem(faces)))  # type: ignore[operator,index]
        expected = cut.classifier(cut.bn2(cut.conv_head(maps)).mean((2, 3)))  # type: ignore[operator]
        torch.testing.assert_close(cut(faces), expected)


def test_a_thinned_lite0_has_the_widths_it_is_given() -> None:
    widths = [48, 24, 96, 48, 200, 96, 64]
    network = build_network("efficientnet-lite0", stages=4, head=64, expanded=widths)
    whole = build_network("efficientnet-lite0", stages=4, head=64)
    blocks = [block for stage in network.blocks[1:] for block in stage]  # type: ignore[index,union-attr]
    for block, width in zip(blocks, widths, strict=True):
        assert [block.conv_pw.out_channels, block.conv_dw.groups, block.conv_pwl.in_channels] == [width] * 3
    own, other = network.state_dict(), whole.state_dict()
    assert list(own) == list(other)
    thinned = {key.rsplit(".", 2)[1] for key in own if own[key].shape != other[key].shape}
    assert thinned == {"conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl"}
    for key in own:
        if key.endswith("conv_dw.weight") and own[key].shape != other[key].shape:
            ratio = float(own[key].std() / other[key].std())  # drawn as timm draws; 216 weights or more, so 5 %
            assert 0.8 < ratio < 1.25, key
    new, old = (
        [(layer.stride, layer.padding, layer.kernel_size) for layer in built.modules() if isinstance(layer, nn.Conv2d)]
        for built in (network, whole)
    )
    assert new == old


class _Mean(nn.Module):
    """A network of one linear layer, to register."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(1, classes)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return self.linear(faces.mean((2, 3)))  # type: ignore[no-any-return]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bold:
    bold: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Demanding:
    must: int


def _entry(name: str, options_type: type = _Bold) -> NetworkEntry:
    return NetworkEntry(
        name=name,
        build=lambda classes, _: _Mean(classes),
        options_type=options_type,
        description="a mean",
        source="this test",
        gflops=0.0,
    )


def test_registering_a_network_enrols_it(monkeypatch: pytest.MonkeyPatch, draw_faces: Draw) -> None:
    monkeypatch.delitem(registry._entries, "mean", raising=False)
    monkeypatch.setitem(registry._entries, "mean", _entry("mean"))  # so that it is taken out again
    del registry._entries["mean"]
    registry.register_network(_entry("mean"))
    assert "mean" in NETWORKS
    assert build_network("mean", bold=True)(draw_faces(2)).shape == (2, 7)
    with pytest.raises(RecipeError, match="did you mean 'bold'"):
        build_network("mean", bald=True)
    with pytest.raises(ValueError, match="registered already"):
        registry.register_network(_entry("mean"))
    with pytest.raises(ValueError, match="every option needs a default"):
        registry.register_network(_entry("median", _Demanding))
    assert "median" not in NETWORKS
    with pytest.raises(TypeError):
        NETWORKS["other"] = _entry("other")  # type: ignore[index]
