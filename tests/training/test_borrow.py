"""Weights of published networks, for ours: the same answers in evaluation, and batch norms that can go on learning."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from fer_deploy.cli.borrow import command
from fer_deploy.errors import RecipeError, RunError
from fer_deploy.models import build_network
from fer_deploy.training.borrow import BORROWERS, _folded_norms, borrow, read_graph

SIZE = 65
"""An odd side: TensorFlow's padding and PyTorch's then agree."""


def _settled(name: str, seed: int) -> Any:
    """A network of random weights whose batch norms have figures of real size."""
    torch.manual_seed(seed)
    network = build_network(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    network.train()
    with torch.no_grad():
        for _ in range(30):
            network(_faces(16))
    return network.eval()


def _faces(count: int, size: int = SIZE) -> Tensor:
    return torch.nn.functional.interpolate(torch.rand(count, 1, 12, 12) * 2 - 1, size=(size, size), mode="bilinear")


def _published(name: str, network: Any) -> dict[str, NDArray[np.float32]]:
    """What the publisher of such a network would have in the package: batch norms folded, in the package's names."""
    found: dict[str, NDArray[np.float32]] = {}
    for layer in BORROWERS[name](network):
        norm = layer.norm
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * gain
        kernel = layer.convolution.weight
        if kernel.shape[1] == 1 and layer.convolution.groups == 1:
            shift = shift + gain * kernel.sum((1, 2, 3)) * layer.grey
            kernel = torch.cat([0.5 * kernel, 0.2 * kernel, 0.3 * kernel], 1) / layer.scale
        if layer.gain is None:
            kernel = kernel * gain[:, None, None, None]
        else:
            found[layer.gain] = gain.detach().numpy()
        order = (2, 3, 0, 1) if layer.convolution.groups > 1 else (2, 3, 1, 0)
        found[layer.kernel] = kernel.detach().permute(*order).numpy()
        found[layer.shift] = shift.detach().numpy()
    return found


@pytest.mark.parametrize("name", sorted(BORROWERS))
def test_a_network_answers_as_the_one_it_borrowed_from(name: str) -> None:
    given = _settled(name, 0)
    torch.manual_seed(1)
    network = build_network(name)
    seen, others = _faces(64), _faces(8)
    borrow(network, name, _published(name, given), seen)
    assert network.training
    network.eval()
    network.get_classifier().load_state_dict(given.get_classifier().state_dict())
    with torch.no_grad():
        wanted, got = given(others), network(others)
        torch.testing.assert_close(got, wanted, atol=2e-3, rtol=2e-3)
        assert float(wanted.std(0).max()) > 0.05  # not one answer to everything
        # its figures are those of the faces shown: there, training mode gives what evaluation does
        still = network(seen)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()
        torch.testing.assert_close(network(seen), still, atol=0.02, rtol=0.02)


def test_a_grey_face_is_three_equal_channels_less_their_mean() -> None:
    """The first layer alone, against a convolution of the three channels in the source's units."""
    published = _published("mobilenet-v1", _settled("mobilenet-v1", 2))
    network = build_network("mobilenet-v1")
    borrow(network, "mobilenet-v1", published, _faces(8))
    face = _faces(4)
    pixels = (face + 1) * 127.5
    mean = (103.939 + 116.779 + 123.68) / 3
    kernel = torch.from_numpy(published["conv1/convolution/merged_input"].copy()).permute(3, 2, 0, 1)
    shift = torch.from_numpy(published["conv1_bn/batchnorm_1/sub"].copy())[:, None, None]
    plain = nn.functional.conv2d((pixels - mean).expand(-1, 3, -1, -1), kernel, stride=2, padding=1) + shift
    network.eval()
    with torch.no_grad():
        got = nn.functional.batch_norm(
            network.conv_stem(face),
            network.bn1.running_mean,
            network.bn1.running_var,
            network.bn1.weight,
            network.bn1.bias,
            eps=network.bn1.eps,
        )
    inside = (..., slice(1, -1), slice(1, -1))  # along the border the two pad with other greys
    torch.testing.assert_close(got[inside], plain[inside], atol=1e-3, rtol=1e-3)
    assert float(plain.std()) > 0.1


def _written(folder: Path, weights: dict[str, NDArray[np.float32]], *, packed: str = "") -> Path:
    """A TensorFlow.js model, its weights in two files; `packed` is float16 or uint8."""
    groups, names = [], sorted(weights)
    for number, part in enumerate((names[::2], names[1::2])):
        items, data = [], b""
        for key in part:
            values = weights[key]
            item: dict[str, Any] = {"name": key, "shape": list(values.shape), "dtype": "float32"}
            if packed == "uint8":
                low, step = float(values.min()), float(np.ptp(values)) / 255 or 1.0
                item["quantization"] = {"dtype": "uint8", "scale": step, "min": low}
                data += np.round((values - low) / step).astype(np.uint8).tobytes()
            elif packed:
                item["quantization"] = {"dtype": packed, "original_dtype": "float32"}
                data += values.astype(packed).tobytes()
            else:
                data += values.astype("<f4").tobytes()
            items.append(item)
        items.append({"name": f"axis{number}", "shape": [1], "dtype": "int32"})
        data += np.array([1], "<i4").tobytes()
        (folder / f"part{number}.bin").write_bytes(data)
        groups.append({"paths": [f"part{number}.bin"], "weights": items})
    path = folder / "model.json"
    path.write_text(json.dumps(groups if packed == "uint8" else {"weightsManifest": groups}))
    return path


