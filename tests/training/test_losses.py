"""Losses against plain formulas, and mixing that keeps pictures and labels together."""

from __future__ import annotations

import math

import pytest
import torch

from fer_deploy.recipes import Distillation, Loss, Mixing
from fer_deploy.training.losses import Mix, apply_mix, distillation_loss, draw_mix, loss_on_targets


def case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(32, 7, generator=generator) * 3, torch.randint(0, 7, (32,), generator=generator)


def by_hand(logits: torch.Tensor, labels: torch.Tensor, loss: Loss) -> float:
    total = 0.0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        target = [loss.smoothing / 7 + (1 - loss.smoothing) * (place == label) for place in range(7)]
        each = sum(w * t * (log_sum - value) for w, t, value in zip(loss.class_weights, target, row, strict=True))
        if loss.name == "focal":
            each *= (1 - math.exp(-each)) ** loss.gamma
        total += each
    return total / len(logits)


@pytest.mark.parametrize(
    "loss",
    [
        Loss(),
        Loss(smoothing=0.1),
        Loss(name="focal"),
        Loss(name="focal", gamma=2.5, smoothing=0.15, class_weights=(1.2,) * 7),
        Loss(class_weights=(1, 2, 3, 4, 5, 6, 7)),
    ],
)
def test_losses_are_their_formulas(loss: Loss) -> None:
    logits, labels = case()
    targets = torch.nn.functional.one_hot(labels, 7).float()
    assert float(loss_on_targets(logits, targets, loss)) == pytest.approx(by_hand(logits, labels, loss), rel=1e-5)


def test_mixup_loss_is_the_mix_of_the_two_losses() -> None:
    """MixUp as the study ran it: share * loss(first) + (1 - share) * loss(second)."""
    logits, labels = case()
    targets = torch.nn.functional.one_hot(labels, 7).float()
    faces = torch.randn(32, 1, 4, 4)
    mixed, mixed_targets = apply_mix(faces, targets, Mix(0.3))
    assert torch.allclose(mixed, 0.3 * faces + 0.7 * faces.flip(0))
    loss = Loss(smoothing=0.1)
    both = 0.3 * loss_on_targets(logits, targets, loss) + 0.7 * loss_on_targets(logits, targets.flip(0), loss)
    assert float(loss_on_targets(logits, mixed_targets, loss)) == pytest.approx(float(both), rel=1e-5)


def test_cutmix_labels_follow_the_pixels() -> None:
    faces = torch.stack([torch.zeros(1, 48, 48), torch.ones(1, 48, 48)])
    targets = torch.eye(7)[:2]
    mixed, mixed_targets = apply_mix(faces, targets, Mix(0.5, (0.25, 0.5, 0.75, 1.0)))
    assert float(mixed_targets[0, 1]) == pytest.approx(float(mixed[0].mean()), abs=1e-6)
    assert torch.allclose(mixed_targets.sum(1), torch.ones(2))


def test_mix_draws_follow_their_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [draw_mix(Mixing(mixup_alpha=0.4), generator=generator) for _ in range(4000)]
    shares = torch.tensor([draw.share for draw in draws if draw is not None])
    assert len(shares) == 4000
    assert abs(float(shares.mean()) - 0.5) < 0.02
    assert abs(float(shares.var()) - 1 / (4 * (2 * 0.4 + 1))) < 0.01  # Beta(a, a)
    both = [
        draw_mix(Mixing(mixup_alpha=0.4, cutmix_alpha=1.0, probability=0.8), generator=generator) for _ in range(4000)
    ]
    assert abs(sum(draw is None for draw in both) / 4000 - 0.2) < 0.03
    assert abs(sum(draw is not None and draw.box is not None for draw in both) / 4000 - 0.4) < 0.03
    assert draw_mix(Mixing(), generator=generator) is None


def test_distillation_is_the_kl_divergence_of_softened_outputs() -> None:
    student, _ = case(1)
    teacher, _ = case(2)
    distillation = Distillation(teachers=("t",), temperature=2.0)
    target = torch.softmax(teacher.double() / 2, 1)
    log_student = torch.log_softmax(student.double() / 2, 1)
    expected = 4 * (target * (target.log() - log_student)).sum(1).mean()
    got = distillation_loss(student, torch.softmax(teacher, 1), distillation)
    assert float(got) == pytest.approx(float(expected), rel=1e-3)
    assert float(distillation_loss(teacher, torch.softmax(teacher, 1), distillation)) == pytest.approx(0, abs=1e-4)
