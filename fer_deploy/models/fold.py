"""Folding for deployment: batch norms, skips and training branches become part of the convolutions.

In evaluation mode a batch norm is a scale and a shift for each channel, which a convolution can absorb. An identity
skip is a 3x3 convolution whose kernel is one at the centre; a 1x1 convolution is a 3x3 one whose kernel is zero around
the centre. A folded `plain` network consists of convolutions and ReLUs only.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fer_deploy.errors import ExportError, one_line
from fer_deploy.models.plain import PlainLayer


def fold(network: nn.Module) -> nn.Module:
    """A folded copy of `network` in evaluation mode; `network` itself does not change.

    The copy computes the same function, up to the rounding of float32 (1e-5 in a logit for activations of ordinary
    size); the folding itself is done in float64. A batch norm stays if it does not follow a convolution, or if the
    convolution's output is also used elsewhere.

    Raises:
        ExportError: `torch.fx` can't trace the network.
    """
    folded = copy.deepcopy(network).eval()
    for name, module in list(folded.named_modules()):
        if isinstance(module, PlainLayer):
            folded.set_submodule(name, module.folded())
    for convolution, norm in _pairs(folded):
        _fold_pair(folded, convolution, norm)
    return folded.eval()


class _LayerTracer(fx.Tracer):
    """Traces convolutions and batch norms, including timm's with their activation, as single steps."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def _pairs(network: nn.Module) -> list[tuple[str, str]]:
    """The names of each convolution whose output goes only to one batch norm, and of that batch norm."""
    try:
        graph = _LayerTracer().trace(network)
    except Exception as error:
        raise ExportError(
            f"{type(network).__name__} cannot be folded: torch.fx cannot trace it ({one_line(error)})"
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
    # timm's batch norm contains its dropout and activation, which stay
    rest = [step for step in (getattr(norm, "drop", None), getattr(norm, "act", None)) if isinstance(step, nn.Module)]
    rest = [step for step in rest if not isinstance(step, nn.Identity)]
    network.set_submodule(norm_name, rest[0] if len(rest) == 1 else nn.Sequential(*rest) if rest else nn.Identity())
