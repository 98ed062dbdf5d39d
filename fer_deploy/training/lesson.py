"""Lessons: the views of the faces that an epoch shows, drawn once so that students and teachers see the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from fer_deploy.recipes import Augmentation
from fer_deploy.training.augment import draw_views, mirrored, render


@dataclass(frozen=True, eq=False)
class Lesson:
    """One view of each of n faces and, where `partners` is set, what each view is mixed with.

    A mixture is `share * view + (1 - share) * partner's view`, in pixels in [-1, 1]; its target likewise.
    """

    views: torch.Tensor
    """float32 (n, columns), rows of `draw_views`."""
    partners: torch.Tensor | None = None
    """int64 (n,): the other face of each mixture."""
    shares: torch.Tensor | None = None
    """float32 (n,) in [0.5, 1]: each face's share of its own mixture."""
    faces: torch.Tensor | None = None
    """int64 (n,): the face that each view shows, where a sampler repeats some; None: view i shows face i."""

    def to(self, device: torch.device) -> Lesson:
        """The same lesson on another device."""
        partners, shares, faces = (
            None if tensor is None else tensor.to(device) for tensor in (self.partners, self.shares, self.faces)
        )
        return Lesson(self.views.to(device), partners, shares, faces)

    def mirrored(self) -> Lesson:
        """The lesson whose pictures are this one's, mirrored left to right."""
        return dataclasses.replace(self, views=mirrored(self.views))

    def faces_of(self, chosen: torch.Tensor) -> torch.Tensor:
        """The faces that some views show, int64 (m,)."""
        return chosen if self.faces is None else self.faces[chosen]

    def show(
        self, images: torch.Tensor, chosen: torch.Tensor, augmentation: Augmentation, *, size: int
    ) -> torch.Tensor:
        """Some faces as a network sees them: float32 (m, 1, size, size) in [-1, 1].

        Args:
            images: uint8 (n, side, side), all faces of the lesson; on the views' device or, to be gathered batch by
                batch, on the CPU.
            chosen: int64 (m,), which views.
            augmentation: the stage's.
            size: side in pixels.
        """
        faces = render(gather(images, self.faces_of(chosen)), self.views[chosen], augmentation, size=size)
        if self.partners is None or self.shares is None:
            return faces
        partner = self.partners[chosen]
        partners = render(gather(images, self.faces_of(partner)), self.views[partner], augmentation, size=size)
        return partners.lerp_(faces, self.shares[chosen, None, None, None])

    def mix_targets(self, targets: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """The targets of some faces as shown, float (m, classes), from those of all faces, (n, classes)."""
        if self.partners is None or self.shares is None:
            return targets[self.faces_of(chosen)]
        partners = targets[self.faces_of(self.partners[chosen])]
        return partners.lerp(targets[self.faces_of(chosen)], self.shares[chosen, None])


def gather(images: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The chosen images, on the device of `chosen`; faces too many for it lie on the CPU, perhaps in a mapped file."""
    return images[chosen.to(images.device)].to(chosen.device)


def draw_lesson(
    augmentation: Augmentation, count: int, *, generator: torch.Generator, mixup_alpha: float = 0.0
) -> Lesson:
    """Draw views of `count` faces and, for `mixup_alpha` above 0, each face's partner and share."""
    views = draw_views(augmentation, count, generator=generator)
    if not mixup_alpha:
        return Lesson(views)
    partners = torch.randperm(count, generator=generator)
    shares = torch._sample_dirichlet(torch.full((count, 2), mixup_alpha, dtype=torch.float64), generator=generator)
    return Lesson(views, partners, shares.amax(1).float())


def join_lessons(lessons: Sequence[Lesson]) -> Lesson:
    """One lesson of several sets of faces, one set after the other; each face's partner is of the same set."""
    starts = accumulate((len(lesson.views) for lesson in lessons), initial=0)
    partners = [
        lesson.partners + start for lesson, start in zip(lessons, starts, strict=False) if lesson.partners is not None
    ]
    shares = [lesson.shares for lesson in lessons if lesson.shares is not None]
    return Lesson(
        torch.cat([lesson.views for lesson in lessons]),
        torch.cat(partners) if partners else None,
        torch.cat(shares) if shares else None,
    )
