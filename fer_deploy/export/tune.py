"""Quantisation-aware fine-tuning: a classifier's weights moved a little, so that rounding them to int8 changes less.

The networks run on faces of the Training split with their weights, and the outputs of their rectifiers, rounded as the
int8 file rounds them; gradients pass the rounding as if it were not there (Jacob et al. 2018, arXiv:1712.05877). What
is learned are the float classifier's own probabilities, not the labels, so that the file stays the run's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fer_deploy.export.build import folded
from fer_deploy.export.graph import HALF_RANGE, FaceClassifier
from fer_deploy.export.precision import FLOAT_PRODUCTS, unsaturable_scales
from fer_deploy.faces.dataset import Faces

BATCH = 128
LEARNING_RATE = 2e-4
"""Of Adam at the start; it falls to nothing along half a cosine."""
RANGE_MOMENTUM = 0.05
"""How fast the range of an activation follows what is seen."""

Progress = Callable[[str, int, int], None]


def tune_for_int8(
    classifier: FaceClassifier, faces: Faces, *, epochs: int, seed: int = 0, progress: Progress | None = None
) -> FaceClassifier:
    """A folded copy of `classifier` whose weights bear rounding better; the one given is left as it is.

    Args:
        classifier: as trained.
        faces: of the Training split.
        epochs: how often each face is seen, 1 or more.
        seed: of the order of the faces and of which are mirrored. The same seed, machine and threads give the same
            weights.
        progress: told how many batches are done.
    """
    generator = torch.Generator().manual_seed(seed)
    teacher, student = folded(classifier), folded(classifier)
    for network in student.networks:
        _round_while_training(network)
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    images = torch.from_numpy(faces.images)
    steps = epochs * math.ceil(len(images) / BATCH)
    done = 0
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(images), generator=generator), BATCH):
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * done / steps)) / 2
            planes = images[rows, None].float() / HALF_RANGE - 1
            if torch.rand((), generator=generator) < 0.5:
                planes = planes.flip(3)
            with torch.no_grad():
                wanted = teacher.plane_probabilities(_sized(teacher, planes))
            found = student.plane_probabilities(_sized(student, planes))
            loss = torch.stack([_divergence(own, goal) for own, goal in zip(found, wanted, strict=True)]).sum()
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            done += 1
            if progress:
                progress("fine-tuning for int8", done, steps)
    for network in student.networks:
        _stop_rounding(network)
    return student.eval()


def _sized(classifier: FaceClassifier, planes: Tensor) -> dict[int, Tensor]:
    """The planes at each input size of the classifier's networks."""
    return {
        int(size): planes
        if int(size) == planes.shape[-1]
        else nn.functional.interpolate(planes, size=(int(size),) * 2, mode="bilinear", antialias=True)
        for size in classifier.planes
    }


def _divergence(found: Tensor, wanted: Tensor) -> Tensor:
    return (wanted * (wanted.clamp(min=1e-8).log() - found.clamp(min=1e-8).log())).sum(dim=1).mean()


class _RoundedWeight(nn.Module):
    """A weight as the int8 file stores it, each output with its own scale."""

    def forward(self, weight: Tensor) -> Tensor:
        """The weight rounded; its gradient is the rounded one's."""
        scales = torch.from_numpy(unsaturable_scales(weight.detach().flatten(1).numpy()))
        zeros = torch.zeros(len(scales), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -127, 127)


class _RoundedOutput:
    """A forward hook that rounds what a rectifier gives to 256 steps from 0 to the largest value of late."""

    def __init__(self) -> None:
        self.largest = 0.0

    def __call__(self, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        largest = float(output.detach().amax())
        self.largest = largest if not self.largest else self.largest + RANGE_MOMENTUM * (largest - self.largest)
        return torch.fake_quantize_per_tensor_affine(output, max(self.largest, 1e-6) / 255, 0, 0, 255)


def _round_while_training(network: nn.Module) -> None:
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            products = math.prod(module.weight.shape[1:])
            if isinstance(module, nn.Linear) or module.groups > 1 or products >= FLOAT_PRODUCTS:
                parametrize.register_parametrization(module, "weight", _RoundedWeight())
        elif isinstance(module, nn.ReLU | nn.ReLU6):
            module.inplace = False
            module.rounding = module.register_forward_hook(_RoundedOutput())  # type: ignore[assignment]


def _stop_rounding(network: nn.Module) -> None:
    for module in list(network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
        elif isinstance(module, nn.ReLU | nn.ReLU6):
            module.rounding.remove()  # type: ignore[union-attr, operator]
            del module.rounding
