"""Networks of timm by name: what names, options and sizes are accepted, and how they are folded and counted."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fer_deploy.errors import RecipeError, RunError, UnavailableError
from fer_deploy.models import build_network, fold, initialise, measure_cost, network_options
from fer_deploy.models.fold import deployed
from fer_deploy.models.timm_networks import list_timm

Draw = Callable[..., Tensor]
Settle = Callable[[nn.Module], None]

SMALL = [
    ("timm/test_resnet", 33),
    ("timm/test_vit", 32),
    ("timm/test_efficientnet", 48),
    ("timm/test_byobnet", 64),
    ("timm/test_convnext", 40),
    ("timm/lcnet_035", 48),
    ("timm/mobilenetv4_conv_small_035", 48),
]
"""Seven families in small forms, each with an input size."""


@pytest.mark.parametrize(("name", "size"), SMALL)
def test_a_network_takes_grey_faces_of_its_size_and_trains(name: str, size: int, draw_faces: Draw) -> None:
    network = build_network(name, classes=3, input_size=size)
    assert network.training
    logits = network(draw_faces(4, size=size))
    assert logits.shape == (4, 3)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_the_same_seed_draws_the_same_weights_whatever_was_built_before() -> None:
    states = []
    for _ in range(2):  # the first looks the network up on the meta device, the second remembers it
        torch.manual_seed(3)
        states.append(build_network("timm/test_resnet", classes=9, input_size=44).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_options_reach_the_network() -> None:
    network: Any = build_network("timm/test_resnet", drop_rate=0.25, drop_path_rate=0, global_pool="max")
    assert network.drop_rate == 0.25
    assert network.global_pool.pool_type == "max"
    assert build_network("timm/test_vit", input_size=64, patch_size=8).patch_embed.num_patches == 64  # type: ignore[union-attr]
    assert network_options("timm/test_vit", {"drop_path_rate": 0, "img_size": [64, 64]}) == {
        "drop_path_rate": 0.0,
        "img_size": (64, 64),
    }


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("timm/resnet81", {}, "timm has no network 'resnet81': did you mean 'timm/resnet18'?"),
        ("timm/Zebra", {}, "timm has no network 'Zebra': `ferdeploy variants 'timm/*'` lists its "),
        ("timm/resnet18.a9_in1k", {}, "timm has no weights 'a9_in1k' of network 'resnet18': did you mean 'a"),
        ("timm/resnet18.", {}, "give the name of one of timm's networks, such as timm/resnet18"),
        ("timm/", {}, "addresses and paths are not accepted"),
        ("timm/hf-hub:someone/theirs", {}, "addresses and paths are not accepted"),
        ("timm/hf_hub:timm/resnet18.a1_in1k", {}, "addresses and paths are not accepted"),
        ("timm/local-dir:/etc", {}, "addresses and paths are not accepted"),
        ("timm/../resnet18", {}, "addresses and paths are not accepted"),
        ("timm/https://example.org/x", {}, "addresses and paths are not accepted"),
        ("timm/resnet18\n", {}, "addresses and paths are not accepted"),
        ("timm/test_resnet", {"drop_rat": 0.1}, "has no option 'drop_rat': did you mean 'drop_rate'?"),
        ("timm/vgg11", {"drop_path_rate": 0.1}, "has no option 'drop_path_rate': did you mean 'drop_rate'?"),
        ("timm/test_resnet", {"img_size": 48}, "has no option 'img_size'"),
        ("timm/test_resnet", {"in_chans": 3}, "has no option 'in_chans'"),
        ("timm/test_resnet", {"num_classes": 3}, "has no option 'num_classes'"),
        ("timm/test_resnet", {"pretrained_cfg": "x"}, "has no option 'pretrained_cfg'"),
        ("timm/test_resnet", {"checkpoint_path": "/etc/passwd"}, "has no option 'checkpoint_path'"),
        ("timm/test_resnet", {"cache_dir": "/etc"}, "has no option 'cache_dir'"),
        ("timm/test_resnet", {"features_only": True}, "has no option 'features_only'"),
        ("timm/test_resnet", {"drop_rate": "much"}, "option 'drop_rate' must be a number, got 'much'"),
        ("timm/test_resnet", {"drop_rate": 1}, "drop_rate must be in [0, 1), got 1"),
        ("timm/test_resnet", {"drop_path_rate": float("nan")}, "drop_path_rate must be in [0, 1)"),
        ("timm/test_resnet", {"zero_init_last": 1}, "option 'zero_init_last' must be true or false, got 1"),
        ("timm/test_resnet", {"output_stride": True}, "option 'output_stride' must be a whole number, got True"),
        ("timm/test_resnet", {"stem_width": 10**9}, "option 'stem_width' must be at most 65,536"),
        ("timm/test_resnet", {"global_pool": ""}, "can't be built with global_pool = '' for input_size 48: "),
        ("timm/test_vit", {"img_size": 224}, "img_size is always the input_size, 48: leave it out"),
        ("timm/test_vit", {"num_heads": 5}, "can't be built with num_heads = 5 for input_size 48: "),
    ],
)
def test_wrong_names_and_options_are_refused_in_one_line(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build_network(name, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("timm/test_vit", 50, "it takes 48 and 64 pixels, multiples of 16 ("),
        ("timm/dla34", 48, "it takes 32 and 64 pixels, multiples of 32"),
    ],
)
def test_a_size_that_does_not_fit_names_the_sizes_that_do(name: str, size: int, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build_network(name, input_size=size)
    assert str(caught.value).startswith(f"network '{name}' does not take input_size {size}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(("name", "size"), [*SMALL[:4], ("timm/repvgg_a0", 32), ("timm/shvit_s1", 64)])
def test_folding_keeps_the_function(name: str, size: int, draw_faces: Draw, settle_statistics: Settle) -> None:
    network = build_network(name, classes=3, input_size=size)
    if size == 48:
        settle_statistics(network)
    else:
        network(draw_faces(8, size=size))  # in training mode: statistics of its own
    network.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold(network)
    assert not any(isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d) for part in folded.modules())
    with torch.no_grad():
        faces = draw_faces(3, size=size)
        torch.testing.assert_close(folded(faces), network(faces), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_batch_norm_that_follows_a_standardised_convolution_stays() -> None:
    from timm.layers import StdConv2d

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = StdConv2d(1, 4, 3)  # type: ignore[no-untyped-call]
            self.norm = nn.BatchNorm2d(4)

        def forward(self, faces: Tensor) -> Tensor:
            return self.norm(self.convolution(faces)).mean((2, 3))  # type: ignore[no-any-return]

    network = Network().eval()
    nn.init.uniform_(network.norm.weight, 0.5, 2)
    faces = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(fold(network)(faces), network(faces))


def test_merged_branches_are_not_counted_and_other_networks_are_left_alone() -> None:
    network = build_network("timm/repvgg_a0", input_size=32)
    cost = measure_cost(network, size=32)
    assert cost == measure_cost(deployed(network), size=32)
    assert cost.parameters < sum(weight.numel() for weight in network.parameters())
    assert cost.uncounted == ()
    plain = build_network("plain")
    assert deployed(plain) is plain


def test_attention_is_counted() -> None:
    cost = measure_cost(build_network("timm/test_vit", input_size=64), size=64)
    assert not {"aten::scaled_dot_product_attention", "aten::matmul"} & set(cost.uncounted)
    assert "aten::gelu" in cost.uncounted
    assert 0.5 * cost.torch_gflops <= cost.gflops < 0.56 * cost.torch_gflops  # norms are counted by fvcore alone


class _Uncounted(nn.Module):
    """A product of three matrices, which fvcore does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(48))

    def forward(self, faces: Tensor) -> Tensor:
        return torch.linalg.multi_dot([faces.flatten(0, 2), self.weight, self.weight])


