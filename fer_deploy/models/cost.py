"""What a network costs: fvcore's multiply-adds, parameters, activations, and PyTorch's own flop count.

fvcore counts one multiply-add as one. It counts convolutions, linear layers and, in evaluation mode, two for each
element of a batch norm and one for each element that an adaptive pooling reads. timm writes the pooling of
squeeze-and-excitation as `aten::mean`, which fvcore leaves out. It is counted here like any pooling, one for each
element read, so that the same layers cost the same in every library. This reproduces the study's figures to the last
digit. Attention and convolutions with a padding in words, which fvcore also leaves out, are counted here as well.
Activation functions and sums are not counted: `Cost.uncounted` names them. A network in which PyTorch counts more
convolutions and matrix products than fvcore is refused.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fer_deploy.errors import RecipeError, one_line
from fer_deploy.models.fold import deployed
from fer_deploy.models.plain import PlainNetwork


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one forward pass for one face. The cost of an ensemble is the sum of its members'."""

    gflops: float
    """fvcore's multiply-adds at batch 1, in units of 1e9; `efficiency` is computed from it."""

    parameters: int
    """Trainable numbers, without batch norm's running statistics."""

    activations: int
    """Numbers that convolutions and linear layers write, by fvcore: a better measure of memory traffic than flops."""

    uncounted: tuple[str, ...]
    """Operators that do work but are not in `gflops`, such as `aten::silu_`, sorted."""

    torch_gflops: float
    """`torch.utils.flop_counter`'s figure in units of 1e9: exactly twice the multiply-adds of convolutions and linear
    layers, and nothing else."""

    def __add__(self, other: Cost) -> Cost:
        """The cost of running both."""
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(
            gflops=self.gflops + other.gflops,
            parameters=self.parameters + other.parameters,
            activations=self.activations + other.activations,
            uncounted=tuple(sorted({*self.uncounted, *other.uncounted})),
            torch_gflops=self.torch_gflops + other.torch_gflops,
        )


def measure_cost(network: nn.Module, *, size: int = 48) -> Cost:
    """Measure what `network` costs for one face of `size` x `size` pixels, shape (1, 1, size, size).

    The network is traced in evaluation mode, on its own device and in its own precision. Its weights, its statistics
    and the modes of its modules do not change. The training branches of a `plain` network, and of blocks of timm that
    merge theirs, are left out of every figure: the export merges them into the convolutions.

    Raises:
        RecipeError: the network does not take faces of that size, or can't be counted.
    """
    network = network.without_branches() if isinstance(network, PlainNetwork) else deployed(network)
    first = next(network.parameters())
    face = torch.zeros(1, 1, size, size, device=first.device, dtype=first.dtype)
    with _evaluating(network), torch.no_grad(), _quiet():
        from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        try:
            with counter:
                network(face)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise RecipeError(
                f"input_size {size}: the network does not take faces of {size}x{size} pixels ({reason})"
            ) from error
        try:
            flops = FlopCountAnalysis(network, face)
            flops.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
            flops.set_op_handle(**_HANDLES)
            multiply_adds = flops.total()
            activations = ActivationCountAnalysis(network, face)
            activations.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
            activations.set_op_handle("aten::_convolution_mode", _elements_written)
            written = activations.total()
        except Exception as error:  # an operator's shapes that fvcore does not know raise whatever its handle does
            raise RecipeError(
                f"{type(network).__name__}: fvcore can't count its operators: {one_line(error)}"
            ) from error
        uncounted = tuple(sorted(flops.unsupported_ops()))
    _check_complete(flops.by_operator(), counter.get_total_flops(), uncounted, type(network).__name__)
    return Cost(
        gflops=multiply_adds / 1e9,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        activations=int(written),
        uncounted=uncounted,
        torch_gflops=counter.get_total_flops() / 1e9,
    )


def total_cost(costs: Iterable[Cost]) -> Cost:
    """The cost of running all of them, as an ensemble does. Pass a member that also sees the mirrored face twice.

    Raises:
        ValueError: `costs` is empty.
    """
    iterator = iter(costs)
    total = next(iterator, None)
    if total is None:
        raise ValueError("no costs to add: give at least one")
    for cost in iterator:
        total = total + cost
    return total


_PRODUCTS = ("conv", "linear", "addmm", "matmul", "einsum", "attention")
"""fvcore's names of what `torch.utils.flop_counter` counts as well."""


def _check_complete(counted: Mapping[str, float], torch_flops: float, uncounted: tuple[str, ...], name: str) -> None:
    """RecipeError if fvcore left out convolutions or matrix products that PyTorch counts."""
    products = sum(counted.get(kind, 0) for kind in _PRODUCTS)
    if torch_flops / 2 > products * 1.001:
        raise RecipeError(
            f"{name}: fvcore counts {products / 1e9:.6f} of {torch_flops / 2e9:.6f} GFLOPs of convolutions and matrix "
            f"products, so its cost is not known; not counted: {', '.join(uncounted)}"
        )


def _elements_read(inputs: list[Any], _outputs: list[Any]) -> int:
    return math.prod(inputs[0].type().sizes())


def _elements_written(_inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    return Counter({"conv": math.prod(outputs[0].type().sizes())})


def _attention(inputs: list[Any], _outputs: list[Any]) -> Counter[str]:
    """Multiply-adds of scaled dot-product attention: queries by keys, and the result by values."""
    query, key, value = (tensor.type().sizes() for tensor in inputs[:3])
    return Counter({"attention": math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])})


def _convolution(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Multiply-adds of a convolution: one for each output and each weight of its channel."""
    weight, output = inputs[1].type().sizes(), outputs[0].type().sizes()
    return Counter({"conv": math.prod(output) * math.prod(weight[1:])})


def _added_product(inputs: list[Any], _outputs: list[Any]) -> Counter[str]:
    """Multiply-adds of a batch of matrix products that are added to a tensor."""
    left, right = (tensor.type().sizes() for tensor in inputs[1:3])
    return Counter({"matmul": math.prod(left) * right[-1]})


_HANDLES: dict[str, Callable[[list[Any], list[Any]], Any]] = {
    "aten::mean": _elements_read,
    "aten::scaled_dot_product_attention": _attention,
    "aten::_convolution_mode": _convolution,
    "aten::baddbmm": _added_product,
}
"""Operators that fvcore leaves out, with our count of each."""


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep fvcore and the tracer from printing: their warnings are in `Cost.uncounted`."""
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
