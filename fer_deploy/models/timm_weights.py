"""ImageNet weights of timm's networks, for grey faces: from timm's cache, its hub, or a downloaded file.

timm sums the stem's weights over the three colours, so that a grey face gives what the same face in RGB would. timm's
networks were trained on pictures of mean 0 and standard deviation 1, or on [-1, 1]. ferdeploy's faces always lie in
[-1, 1], where ImageNet's contrast would be less than half of what the first kind knows: its stem is scaled to make up
for that. Mid grey stays 0, while ImageNet's mean grey lies 0.2 standard deviations below it. timm also fits embeddings
of positions to the input size, and gives the last layer new weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from fer_deploy.errors import RecipeError, RunError, UnavailableError, one_line
from fer_deploy.models.imagenet import UnreachableError, cause_of, check_reachable
from fer_deploy.models.timm_networks import PREFIX, TimmSource


def load_timm_imagenet(network: nn.Module, source: TimmSource) -> str:
    """Load the ImageNet weights of a network of timm, in place: cached ones, else downloaded ones.

    Returns:
        A line that describes the weights.

    Raises:
        RecipeError: timm has no weights for the network.
        UnavailableError: they are not in the cache and can't be downloaded; the message states what to do. The network
            is unchanged.
    """
    from huggingface_hub import constants
    from timm.models import get_pretrained_cfg

    settings = get_pretrained_cfg(source.model)
    if settings is None or not settings.has_weights:
        raise RecipeError(
            f"timm has no ImageNet weights of network '{PREFIX}{source.model}': "
            "use --init default, or give weights with --init FILE"
        )
    name = f"{settings.architecture}.{settings.tag}"
    words = f"ImageNet weights timm {name}"
    cached = _cached(settings)
    try:
        if cached is None:
            if settings.hf_hub_id and constants.HF_HUB_OFFLINE:
                raise UnreachableError("HF_HUB_OFFLINE is set")
            check_reachable(constants.ENDPOINT if settings.hf_hub_id else str(settings.url))
        _load(network, source, {"file": str(cached)} if cached else {})
    except Exception as error:  # timm, the hub's client and torch share no class of errors
        if cached is not None:
            raise UnavailableError(
                f"{words}: {cached} can't be loaded ({cause_of(error)}): delete it, or give weights with --init FILE"
            ) from error
        raise UnavailableError(
            f"{words} cannot be had (no download: {cause_of(error)}): download {_address(settings)} elsewhere "
            "and give it with --init FILE, or train on a machine with a connection"
        ) from error
    return f"{words}, stem summed over its channels, a new last layer"


def load_timm_file(network: nn.Module, source: TimmSource, path: Path, state: Mapping[str, Tensor]) -> None:
    """Load weights that timm published, with a stem for RGB, from a .safetensors file.

    Raises:
        RunError: the file is of another network; the network is unchanged.
    """
    needed = {key for key, value in network.state_dict().items() if value.is_floating_point()} - last_names(network)
    missing = sorted(needed - state.keys())
    if missing:
        raise RunError(f"{path}: holds no '{missing[0]}', so it is not of network '{PREFIX}{source.model}'")
    try:
        _load(network, source, {"file": str(path)})
    except Exception as error:
        reason = one_line(error)
        raise RunError(f"{path}: does not fit network '{PREFIX}{source.model}' with these options: {reason}") from error


def is_published(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether weights for a network of timm have a stem for RGB, as timm publishes them."""
    own = network.state_dict()
    stems = [key for key in _stems(network) if key in state and key in own]
    return any(own[key].shape[1] == 1 != state[key].shape[1] for key in stems)


def last_names(network: nn.Module) -> frozenset[str]:
    """The names of the tensors of the last layers of a network of timm."""
    classifiers = _names(network.pretrained_cfg.get("classifier"))  # type: ignore[union-attr,operator]
    return frozenset(key for key in network.state_dict() if key.startswith(tuple(f"{name}." for name in classifiers)))


def _load(network: nn.Module, source: TimmSource, overlay: Mapping[str, str]) -> None:
    """timm's own loading, into a second network, whose state `network` then gets."""
    import timm

    loaded: Any = timm.create_model(
        source.model, pretrained=True, pretrained_cfg_overlay=dict(overlay), **source.arguments
    )
    settings = loaded.pretrained_cfg
    if settings.get("num_classes") == source.arguments["num_classes"]:  # timm kept ImageNet's last layer
        loaded.reset_classifier(source.arguments["num_classes"])
    contrast = 0.5 / (sum(settings["std"]) / len(settings["std"]))
    state = loaded.state_dict()
    for key in _stems(network):
        state[key] = state[key] * contrast
    with torch.no_grad():
        network.load_state_dict(state)


def _stems(network: nn.Module) -> Iterator[str]:
    """The names of the weights that read the face."""
    for name in _names(network.pretrained_cfg.get("first_conv")):  # type: ignore[union-attr,operator]
        yield f"{name}.weight"


def _names(entry: Any) -> tuple[str, ...]:
    """The names in an entry of timm's settings: one, several or none."""
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


def _cached(settings: Any) -> Path | None:
    """Where the hub's or torch's cache has a network's weights; None if it has not."""
    from huggingface_hub import try_to_load_from_cache

    if settings.hf_hub_id:
        names = (settings.hf_hub_filename,) if settings.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
        found = [try_to_load_from_cache(settings.hf_hub_id, name) for name in names]
        return next((Path(path) for path in found if isinstance(path, str)), None)
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(settings.url).path).name
    return path if path.exists() else None


def _address(settings: Any) -> str:
    """Where a network's weights can be downloaded."""
    if not settings.hf_hub_id:
        return str(settings.url)
    return f"https://huggingface.co/{settings.hf_hub_id}/resolve/main/{settings.hf_hub_filename or 'model.safetensors'}"
