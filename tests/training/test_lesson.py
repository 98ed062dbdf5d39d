"""Lessons: what an epoch shows of the faces, mixed or not, and the targets that belong to it."""

from __future__ import annotations

import pytest
import torch

from fer_deploy.recipes import Augmentation
from fer_deploy.training.augment import draw_views, render
from fer_deploy.training.lesson import Lesson, draw_lesson, join_lessons

TURNING = Augmentation(flip=0.5, rotation=10, shift=0.1, cutout=0.5)


def lesson(count: int, *, alpha: float, seed: int = 3) -> Lesson:
    return draw_lesson(TURNING, count, generator=torch.Generator().manual_seed(seed), mixup_alpha=alpha)


def test_without_mixing_a_lesson_is_its_views() -> None:
    drawn = lesson(9, alpha=0)
    assert torch.equal(drawn.views, draw_views(TURNING, 9, generator=torch.Generator().manual_seed(3)))
    images = torch.randint(256, (9, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    chosen = torch.tensor([4, 0, 7])
    assert torch.equal(
        drawn.show(images, chosen, TURNING, size=64), render(images[chosen], drawn.views[chosen], TURNING, size=64)
    )
    targets = torch.eye(9)[:, :7]
    assert torch.equal(drawn.mix_targets(targets, chosen), targets[chosen])


def test_a_mixed_lesson_shows_both_faces_by_their_shares() -> None:
    drawn = lesson(20, alpha=1.0)
    assert drawn.partners is not None
    assert drawn.shares is not None
    assert torch.equal(drawn.views, lesson(20, alpha=0).views)  # mixing changes no view
    images = torch.randint(256, (20, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = torch.softmax(torch.randn(20, 7, generator=torch.Generator().manual_seed(1)), 1)
    chosen = torch.tensor([11, 2, 5])
    shown = drawn.show(images, chosen, TURNING, size=48)
    mixed = drawn.mix_targets(targets, chosen)
    for row, face in enumerate(chosen.tolist()):
        other, share = int(drawn.partners[face]), float(drawn.shares[face])
        one = render(images[face : face + 1], drawn.views[face : face + 1], TURNING, size=48)
        two = render(images[other : other + 1], drawn.views[other : other + 1], TURNING, size=48)
        assert torch.allclose(shown[row], (share * one + (1 - share) * two)[0], atol=1e-5)
        assert torch.allclose(mixed[row], share * targets[face] + (1 - share) * targets[other], atol=1e-6)
    turned = drawn.mirrored().show(images, chosen, TURNING, size=48)
    assert torch.allclose(turned, shown.flip(3), atol=1e-3)


@pytest.mark.parametrize(("alpha", "mean"), [(1.0, 0.75), (0.2, 0.899), (50.0, 0.540)])
def test_the_shown_face_has_the_larger_share(alpha: float, mean: float) -> None:
    """Mean of the larger of two shares from Beta(alpha, alpha), by integrating its density."""
    drawn = lesson(40_000, alpha=alpha)
    assert drawn.shares is not None
    assert drawn.partners is not None
    assert drawn.shares.min() >= 0.5
    assert drawn.shares.max() <= 1
    assert float(drawn.shares.mean()) == pytest.approx(mean, abs=4e-3)
    assert torch.equal(drawn.partners.sort().values, torch.arange(40_000))
    assert float((drawn.partners == torch.arange(40_000)).float().mean()) < 1e-3


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_joined_lessons_show_each_set_as_its_own_does(alpha: float) -> None:
    parts = [lesson(12, alpha=alpha), lesson(5, alpha=alpha, seed=4), lesson(3, alpha=alpha, seed=5)]
    images = torch.randint(256, (20, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = torch.softmax(torch.randn(20, 7, generator=torch.Generator().manual_seed(1)), 1)
    joined = join_lessons(parts)
    everyone = torch.arange(20)
    shown, mixed = joined.show(images, everyone, TURNING, size=48), joined.mix_targets(targets, everyone)
    for part, first in zip(parts, (0, 12, 17), strict=True):
        own = torch.arange(len(part.views))
        here = slice(first, first + len(own))
        assert torch.equal(shown[here], part.show(images[here], own, TURNING, size=48))
        assert torch.equal(mixed[here], part.mix_targets(targets[here], own))
