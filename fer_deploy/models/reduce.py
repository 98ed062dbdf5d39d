"""A larger EfficientNet-Lite's weights in a smaller one: fewer stages, thinner blocks, another head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

HEAD = ("conv_head.", "bn2.", "classifier.")
"""What comes after the stages: it is left out where the smaller network's has another shape."""

_NORM = ("weight", "bias", "running_mean", "running_var")
_EXPANDED = ("conv_pw.weight", "conv_dw.weight", *(f"{norm}.{part}" for norm in ("bn1", "bn2") for part in _NORM))
"""The tensors of a block that have one row for each expanded channel."""

_POINTS = 257
"""How many quantiles stand for a normal distribution."""


def reduced_lite(source: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a Lite's weights that start a smaller one.

    Args:
        source: the larger network's state dict.
        own: the smaller network's; only names and shapes are looked at.

    Returns:
        The stages that both have, and of each block with fewer expanded channels the ones that matter; the head only
        where nothing before it was cut off and it has the same width. What fits in no such way is passed on as it is.
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
        # the first stage's block calls its projection so, and has nothing to thin
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
    """How much each expanded channel of an inverted residual block moves the block's answer, float64 (channels,).

    A channel's own batch norm says how it is spread before ReLU6, as if normally (mean: its bias, deviation: its
    weight); the deviation after ReLU6 times the length of the column that carries it on, in units of the outputs'
    batch norm, is what would be missed without it, a constant aside.
    """
    double = {key: state[block + key].double() for key in ("bn2.weight", "bn2.bias", "conv_pwl.weight")}
    levels = (torch.arange(_POINTS, dtype=torch.float64) + 0.5) / _POINTS
    spread = torch.special.ndtri(levels)
    answers = (double["bn2.bias"][:, None] + double["bn2.weight"].abs()[:, None] * spread).clamp(0, 6)
    gain = state[f"{block}bn3.weight"].double() / state[f"{block}bn3.running_var"].double().clamp_min(1e-12).sqrt()
    column = double["conv_pwl.weight"][:, :, 0, 0] * gain[:, None]
    found: Tensor = answers.std(1, correction=0) * column.norm(dim=0)
    return found