@pytest.mark.parametrize(("packed", "tolerance"), [("", 0), ("float16", 1e-3), ("uint8", 0.01)])
def test_graphs_are_read_as_they_are_packed(packed: str, tolerance: float, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    weights = {"a/kernel": generator.uniform(-1, 1, (3, 3, 2, 4)).astype(np.float32), "b": np.float32([0.25, -1, 0.5])}
    found = read_graph(_written(tmp_path, weights, packed=packed))
    assert set(found) == set(weights)
    for key, values in weights.items():
        assert found[key].shape == values.shape
        np.testing.assert_allclose(found[key], values, atol=tolerance)


def _cut(path: Path) -> None:
    (path.parent / "part1.bin").write_bytes(b"short")


def _lost(path: Path) -> None:
    (path.parent / "part1.bin").unlink()


def _no_json(path: Path) -> None:
    path.write_text("not JSON")


def _no_manifest(path: Path) -> None:
    path.write_text("{}")


@pytest.mark.parametrize("damage", [_cut, _lost, _no_json, _no_manifest])
def test_a_damaged_graph_is_named(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = _written(tmp_path, {"a": np.ones(4, np.float32), "b": np.ones(40, np.float32)})
    damage(path)
    with pytest.raises(
        RunError, match=r"not a readable TensorFlow\.js model|damaged TensorFlow|part1\.bin: no such file"
    ):
        read_graph(path)


def test_what_does_not_fit_is_named() -> None:
    published = _published("mobilenet-v1", _settled("mobilenet-v1", 4))
    network = build_network("mobilenet-v1")
    lacking = {key: value for key, value in published.items() if key != "conv_dw_3_bn/batchnorm_1/mul"}
    with pytest.raises(RunError, match="has no tensor 'conv_dw_3_bn/batchnorm_1/mul'"):
        borrow(network, "mobilenet-v1", lacking, _faces(2))
    other = published | {"conv_pw_2/convolution/merged_input": np.zeros((1, 1, 64, 64), np.float32)}
    with pytest.raises(RunError, match=r"'conv_pw_2/convolution/merged_input' has shape .* where 'mobilenet-v1' has"):
        borrow(network, "mobilenet-v1", other, _faces(2))
    with pytest.raises(
        RecipeError, match="'plain': no published weights to borrow: choose from inception-v3, mobilenet-v1"
    ):
        borrow(build_network("plain"), "plain", published, _faces(2))


def test_the_command_writes_a_start_for_training(tmp_path: Path) -> None:
    given = _settled("mobilenet-v1", 5)
    model = _written(tmp_path, _published("mobilenet-v1", given))
    output = tmp_path / "people/mobilenet-v1.safetensors"
    words = ["mobilenet-v1", str(model), "--data", "synthetic", "--input-size", "64", "--output", str(output)]
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 0, result.output
    state = load_file(output)
    network = build_network("mobilenet-v1")
    network.load_state_dict(state)
    last = network.state_dict()["blocks.4.1.bn2.running_var"]
    assert bool((last > 0).all())
    result = CliRunner().invoke(command, [words[0], str(tmp_path / "none.json"), *words[2:]])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "none.json" in result.output


def test_batch_norms_that_keras_kept_are_read_as_gain_and_shift() -> None:
    """Against torch's own batch norm in evaluation, with Keras's epsilon, with a gamma and without."""
    generator = np.random.default_rng(0)
    for gamma in (None, generator.normal(size=5).astype(np.float32)):
        beta, mean = generator.normal(size=(2, 5)).astype(np.float32)
        variance = generator.uniform(0, 2, size=5).astype(np.float32)
        kept = {"bn/beta": beta, "bn/moving_mean": mean, "bn/moving_variance": variance, "conv/kernel": beta}
        if gamma is not None:
            kept["bn/gamma"] = gamma
        folded = _folded_norms(kept)
        assert set(folded) == {"bn/gain", "bn/shift"}
        maps = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
        weight = None if gamma is None else torch.from_numpy(gamma)
        wanted = nn.functional.batch_norm(
            maps, torch.from_numpy(mean), torch.from_numpy(variance), weight, torch.from_numpy(beta), eps=1e-3
        )
        got = maps * torch.from_numpy(folded["bn/gain"]) + torch.from_numpy(folded["bn/shift"])
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, "[]]", "[3]", '[{"paths": 3}]', '[{"paths": [], "weights": [3]}]',
     '[{"paths": [], "weights": [{"name": "a", "dtype": "float32", "shape": [1e400]}]}]',
     '[{"paths": [], "weights": [{"name": "a", "dtype": "float32", "shape": [99999999999999999999]}]}]',
     '[{"paths": ["pipe.bin"], "weights": []}]', '[{"paths": ["none.bin"], "weights": []}]'],
)  # fmt: skip
def test_what_is_no_model_gets_one_line(tmp_path: Path, content: str) -> None:
    os.mkfifo(tmp_path / "pipe.bin")
    path = tmp_path / "model.json"
    path.write_text(content)
    with pytest.raises(RunError) as caught:
        read_graph(path)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 500
