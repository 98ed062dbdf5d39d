"""Weights of our own: a .safetensors file of a run, or one that `ferdeploy borrow` made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fer_deploy.errors import RunError, one_line
from fer_deploy.files import open_regular, sha256_of
from fer_deploy.models.reduce import HEAD, reduced_lite
from fer_deploy.models.timm_networks import timm_source
from fer_deploy.models.timm_weights import is_published, last_names, load_timm_file
from fer_deploy.models.transfer import last_layer

BORROWED = ("borrowed", "people")
"""Folders of weights that are made from others' packages and are in no repository."""


def load_weights_file(network: nn.Module, path: Path, *, name: str) -> str:
    """Load a .safetensors file into `network`, which the registry built as `name`.

    Every name and shape must agree, except for a last layer with another number of classes, which is kept as it was
    built. A Lite also starts from a larger one: from its first stages and, where blocks are thinner, from the channels
    that matter (`reduce`). A head of another width is then kept as it was built. A network of timm also starts from the
    weights that timm publishes (`timm_weights`).

    Returns:
        A line that describes the weights.

    Raises:
        RunError: the file is missing, damaged, or of another network; the network is unchanged.
    """
    source = _read(path)
    wanted = network.state_dict()
    # A run's weights file always has the same name: its folder and its hash, which is also in its record, identify it.
    origin = f"weights of {Path(path.parent.name, path.name).as_posix()}, SHA-256 {sha256_of(path)[:12]}…"
    built = timm_source(network)
    if built is not None and is_published(network, source):
        load_timm_file(network, built, path, source)
        return f"{origin}, stem summed over its channels, a new last layer"
    last = last_names(network) if built is not None else last_layer(network)[0]
    words, new_head = "", False
    if name.startswith("efficientnet-lite"):
        whole = source
        source = reduced_lite(whole, wanted)
        if set(source) != set(whole) or any(source[key].shape != whole[key].shape for key in source):
            words = ", reduced to this network"
        new_head = any(key.startswith(HEAD) for key in whole) and not any(key.startswith(HEAD) for key in source)
        if new_head:
            last |= {key for key in wanted if key.startswith(HEAD)}
            words += " with a new head"
    for key in wanted:
        if key not in source and not (new_head and key in last):
            raise RunError(f"{path}: holds no '{key}', so it is not of network '{name}' with these options")
    chosen = _checked(source, wanted, last=last, path=path, name=name)
    words = origin + words
    if not last <= set(chosen):
        chosen = {key: value for key, value in chosen.items() if key not in last}
        words += "" if new_head else ", a new last layer"
    network.load_state_dict(chosen, strict=False)
    return words


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.exists():
        borrowed = ": `ferdeploy borrow --help` says how to get one" if path.parent.name in BORROWED else ""
        raise RunError(f"{path}: there is no such weights file{borrowed}")
    open_regular(path, what="weights file", error=RunError).close()  # a named pipe would block for ever
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: not a readable safetensors file ({one_line(error)})") from error


def _checked(
    source: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, last: frozenset[str], path: Path, name: str
) -> dict[str, Tensor]:
    """The tensors of `source` that have the network's shapes. RunError for any other outside the last layer."""
    chosen = {}
    for key, value in source.items():
        if key not in wanted:
            raise RunError(f"{path}: holds '{key}', which network '{name}' with these options does not have")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise RunError(f"{path}: '{key}' holds values that are not finite, so the file is damaged")
        if value.shape == wanted[key].shape:
            chosen[key] = value.to(wanted[key].dtype)
        elif key not in last or value.shape[1:] != wanted[key].shape[1:]:
            raise RunError(
                f"{path}: '{key}' has shape {tuple(value.shape)} where network '{name}' with these options has "
                f"{tuple(wanted[key].shape)}"
            )
    return chosen
