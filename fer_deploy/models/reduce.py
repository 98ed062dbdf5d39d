"""A larger EfficientNet-Lite's weights in a smaller one: fewer stages, thinner blocks, another head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

HEAD = ("conv_head.", "bn2.", "classifier.")
"""The tensors after the stages. They are left out if the smaller network's have another shape."""

_NORM = ("weight", "bias", "running_mean", "running_var")
_EXPANDED = ("conv_pw.weight", "conv_dw.weight", *(f"{norm}.{part}" for norm in ("bn1", "bn2") for part in _NORM))
"""The tensors of a block with one row per expanded channel."""

_POINTS = 257
"""Quantiles that approximate a normal distribution."""


def reduced_lite(source: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a Lite that a smaller one can start from.

    Args:
        source: the larger network's state dict.
        own: the smaller network's; only names and shapes are used.

    Returns:
        The stages that both have. A block with fewer expanded channels keeps the most important ones. The head is
        included only if no stage was cut off and it has the same width. Other tensors are unchanged.
    """
    cut = any(key.startswith("blocks.") and key not in own for key in source)
    head = own.get("conv_head.weight"), source.get("conv_head.weight")
    new_head = cut or (head[0] is not None and head[1] is not None and head[0].shape[0] != head[1].shape[0])
    kept = {
        key: value
        for key, value in source.items()
        if not (cut and key.startswith("blocks.") and key not in own) and not (new_head and key.startswith(HEAD))
    }
    for key, value in own.items():
        block = key.removesuffix("conv_pw.weight")
        # The first stage's block uses this name for its projection, and has no expanded channels.
        if block == key or not _has_more(kept, block, value.shape[0]):
            continue
        chosen = importance(kept, block).topk(value.shape[0]).indices.sort().values
        for part in _EXPANDED:
            kept[block + part] = kept[block + part][chosen]
        kept[f"{block}conv_pwl.weight"] = kept[f"{block}conv_pwl.weight"][:, chosen]
    return kept


def _has_more(state: Mapping[str, Tensor], block: str, width: int) -> bool:
    """Whether a block is whole and has more than `width` expanded channels."""
    parts = [state.get(block + part) for part in (*_EXPANDED, "conv_pwl.weight", "bn3.weight", "bn3.running_var")]
    if any(part is None for part in parts):
        return False
    wide = state[f"{block}conv_pw.weight"].shape[0]
    project = state[f"{block}conv_pwl.weight"]
    rows = all(state[block + part].shape[:1] == (wide,) for part in _EXPANDED)
    return rows and wide > width and project.ndim == 4 and project.shape[1] == wide


def importance(state: Mapping[str, Tensor], block: str) -> Tensor:
    """How much each expanded channel of an inverted residual block changes the block's output, float64 (channels,).

    A channel is assumed to be normally distributed before ReLU6, with its batch norm's bias as mean and weight as
    standard deviation. Its importance is its standard deviation after ReLU6 times the norm of its column in the
    projection, in units of the projection's batch norm: the variation that the output loses without the channel.
    """
    double = {key: state[block + key].double() for key in ("bn2.weight", "bn2.bias", "conv_pwl.weight")}
    levels = (torch.arange(_POINTS, dtype=torch.float64) + 0.5) / _POINTS
    spread = torch.special.ndtri(levels)
    answers = (double["bn2.bias"][:, None] + double["bn2.weight"].abs()[:, None] * spread).clamp(0, 6)
    gain = state[f"{block}bn3.weight"].double() / state[f"{block}bn3.running_var"].double().clamp_min(1e-12).sqrt()
    column = double["conv_pwl.weight"][:, :, 0, 0] * gain[:, None]
    importances: Tensor = answers.std(1, correction=0) * column.norm(dim=0)
    return importances