def test_a_cost_with_products_left_out_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"_Uncounted: fvcore counts 0\.0+ of 0\.\d+ GFLOPs .*aten::linalg_multi_dot"):
        measure_cost(_Uncounted())


def test_padding_in_words_is_counted() -> None:
    padded = [nn.Sequential(nn.Conv2d(1, 4, 3, padding=how, bias=False)) for how in ("same", 1)]
    assert measure_cost(padded[0]) == measure_cost(padded[1])


def test_listing_matches_patterns() -> None:
    assert "timm/repvgg_a0" in list_timm("timm/repvgg*")
    assert list_timm("timm/no_such_*") == []


class _Hub:
    """The hub's cache in a folder, and the addresses that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []

    def publish(self, model: str) -> tuple[Any, Path]:
        """Put a network for RGB with ImageNet's classes into the cache, under its first tag."""
        import timm
        from safetensors.torch import save_file
        from timm.models import get_pretrained_cfg

        original = timm.create_model(model)
        settings: Any = get_pretrained_cfg(model)
        folder = self.folder / f"models--timm--{model}.{settings.tag}"
        snapshot = folder / "snapshots" / ("0" * 40)
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        snapshot.mkdir(parents=True)
        save_file(original.state_dict(), snapshot / "model.safetensors")
        return original.eval(), snapshot / "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Hub:
    from huggingface_hub import constants

    cache = _Hub(tmp_path / "hub")

    def refuse(request: Any, **_: Any) -> None:
        cache.asked.append(request.full_url)
        raise urllib.error.URLError("no connection")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache.folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return cache


