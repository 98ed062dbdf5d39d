"""Quantisation-aware fine-tuning: a classifier's weights moved a little, so that rounding them to int8 changes less.

The networks run on faces of the Training split. Their weights and the outputs of their rectifiers are rounded as in the
int8 file; gradients pass the rounding unchanged (Jacob et al. 2018, arXiv:1712.05877). The targets are the float
classifier's probabilities, not the labels, so that the file still represents the run.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fer_deploy.export import Progress
from fer_deploy.export.build import folded
from fer_deploy.export.graph import HALF_RANGE, FaceClassifier
from fer_deploy.export.int8.quantise import unsaturable_scales
from fer_deploy.export.int8.ranges import FLOAT_PRODUCTS
from fer_deploy.faces.dataset import Faces

BATCH = 128
LEARNING_RATE = 2e-4
"""Adam's at the start; it falls to 0 along half a cosine."""
RANGE_MOMENTUM = 0.05
"""Weight of each new batch in the running maximum of an activation."""


def tune_for_int8(
    classifier: FaceClassifier, faces: Faces, *, epochs: int, seed: int = 0, progress: Progress | None = None
) -> FaceClassifier:
    """A folded copy of `classifier` whose weights lose less when rounded; `classifier` itself is not changed.

    Args:
        classifier: as trained.
        faces: of the Training split, of one size.
        epochs: passes over the faces, 1 or more.
        seed: decides the order of the faces and which batches are mirrored. The same seed, machine and number of
            threads give the same weights.
        progress: called after each batch.
    """
    generator = torch.Generator().manual_seed(seed)
    teacher, student = folded(classifier), folded(classifier)
    for network in student.networks:
        _round_while_training(network)
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    images = faces.images
    steps = epochs * math.ceil(len(images) / BATCH)
    done = 0
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(images), generator=generator), BATCH):
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * done / steps)) / 2
            planes = torch.from_numpy(images[rows.numpy()])[:, None].float() / HALF_RANGE - 1
            if torch.rand((), generator=generator) < 0.5:
                planes = planes.flip(3)
            with torch.no_grad():
                targets = teacher.plane_probabilities(_sized(teacher, planes))
            answers = student.plane_probabilities(_sized(student, planes))
            loss = torch.stack([_divergence(*pair) for pair in zip(answers, targets, strict=True)]).sum()
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


def _divergence(answers: Tensor, targets: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of probabilities (n, classes) from their targets."""
    return (targets * (targets.clamp(min=1e-8).log() - answers.clamp(min=1e-8).log())).sum(dim=1).mean()


class _RoundedWeight(nn.Module):
    """A weight as the int8 file stores it, each output with its own scale."""

    def forward(self, weight: Tensor) -> Tensor:
        """The weight rounded; its gradient is the rounded one's."""
        scales = torch.from_numpy(unsaturable_scales(weight.detach().flatten(1).numpy()))
        zeros = torch.zeros(len(scales), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -127, 127)


class _RoundedOutput:
    """A forward hook that rounds a rectifier's output to 256 steps from 0 to a running maximum."""

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
