"""Distillation's teachers: their averaged answers to training faces, computed once for views that are shown again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from fer_deploy.emotions import EMOTIONS
from fer_deploy.ensemble import MIRROR, member_runs, split_member
from fer_deploy.errors import RunError, one_line
from fer_deploy.files import check_regular
from fer_deploy.models.fold import fold
from fer_deploy.recipes import Augmentation, Distillation
from fer_deploy.training.augment import render
from fer_deploy.training.checkpoint import save_tensors
from fer_deploy.training.data import FaceSet
from fer_deploy.training.devices import autocast
from fer_deploy.training.lesson import Lesson, draw_lesson, gather, join_lessons
from fer_deploy.training.run import Run

TEACHER_BATCH = 256


class Teachers:
    """The averaged probabilities of a recipe's teachers, for training faces alone."""

    def __init__(
        self,
        distillation: Distillation,
        *,
        workspace: Path,
        device: torch.device,
        half: torch.dtype | None = None,
        labels: tuple[str, ...] = EMOTIONS,
    ) -> None:
        """Open the teachers' runs.

        Args:
            distillation: the recipe's.
            workspace: holds their runs, and the cache of their answers.
            device: where they compute.
            half: their half-precision type; None is float32.
            labels: the student's, which must be theirs too.

        Raises:
            RunError: a teacher's run is missing or unfinished (names the command that trains it), or has other labels.
        """
        self.distillation = distillation
        self._runs = {name: Run.open(workspace / "training" / name) for name in member_runs(distillation.teachers)}
        for name, run in self._runs.items():
            if run.labels != labels:
                theirs, ours = (one_line(", ".join(names), limit=120) for names in (run.labels, labels))
                raise RunError(
                    f"teacher {name!r}: it has the labels {theirs}, and the data has {ours}: name teachers that were "
                    "trained on the same labels in the same order"
                )
        self._classes = len(labels)
        # Folded networks answer 1.5 times as fast (Lite0 at 96 pixels, bfloat16: 325 to 495 faces/s on one thread).
        self._networks = {
            name: fold(run.network()).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload,unused-ignore]
            for name, run in self._runs.items()
        }
        self._device = device
        self._half = half
        self._folder = workspace / "training" / ".soft_targets"

    @property
    def fingerprint(self) -> str:
        """Changes when any teacher's weights do."""
        members = map(split_member, self.distillation.teachers)
        joined = " ".join(self._runs[name].weights_sha256 + MIRROR * mirror for name, mirror in members)
        return hashlib.sha256(joined.encode()).hexdigest()

    @torch.no_grad()
    def answer(self, show: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """The teachers' averaged probabilities, float32 (m, classes), on the device.

        Args:
            show: takes a side s in pixels and gives the m pictures, float32 (m, 1, s, s) in [-1, 1] on the device.
        """
        answers = []
        for name, mirror in map(split_member, self.distillation.teachers):
            faces = show(self._runs[name].input_size)
            if mirror:
                faces = faces.flip(3)
            with autocast(self._device, self._half):
                logits = self._networks[name](faces.contiguous(memory_format=torch.channels_last))
            answers.append(torch.softmax(logits.float(), 1))
        return torch.stack(answers).mean(0)

    def for_epoch(
        self,
        face_sets: Sequence[FaceSet],
        augmentation: Augmentation,
        *,
        epoch: int,
        message: Callable[[str], None],
        between_batches: Callable[[], None] = lambda: None,
    ) -> tuple[Lesson | None, torch.Tensor | None]:
        """The lesson that an epoch must show, and the teachers' answers to it.

        Args:
            face_sets: the run's faces, n in all.
            augmentation: the stage's.
            epoch: counted from 0 over all stages.
            message: receives one line whenever the teachers have to compute.
            between_batches: called between the teachers' batches. If it raises, the answers so far are kept.

        Returns:
            The lesson on the device, or None if the student draws its own; and the teachers' probabilities float32
            (n, classes) on the device, or None if they answer batch by batch.
        """
        if self.distillation.view == "same":
            return None, None
        repeat, turn = divmod(epoch, self.distillation.views)
        lessons, answers = [], []
        for faces in face_sets:
            lesson = self._lesson(len(faces), augmentation, turn)
            path = self._folder / f"{self._answers_key(faces, augmentation, turn)}.safetensors"
            answer = self._cached(path, len(faces), message)
            if answer is None:
                count = len(self.distillation.teachers)
                message(f"{count} teachers are labelling view {turn + 1} of {self.distillation.views}")
                answer = self._compute(path, faces, lesson, augmentation, between_batches)
            answers.append(answer)
            if lesson is not None:
                # Every second time the student sees the mirror image: twice as many pictures for the same answers.
                lessons.append(lesson.mirrored() if repeat % 2 and augmentation.flip else lesson)
        return join_lessons(lessons) if lessons else None, torch.cat(answers)

    def _lesson(self, count: int, augmentation: Augmentation, turn: int) -> Lesson | None:
        """The lesson `turn` of a set of faces; None under `plain`."""
        if self.distillation.view != "cached":
            return None
        generator, alpha = self._generator(turn), self.distillation.mixup_alpha
        return draw_lesson(augmentation, count, generator=generator, mixup_alpha=alpha).to(self._device)

    def _generator(self, turn: int) -> torch.Generator:
        """Draws view `turn`: the same one for all students of the same teachers, another one for other teachers.

        Teachers overfit the views that they learned from: lite2-128 with lite0-96-taught gave the label of 81.7 % of
        the faces in views of its own training, and of 78.5 % in fresh views. So each generation sees other views.
        """
        place = f"views {turn} of {self.fingerprint}"
        seed = int.from_bytes(hashlib.blake2b(place.encode(), digest_size=7).digest(), "big")
        return torch.Generator().manual_seed(seed)

    def _answers_key(self, faces: FaceSet, augmentation: Augmentation, turn: int) -> str:
        """The name of a cached answer. Device and arithmetic are not part of it: answers serve all devices."""
        cached = self.distillation.view == "cached"
        key = {
            "teachers": self.fingerprint,
            "faces": faces.sha256,
            "view": f"{turn}, drawn by teachers" if cached else "plain",
            "augmentation": dataclasses.asdict(augmentation) if cached else None,
            "mixup_alpha": self.distillation.mixup_alpha,
        }
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]

    def _cached(self, path: Path, count: int, message: Callable[[str], None]) -> torch.Tensor | None:
        """The cached answers to `count` faces, float32 (count, classes); None where there are none that can be used."""
        if not path.exists():
            return None
        probabilities = _read_probabilities(path, self._classes)
        if probabilities is None:
            message(f"{path}: damaged: the teachers label these faces again")
            return None
        return probabilities.float().to(self._device) if len(probabilities) == count else None

    def _compute(
        self,
        path: Path,
        faces: FaceSet,
        lesson: Lesson | None,
        augmentation: Augmentation,
        between_batches: Callable[[], None],
    ) -> torch.Tensor:
        """Have the teachers answer, from where an interrupted call stopped, and cache the answers in `path`."""
        partial_path = path.with_suffix(".part.safetensors")
        parts = self._interrupted(partial_path, len(faces))
        answered = sum(map(len, parts))
        for chosen in torch.split(torch.arange(answered, len(faces), device=self._device), TEACHER_BATCH):

            def show(size: int, chosen: torch.Tensor = chosen) -> torch.Tensor:
                if lesson is None:
                    return render(gather(faces.at(size), chosen), None, augmentation, size=size)
                return lesson.show(faces.at(size), chosen, augmentation, size=size)

            parts.append(self.answer(show).half())
            try:
                between_batches()
            except BaseException:  # the next call resumes here: five teachers take minutes
                save_tensors(partial_path, {"probabilities": torch.cat(parts)})
                raise
        answers = torch.cat(parts)
        save_tensors(path, {"probabilities": answers})
        partial_path.unlink(missing_ok=True)
        return answers.float()

    def _interrupted(self, path: Path, count: int) -> list[torch.Tensor]:
        """The answers of an interrupted call to the first of `count` faces, float16 (m, classes), in whole batches."""
        probabilities = _read_probabilities(path, self._classes)
        if probabilities is None:
            return []
        whole = len(probabilities) // TEACHER_BATCH * TEACHER_BATCH
        return [probabilities[:whole].half().to(self._device)] if 0 < whole < count else []


def _read_probabilities(path: Path, classes: int) -> torch.Tensor | None:
    """The probabilities (n, classes) in a file of answers; None where it is absent, damaged or no regular file."""
    try:
        check_regular(path)
        probabilities = load_file(path)["probabilities"].float()
    except Exception:  # whatever is wrong with a cached answer, the teachers can compute it again
        return None
    if probabilities.ndim != 2 or probabilities.shape[1] != classes:
        return None
    # NaN fails this comparison too. The answers are rounded to half precision.
    return probabilities if bool(((probabilities.sum(1) - 1).abs() < 0.02).all()) else None