def test_published_weights_see_a_grey_face_as_the_same_face_in_rgb(hub: _Hub, draw_faces: Draw) -> None:
    import timm

    original, path = hub.publish("test_vit")  # trained on [-1, 1]
    network: Any = build_network("timm/test_vit", classes=4, input_size=64)
    words = initialise(network, "imagenet", name="timm/test_vit")
    assert words == "ImageNet weights timm test_vit.r160_in1k, stem summed over its channels, a new last layer"
    assert hub.asked == []
    whole = timm.create_model(
        "test_vit", img_size=64, pretrained=True, pretrained_cfg_overlay={"file": str(path)}
    ).eval()
    assert not torch.equal(whole.pos_embed, original.pos_embed)  # fitted to 64 pixels
    faces = draw_faces(2, size=64)
    with torch.no_grad():
        torch.testing.assert_close(
            network.eval().forward_features(faces), whole.forward_features(faces.repeat(1, 3, 1, 1))
        )
    assert network.head.out_features == 4


@pytest.mark.parametrize("model", ["test_resnet", "test_byobnet"])
def test_the_stem_is_scaled_to_the_contrast_that_it_was_trained_on(hub: _Hub, model: str) -> None:
    original, path = hub.publish(model)
    settings = original.pretrained_cfg
    network = build_network(f"timm/{model}", input_size=64)
    initialise(network, path, name=f"timm/{model}")
    stem = f"{settings['first_conv']}.weight"
    contrast = 0.5 / (sum(settings["std"]) / 3)
    own, others = network.state_dict(), original.state_dict()
    torch.testing.assert_close(own[stem], others[stem].sum(1, keepdim=True) * contrast)
    last = f"{settings['classifier']}."
    assert all(torch.equal(own[key], others[key]) for key in own if key != stem and not key.startswith(last))


def test_weights_out_of_reach_say_what_to_do_and_change_nothing(hub: _Hub) -> None:
    network = build_network("timm/test_resnet")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(UnavailableError) as caught:
        initialise(network, "imagenet", name="timm/test_resnet")
    assert str(caught.value) == (
        "ImageNet weights timm test_resnet.r160_in1k cannot be had (no download: no connection): download "
        "https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors elsewhere and give it with "
        "--init FILE, or train on a machine with a connection"
    )
    assert len(hub.asked) == 1
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_nothing_is_asked_for_without_imagenet(hub: _Hub) -> None:
    network = build_network("timm/test_resnet.r160_in1k")
    initialise(network, "default", name="timm/test_resnet.r160_in1k")
    initialise(network, "xavier", name="timm/test_resnet.r160_in1k")
    assert hub.asked == []


def test_hf_hub_offline_is_respected(hub: _Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UnavailableError, match="HF_HUB_OFFLINE is set"):
        initialise(build_network("timm/test_resnet"), "imagenet", name="timm/test_resnet")
    assert hub.asked == []


def test_a_network_without_published_weights_is_an_error(hub: _Hub) -> None:
    with pytest.raises(RecipeError, match=r"^timm has no ImageNet weights of network 'timm/lcnet_035': use --init "):
        initialise(build_network("timm/lcnet_035"), "imagenet", name="timm/lcnet_035")
    assert hub.asked == []


def test_a_damaged_file_in_the_cache_is_named(hub: _Hub) -> None:
    _, path = hub.publish("test_resnet")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UnavailableError) as caught:
        initialise(build_network("timm/test_resnet"), "imagenet", name="timm/test_resnet")
    assert f"{path} can't be loaded (" in str(caught.value)
    assert str(caught.value).endswith("delete it, or give weights with --init FILE")


def test_a_file_of_another_network_is_refused(hub: _Hub) -> None:
    _, path = hub.publish("test_resnet")
    for name in ("timm/test_vit", "timm/test_byobnet", "timm/resnet18"):
        with pytest.raises(RunError, match=f"so it is not of network '{name}'"):
            initialise(build_network(name, input_size=64), path, name=name)


def test_a_run_s_weights_start_a_network_with_other_classes(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for name, last in (("timm/test_resnet", "fc."), ("timm/test_vit", "head.")):
        source = build_network(name, classes=8, input_size=64)
        save_file(source.state_dict(), tmp_path / "weights.safetensors")
        network = build_network(name, classes=3, input_size=64)
        assert initialise(network, tmp_path / "weights.safetensors", name=name).endswith("…, a new last layer")
        own, others = network.state_dict(), source.state_dict()
        assert all(torch.equal(own[key], others[key]) for key in own if not key.startswith(last))


def test_timm_is_imported_only_when_a_network_needs_it() -> None:
    code = (
        "import sys; from fer_deploy.models import build_network; build_network('plain'); print('timm' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
