"""Folding for deployment: batch norms, skips and training branches become part of the convolutions that they follow.

In evaluation mode a batch norm is a scale and a shift for each channel, so a convolution takes it in; an identity skip
is a 3x3 convolution whose kernel is one at the centre, and a 1x1 convolution one whose kernel is zero around it. What
is left of a `plain` network is convolution and ReLU, layer after layer.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fer_deploy.errors import ExportError
from fer_deploy.models.plain import PlainLayer


def fold(network: nn.Module) -> nn.Module:
    """A copy of `network` in evaluation mode, without batch norms that follow a convolution, skips that can be merged,
    or training branches. The network given is left as it is.

    It is the same function as the network in evaluation mode, up to the rounding of float32 (1e-5 in a logit where
    activations are of ordinary size); the folding itself is done in float64. A batch norm that follows something else,
    or a convolution that is used elsewhere too, stays.
    ExportError when the network cannot be traced by `torch.fx`.
    """
    folded = copy.deepcopy(network).eval()
    for name, module in list(folded.named_modules()):
        if isinstance(module, PlainLayer):
            folded.set_submodule(name, module.folded())
    for convolution, norm in _pairs(folded):
        _fold_pair(folded, convolution, norm)
    return folded.eval()


class _LayerTracer(fx.Tracer):
    """Takes convolutions and batch norms, timm's with their activation among them, as single steps."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def _pairs(network: nn.Module) -> list[tuple[str, str]]:
    """The names of each convolution whose result goes to one batch norm and nowhere else, and of that batch norm."""
    try:
        graph = _LayerTracer().trace(network)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"{type(network).__name__} cannot be folded: torch.fx cannot trace it ({reason[0]})"
        ) from error
    calls = [node for node in graph.nodes if node.op == "call_module"]
    uses = {target: sum(node.target == target for node in calls) for target in {node.target for node in calls}}
    pairs = []
    for node in calls:
        before = node.args[0] if node.args else None
        if (
            isinstance(before, fx.Node)
            and before.op == "call_module"
            and isinstance(network.get_submodule(str(node.target)), nn.BatchNorm2d)
            and isinstance(network.get_submodule(str(before.target)), nn.Conv2d)
            and len(before.users) == 1
            and uses[node.target] == uses[before.target] == 1
        ):
            pairs.append((str(before.target), str(node.target)))
    return pairs


def _fold_pair(network: nn.Module, convolution_name: str, norm_name: str) -> None:
    convolution: Any = network.get_submodule(convolution_name)
    norm: Any = network.get_submodule(norm_name)
    precision = convolution.weight.dtype
    fused = fuse_conv_bn_eval(convolution.double(), norm.double()).to(precision)
    network.set_submodule(convolution_name, fused)
    # timm's batch norm brings its activation with it
    rest = [step for step in (getattr(norm, "drop", None), getattr(norm, "act", None)) if isinstance(step, nn.Module)]
    rest = [step for step in rest if not isinstance(step, nn.Identity)]
    network.set_submodule(norm_name, rest[0] if len(rest) == 1 else nn.Sequential(*rest) if rest else nn.Identity())
