"""Soft targets: what the teachers of a recipe say about training faces, asked once where views come round again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fer_deploy.ensemble import MIRROR, member_runs, split_member
from fer_deploy.errors import RunError
from fer_deploy.models.fold import fold
from fer_deploy.recipes import Augmentation, Distillation
from fer_deploy.training.augment import draw_views, mirrored, render
from fer_deploy.training.checkpoint import save_tensors
from fer_deploy.training.run import Run

TEACHER_BATCH = 256


@dataclass(frozen=True, eq=False)
class Lesson:
    """What an epoch shows of n training faces: one view of each and, where `partners` is there, what it is mixed with.

    A mixture is `share * view + (1 - share) * partner's view`, in pixels in [-1, 1]; its target likewise.
    """

    views: torch.Tensor
    """float32 (n, columns), rows of `draw_views`."""
    partners: torch.Tensor | None = None
    """int64 (n,): the other face of each mixture."""
    shares: torch.Tensor | None = None
    """float32 (n,) in [0.5, 1]: each face's share of its own mixture."""

    def to(self, device: torch.device) -> Lesson:
        """The same on another device."""
        partners = None if self.partners is None else self.partners.to(device)
        shares = None if self.shares is None else self.shares.to(device)
        return Lesson(self.views.to(device), partners, shares)

    def mirrored(self) -> Lesson:
        """The lesson whose pictures are those of this one, mirrored left to right."""
        return dataclasses.replace(self, views=mirrored(self.views))

    def show(
        self, images: torch.Tensor, chosen: torch.Tensor, augmentation: Augmentation, *, size: int
    ) -> torch.Tensor:
        """What a network sees of some faces: float32 (m, 1, size, size) in [-1, 1].

        Args:
            images: uint8 (n, 48, 48), all training faces.
            chosen: int64 (m,), which of them.
            augmentation: the stage's.
            size: side in pixels.
        """
        faces = render(images[chosen], self.views[chosen], augmentation, size=size)
        if self.partners is None or self.shares is None:
            return faces
        other = self.partners[chosen]
        others = render(images[other], self.views[other], augmentation, size=size)
        return others.lerp_(faces, self.shares[chosen, None, None, None])

    def mix_targets(self, targets: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """The targets of some faces as shown, float (m, classes), from those of all, (n, classes)."""
        if self.partners is None or self.shares is None:
            return targets[chosen]
        return targets[self.partners[chosen]].lerp(targets[chosen], self.shares[chosen, None])


def draw_lesson(
    augmentation: Augmentation, count: int, *, generator: torch.Generator, mixup_alpha: float = 0.0
) -> Lesson:
    """Draw views of `count` faces and, for `mixup_alpha` above 0, what each is mixed with and by what share."""
    views = draw_views(augmentation, count, generator=generator)
    if not mixup_alpha:
        return Lesson(views)
    partners = torch.randperm(count, generator=generator)
    both = torch._sample_dirichlet(torch.full((count, 2), mixup_alpha, dtype=torch.float64), generator=generator)
    return Lesson(views, partners, both.amax(1).float())


def join_lessons(lessons: Sequence[Lesson]) -> Lesson:
    """One lesson of several sets of faces, one set after the other; each face's partner is of its own set."""
    firsts = accumulate((len(lesson.views) for lesson in lessons), initial=0)
    partners = [
        lesson.partners + first for lesson, first in zip(lessons, firsts, strict=False) if lesson.partners is not None
    ]
    shares = [lesson.shares for lesson in lessons if lesson.shares is not None]
    return Lesson(
        torch.cat([lesson.views for lesson in lessons]),
        torch.cat(partners) if partners else None,
        torch.cat(shares) if shares else None,
    )


class Teachers:
    """The averaged probabilities of a recipe's teachers, for training faces alone."""

    def __init__(
        self,
        distillation: Distillation,
        *,
        workspace: Path,
        device: torch.device,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """Open the teachers' runs.

        Raises:
            RunError: a teacher's run is missing or unfinished; names the commands that mend it.
        """
        self.distillation = distillation
        self._runs = {name: Run.open(workspace / "training" / name) for name in member_runs(distillation.teachers)}
        # folded, they answer one and a half times as fast (Lite0 at 96 pixels, bfloat16: 325 to 495 faces/s a thread)
        self._networks = {
            name: fold(run.network()).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload,unused-ignore]
            for name, run in self._runs.items()
        }
        self._device = device
        self._precision = precision
        self._folder = workspace / "training" / ".soft_targets"

    @property
    def fingerprint(self) -> str:
        """Changes when any teacher's weights do."""
        told_apart = map(split_member, self.distillation.teachers)
        joined = " ".join(self._runs[name].weights_sha256 + MIRROR * turned for name, turned in told_apart)
        return hashlib.sha256(joined.encode()).hexdigest()

    @torch.no_grad()
    def answer(self, show: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """The teachers' averaged probabilities, float32 (m, 7), on the device.

        Args:
            show: gives the m pictures, float32 (m, 1, s, s) in [-1, 1] on the device, at the side s that it is given.
        """
        answers = []
        half = self._precision != torch.float32
        for name, turned in map(split_member, self.distillation.teachers):
            faces = show(self._runs[name].input_size)
            if turned:
                faces = faces.flip(3)
            with torch.autocast(self._device.type, self._precision, enabled=half):
                logits = self._networks[name](faces.contiguous(memory_format=torch.channels_last))
            answers.append(torch.softmax(logits.float(), 1))
        return torch.stack(answers).mean(0)

    def _generator(self, turn: int) -> torch.Generator:
        """What draws view `turn`: other views for other teachers, the same for all pupils of the same ones.

        Teachers that learned from some views know these by heart: lite2-128 with lite0-96-taught gave the label of
        81.7 % of the faces in views of its own course, and of 78.5 % in fresh ones. A next course so shows others.
        """
        drawn = f"views {turn} of {self.fingerprint}"
        seed = int.from_bytes(hashlib.blake2b(drawn.encode(), digest_size=7).digest(), "big")
        return torch.Generator().manual_seed(seed)

    def for_epoch(
        self,
        images: torch.Tensor,
        augmentation: Augmentation,
        *,
        epoch: int,
        faces_sha256: str,
        told: Callable[[str], None],
        between: Callable[[], None] = lambda: None,
    ) -> tuple[Lesson | None, torch.Tensor | None]:
        """What an epoch must show, and what the teachers say of it.

        Args:
            images: uint8 (n, 48, 48), all training faces, on the device.
            augmentation: the stage's.
            epoch: counted over all stages.
            faces_sha256: of the images in their order, part of the kept answers' key.
            told: is given one line when the teachers have to be asked.
            between: is called between their batches; what it raises ends the asking.

        Returns:
            The lesson on the device, or None where the student draws its own; and the teachers' probabilities
            float32 (n, 7) on the device, or None where they are asked batch by batch.
        """
        kind, alpha = self.distillation.view, self.distillation.mixup_alpha
        if kind == "same":
            return None, None
        again, turn = divmod(epoch, self.distillation.views)
        lesson = None
        if kind == "cached":
            lesson = draw_lesson(augmentation, len(images), generator=self._generator(turn), mixup_alpha=alpha)
            if again % 2 and augmentation.flip:
                lesson = lesson.mirrored()
            lesson = lesson.to(self._device)
        key = {
            "teachers": self.fingerprint,
            "faces": faces_sha256,
            "view": f"{turn}, drawn by teachers" if kind == "cached" else "plain",
            "augmentation": dataclasses.asdict(augmentation) if kind == "cached" else None,
            "mixup_alpha": alpha,
        }  # neither device nor precision: an answer that was given is not asked for again
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        path = self._folder / f"{digest[:24]}.safetensors"
        if path.exists():
            try:
                kept = load_file(path)["probabilities"]
                if kept.shape == (len(images), 7):
                    return lesson, kept.float().to(self._device)
            except (SafetensorError, KeyError, OSError):
                told(f"{path}: damaged, asking the teachers again")
        told(f"asking {len(self.distillation.teachers)} teachers about view {turn + 1} of {self.distillation.views}")
        begun = path.with_suffix(".part.safetensors")
        parts = self._begun(begun, len(images))
        asked = sum(map(len, parts))
        for chosen in torch.split(torch.arange(asked, len(images), device=self._device), TEACHER_BATCH):

            def show(size: int, chosen: torch.Tensor = chosen) -> torch.Tensor:
                if lesson is None:
                    return render(images[chosen], None, augmentation, size=size)
                return lesson.show(images, chosen, augmentation, size=size)

            parts.append(self.answer(show).half())
            try:
                between()
            except BaseException:  # the next call goes on from here: five teachers take minutes
                save_tensors(begun, {"probabilities": torch.cat(parts)})
                raise
        answers = torch.cat(parts)
        save_tensors(path, {"probabilities": answers})
        begun.unlink(missing_ok=True)
        return lesson, answers.float()

    def _begun(self, path: Path, count: int) -> list[torch.Tensor]:
        """What a stopped call was told of the first of `count` faces, float16 (m, 7), whole batches of it."""
        try:
            kept = load_file(path)["probabilities"]
        except (SafetensorError, KeyError, OSError):
            return []
        whole = len(kept) // TEACHER_BATCH * TEACHER_BATCH
        if kept.ndim != 2 or kept.shape[1] != 7 or not 0 < whole < count:
            return []
        return [kept[:whole].half().to(self._device)]


def require_teachers(distillation: Distillation, workspace: Path) -> None:
    """Check, before any weight is loaded, that the teachers' runs are complete.

    Raises:
        RunError: one is not.
    """
    for name in member_runs(distillation.teachers):
        try:
            Run.open(workspace / "training" / name)
        except RunError as error:
            raise RunError(f"teacher {name!r}: {error}") from error
