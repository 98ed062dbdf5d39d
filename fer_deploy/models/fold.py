"""Folding for deployment: batch norms, skips and training branches become part of the convolutions.

In evaluation mode a batch norm is a scale and a shift for each channel, which a convolution can absorb. An identity
skip is a 3x3 convolution whose kernel is one at the centre; a 1x1 convolution is a 3x3 one whose kernel is zero around
the centre. A folded `plain` network consists of convolutions and ReLUs only. Networks of timm with such branches, which
are RepVGG, MobileOne and FastViT among others, merge them by timm's own methods.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fer_deploy.errors import ExportError, one_line
from fer_deploy.models.plain import PlainLayer
from fer_deploy.models.timm_networks import timm_source

MERGES = ("fuse", "reparameterize", "switch_to_deploy")
"""Methods of timm's blocks that merge their branches or norms for deployment."""


def deployed(network: nn.Module) -> nn.Module:
    """A network of timm with the training branches of its blocks merged, a copy; any other network itself."""
    if timm_source(network) is None or not any(hasattr(part, name) for part in network.modules() for name in MERGES):
        return network
    from timm.utils.model import reparameterize_model

    with torch.no_grad():
        merged: nn.Module = reparameterize_model(copy.deepcopy(network).eval())
    return merged


def fold(network: nn.Module) -> nn.Module:
    """A folded copy of `network` in evaluation mode; `network` itself does not change.

    The copy computes the same function, up to the rounding of float32 (1e-5 in a logit for activations of ordinary
    size); the folding itself is done in float64. A batch norm stays if it does not follow a convolution, or if the
    convolution's output is also used elsewhere.

    Raises:
        ExportError: neither `torch.fx` nor, for a network of timm, `torch.export` can trace the network.
    """
    folded = deployed(network)
    folded = (copy.deepcopy(network) if folded is network else folded).eval()
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
        links = list(_traced_links(network))
    except Exception as error:
        try:
            links = list(_exported_links(network))
        except Exception:
            raise ExportError(
                f"{type(network).__name__} cannot be folded: torch.fx cannot trace it ({one_line(error)})"
            ) from error
    uses = Counter(name for name, _ in links)
    return [
        (before, norm)
        for before, norm in links
        if before and norm and uses[before] == uses[norm] == 1 and _can_fold(network, before, norm)
    ]


def _can_fold(network: nn.Module, before: str, norm: str) -> bool:
    """Whether the two are a batch norm and a convolution whose weights are used unchanged."""
    convolution = network.get_submodule(before)
    plain = type(convolution) is nn.Conv2d or type(convolution).__name__ == "Conv2dSame"  # timm's, which only pads
    return plain and isinstance(network.get_submodule(norm), nn.BatchNorm2d)


def _traced_links(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Each call of a module and the only module that reads its output, by name, from `torch.fx`; else empty."""
    graph = _LayerTracer().trace(network)
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        reader = next(iter(node.users)) if len(node.users) == 1 else None
        while reader is not None and reader.op == "call_module" and _is_identity(network, reader) and reader.users:
            reader = next(iter(reader.users)) if len(reader.users) == 1 else None
        is_norm = reader is not None and reader.op == "call_module"
        yield str(node.target), str(reader.target) if reader is not None and is_norm else ""


def _is_identity(network: nn.Module, node: fx.Node) -> bool:
    return type(network.get_submodule(str(node.target))) is nn.Identity


def _exported_links(network: nn.Module) -> Iterator[tuple[str, str]]:
    """The same for convolutions and batch norms, from `torch.export`, which also traces what `torch.fx` can't."""
    source = timm_source(network)
    if source is None:
        raise ExportError("only a network of timm records the size of its faces")
    face = torch.zeros(2, 1, source.input_size, source.input_size, dtype=next(network.parameters()).dtype)
    program = torch.export.export(network, (face,), strict=False)
    names = {key: name.removesuffix(".weight") for key, name in program.graph_signature.inputs_to_parameters.items()}

    def module_of(node: fx.Node) -> str:
        weight = node.args[1] if len(node.args) > 1 else None
        return names.get(weight.name, "") if isinstance(weight, fx.Node) else ""

    for node in program.graph.nodes:
        if not str(node.target).startswith(("aten.conv2d", "aten.batch_norm")):
            continue
        reader = next(iter(node.users)) if len(node.users) == 1 else None
        is_norm = reader is not None and str(reader.target).startswith("aten.batch_norm")
        yield module_of(node), module_of(reader) if reader is not None and is_norm else ""


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
