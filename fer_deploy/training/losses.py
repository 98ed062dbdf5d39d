"""What a stage minimises: smoothed cross-entropy or focal loss on soft targets, MixUp and CutMix, distillation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fer_deploy.emotions import EMOTIONS
from fer_deploy.recipes import Distillation, Loss, Mixing


def loss_on_targets(logits: torch.Tensor, targets: torch.Tensor, loss: Loss) -> torch.Tensor:
    """The mean loss of a batch.

    The cross-entropy l of a face is `-sum_c w_c t'_c log p_c`, with t' the smoothed targets and w the class weights.
    Focal loss is `(1 - exp(-l)) ** gamma * l` (Lin et al., 2017, in the form that the study ran).

    Args:
        logits: float (n, classes).
        targets: float (n, classes), rows that sum to one.
        loss: the stage's loss, its class weights as numbers: one for each class.

    Returns:
        float scalar.
    """
    weights = torch.tensor(loss.class_weights, device=logits.device, dtype=logits.dtype)
    losses = F.cross_entropy(logits, targets, weight=weights, reduction="none", label_smoothing=loss.smoothing)
    if loss.name == "focal":
        losses = (1 - torch.exp(-losses)) ** loss.gamma * losses
    return losses.mean()


def balanced_weights(counts: Sequence[int]) -> tuple[float, ...]:
    """The weight of each class under `class_weights = "balanced"`: n / (classes * count), as in scikit-learn.

    Args:
        counts: training faces of each class, n in all. A class without any has weight 1.
    """
    total = sum(counts)
    return tuple(total / (len(counts) * count) if count else 1.0 for count in counts)


def weights_for(weights: Sequence[float], labels: Sequence[str]) -> tuple[float, ...]:
    """A recipe's list of class weights for these labels.

    Seven equal numbers, as the package's recipes have them, weigh any number of classes alike.

    Raises:
        ValueError: there are not as many weights as labels.
    """
    if len(weights) == len(labels):
        return tuple(weights)
    if len(weights) == len(EMOTIONS) and len(set(weights)) == 1:
        return (weights[0],) * len(labels)
    raise ValueError(f'needs {len(labels)} numbers, one for each class, got {len(weights)}: or write "balanced"')


def distillation_loss(logits: torch.Tensor, teacher: torch.Tensor, distillation: Distillation) -> torch.Tensor:
    """T² times the mean Kullback-Leibler divergence from the teachers' softened probabilities to the student's.

    Args:
        logits: float (n, classes), the student's.
        teacher: float (n, classes), the teachers' probabilities at temperature 1. They are softened here: raised to
            the power 1/T and normalised, which for a single teacher is exactly its softmax at T.
        distillation: the recipe's distillation.

    Returns:
        float scalar.
    """
    temperature = distillation.temperature
    target = torch.softmax(teacher.clamp_min(1e-8).log() / temperature, 1)
    student = torch.log_softmax(logits / temperature, 1)
    return temperature**2 * F.kl_div(student, target, reduction="batchmean")


@dataclass(frozen=True)
class Mix:
    """One draw for a batch: the share of the first face, and CutMix's box or None.

    The box is (left, top, right, bottom) as shares of the side.
    """

    share: float
    box: tuple[float, float, float, float] | None = None


def draw_mix(mixing: Mixing, *, generator: torch.Generator) -> Mix | None:
    """Draw how a batch is mixed, or None to leave it unmixed (Zhang et al., 2018; Yun et al., 2019)."""
    pick, use_cutmix, left, top = (float(value) for value in torch.rand(4, generator=generator))
    if not mixing.active or pick >= mixing.probability:
        return None
    cut = mixing.cutmix_alpha > 0 and (mixing.mixup_alpha == 0 or use_cutmix < mixing.cutmix_probability)
    alpha = mixing.cutmix_alpha if cut else mixing.mixup_alpha
    concentration = torch.full((2,), alpha, dtype=torch.float64)
    share = float(torch._sample_dirichlet(concentration, generator=generator)[0])
    if not cut:
        return Mix(share)
    side = math.sqrt(1 - share)

    def edge(place: float) -> float:
        return min(max(place, 0.0), 1.0)

    return Mix(share, (edge(left - side / 2), edge(top - side / 2), edge(left + side / 2), edge(top + side / 2)))


def apply_mix(faces: torch.Tensor, targets: torch.Tensor, mix: Mix) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix each face with its partner, which has the same distance from the batch's other end, and their targets.

    The batch is in random order, so this pairing is random.

    Args:
        faces: float (n, 1, s, s).
        targets: float (n, classes).
        mix: the draw.

    Returns:
        The mixed faces and targets, of the same shapes.
    """
    other, other_targets = faces.flip(0), targets.flip(0)
    if mix.box is None:
        share = mix.share
        return faces * share + other * (1 - share), targets * share + other_targets * (1 - share)
    size = faces.shape[-1]
    left, top, right, bottom = (round(edge * size) for edge in mix.box)
    mixed = faces.clone()
    mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    share = 1 - (right - left) * (bottom - top) / size**2
    return mixed, targets * share + other_targets * (1 - share)
