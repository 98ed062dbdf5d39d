"""Students learn from their teachers' answers to the very views that they see, on labelled and unlabelled faces."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_helpers import sha256

from fer_deploy.ensemble import member_runs
from fer_deploy.errors import DataError, RunError
from fer_deploy.faces import Dataset
from fer_deploy.faces.unlabelled import read_unlabelled
from fer_deploy.recipes import (
    Augmentation,
    Distillation,
    Loss,
    Mixing,
    Optimiser,
    Recipe,
    Stage,
)
from fer_deploy.training import fit, step, teachers
from fer_deploy.training.data import FaceSet
from fer_deploy.training.fit import Settings, train
from fer_deploy.training.lesson import Lesson
from fer_deploy.training.losses import distillation_loss, loss_on_targets
from fer_deploy.training.run import Run
from fer_deploy.training.step import Batch
from fer_deploy.training.teachers import Teachers
from fer_deploy.training.watcher import EpochRow, Silent

CPU = Settings(device="cpu")


def test_teachers_answers_before_a_time_limit_are_kept(
    tmp_path: Path, finished: Path, few_faces: Dataset, small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a student whose teachers take longer than the limit would never begin."""
    shutil.copytree(finished / "training", tmp_path / "training")
    monkeypatch.setattr(teachers, "TEACHER_BATCH", 64)  # five batches of 280 faces
    answered: list[int] = []
    real = Teachers.answer

    def answer(self: Teachers, show: Callable[[int], torch.Tensor]) -> torch.Tensor:
        answered.append(1)
        return real(self, show)

    monkeypatch.setattr(Teachers, "answer", answer)
    distillation = Distillation(teachers=("small",), view="cached", views=1, weight=0.7)
    stage = Stage(epochs=1, batch_size=32, optimiser=Optimiser(lr=4e-3))
    student = dataclasses.replace(small_recipe, name="student", distillation=distillation, stages=(stage,))

    def until(count: int) -> str:
        before = len(answered)
        stop = lambda: len(answered) - before >= count  # noqa: E731
        return train(student, few_faces, workspace=tmp_path, settings=CPU, should_stop=stop).status

    assert [until(2), until(2), until(99)] == ["stopped", "stopped", "complete"]
    assert len(answered) == 5
    (kept,) = (tmp_path / "training/.soft_targets").iterdir()
    whole = load_file(kept)["probabilities"]
    kept.unlink()
    train(dataclasses.replace(student, name="again"), few_faces, workspace=tmp_path, settings=CPU)
    assert len(answered) == 10
    assert torch.equal(load_file(kept)["probabilities"], whole)


def test_teachers_answer_a_view_once(tmp_path: Path, finished: Path, few_faces: Dataset, small_recipe: Recipe) -> None:
    shutil.copytree(finished / "training", tmp_path / "training")

    class Messages(Silent):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def message(self, text: str) -> None:
            self.lines.append(text)

    def student(name: str, view: str) -> Recipe:
        distillation = Distillation(teachers=("small",), view=view, views=2, weight=0.7)  # type: ignore[arg-type]
        stage = Stage(epochs=4, batch_size=32, optimiser=Optimiser(lr=4e-3))
        return dataclasses.replace(small_recipe, name=name, distillation=distillation, stages=(stage,))

    first = Messages()
    train(student("one", "cached"), few_faces, workspace=tmp_path, settings=CPU, watcher=first)
    assert sum("1 teachers are labelling view" in line for line in first.lines) == 2  # two views, four epochs
    second = Messages()
    train(student("two", "cached"), few_faces, workspace=tmp_path, settings=CPU, watcher=second)
    assert not second.lines
    name = "weights.safetensors"
    assert sha256(tmp_path / "training/one" / name) == sha256(tmp_path / "training/two" / name)
    kept = next((tmp_path / "training/.soft_targets").iterdir())
    kept.write_bytes(b"broken")
    third = Messages()
    train(student("three", "cached"), few_faces, workspace=tmp_path, settings=CPU, watcher=third)
    assert any("damaged" in line for line in third.lines)
    assert sha256(tmp_path / "training/three" / name) == sha256(tmp_path / "training/one" / name)
    for view in ("same", "plain"):
        assert train(student(view, view), few_faces, workspace=tmp_path, settings=CPU).status == "complete"
    missing = dataclasses.replace(student("four", "same"), distillation=Distillation(teachers=("nobody",)))
    with pytest.raises(RunError, match="there is no run here"):
        train(missing, few_faces, workspace=tmp_path, settings=CPU)


def test_teachers_see_training_faces_alone_and_their_answers_are_learned_from(
    tmp_path: Path, finished: Path, few_faces: Dataset, small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every face once a view, none that equals a validation or test face; weight and temperature as the recipe says."""
    images = few_faces.training.images.copy()
    images[:5] = few_faces.test.images[:5]  # these five are no training faces then
    dataset = dataclasses.replace(few_faces, training=dataclasses.replace(few_faces.training, pictures=images))
    shutil.copytree(finished / "training", tmp_path / "training")
    shown: list[bytes] = []
    used: list[tuple[float, float, float]] = []
    real_show, real_loss, real_distilled = Lesson.show, loss_on_targets, distillation_loss

    def show(self: Lesson, faces: torch.Tensor, chosen: torch.Tensor, how: Augmentation, *, size: int) -> torch.Tensor:
        if sys._getframe(1).f_code.co_filename == teachers.__file__:  # for a teacher
            shown.extend(face.numpy().tobytes() for face in faces[chosen])
        return real_show(self, faces, chosen, how, size=size)

    def plain(logits: torch.Tensor, targets: torch.Tensor, loss: Loss) -> torch.Tensor:
        used.append((float((value := real_loss(logits, targets, loss)).detach()), 0.0, 0.0))
        return value

    def distilled(logits: torch.Tensor, teacher: torch.Tensor, how: Distillation) -> torch.Tensor:
        assert torch.allclose(teacher.sum(1), torch.ones(len(teacher)), atol=2e-3)
        value = real_distilled(logits, teacher, how)
        used[-1] = (used[-1][0], float(value.detach()), how.temperature)
        return value

    class Losses(Silent):
        rows: ClassVar[list[float]] = []

        def epoch(self, row: EpochRow, *, best: bool) -> None:
            self.rows.append(row.training_loss)

    monkeypatch.setattr(Lesson, "show", show)
    monkeypatch.setattr(step, "loss_on_targets", plain)
    monkeypatch.setattr(step, "distillation_loss", distilled)
    recipe = dataclasses.replace(
        small_recipe,
        name="student",
        distillation=Distillation(teachers=("small", "small"), views=3, weight=0.7, temperature=4.0),
        stages=(Stage(epochs=5, batch_size=55),),
    )
    train(recipe, dataset, workspace=tmp_path, settings=CPU, watcher=Losses())
    clean = [face.tobytes() for face in images[5:]]
    assert sorted(shown) == sorted(clean * 3 * 2)  # three views, two teachers
    assert {temperature for _, _, temperature in used} == {4.0}
    means = [
        sum(0.3 * own + 0.7 * taught for own, taught, _ in used[start : start + 5]) / 5 for start in range(0, 25, 5)
    ]
    assert pytest.approx(means, rel=1e-5) == Losses.rows
    kept = list((tmp_path / "training/.soft_targets").glob("*.safetensors"))
    assert len(kept) == 3
    assert {tuple(load_file(path)["probabilities"].shape) for path in kept} == {(275, 7)}


def face_set(images: torch.Tensor, dataset: Dataset) -> FaceSet:
    return FaceSet(len(images), lambda _size: images.numpy(), lambda: dataset.sha256, torch.device("cpu"))


def test_cached_views_are_shown_again_mirrored(finished: Path, few_faces: Dataset) -> None:
    """The student sees each kept view and its mirror image in turn, with the same answer; never mirrored where the
    recipe never mirrors."""
    taught = Distillation(teachers=("small",), views=2)
    teachers = Teachers(taught, workspace=finished, device=torch.device("cpu"))
    images = torch.from_numpy(few_faces.training.images[:64])

    def shown(epoch: int, augmentation: Augmentation) -> tuple[torch.Tensor, torch.Tensor]:
        lesson, answers = teachers.for_epoch(
            [face_set(images, few_faces)], augmentation, epoch=epoch, message=lambda line: None
        )
        assert lesson is not None
        assert answers is not None
        return lesson.show(images, torch.arange(len(images)), augmentation, size=48), answers

    turning = Augmentation(flip=0.5, rotation=10, shift=0.1)
    first, second, third, fifth = (shown(epoch, turning) for epoch in (0, 1, 2, 4))
    assert not torch.allclose(first[0], second[0], atol=0.1)
    assert torch.allclose(third[0], first[0].flip(3), atol=1e-3)
    assert torch.equal(third[1], first[1])
    assert torch.equal(fifth[0], first[0])
    onward = dataclasses.replace(turning, flip=0.0)
    assert torch.equal(shown(0, onward)[0], shown(2, onward)[0])


def test_the_same_faces_in_another_order_are_labelled_again(
    tmp_path: Path, finished: Path, few_faces: Dataset, small_recipe: Recipe
) -> None:
    shutil.copytree(finished / "training", tmp_path / "training", ignore=shutil.ignore_patterns(".*"))
    recipe = dataclasses.replace(
        small_recipe, name="student", distillation=Distillation(teachers=("small",), view="plain"),
        stages=small_recipe.stages[:1],
    )  # fmt: skip
    turned = few_faces.training.take(np.arange(len(few_faces.training))[::-1])
    for name, faces in (("student", few_faces), ("other", dataclasses.replace(few_faces, training=turned))):
        train(recipe, faces, workspace=tmp_path, name=name, settings=CPU)
    first, second = (load_file(path)["probabilities"] for path in (tmp_path / "training/.soft_targets").iterdir())
    assert torch.allclose(first, second.flip(0), atol=1e-2)
    assert not torch.allclose(first, second, atol=1e-2)


def test_other_teachers_show_other_views_and_the_same_ones_the_same(finished: Path, few_faces: Dataset) -> None:
    images = torch.from_numpy(few_faces.training.images[:64])

    def views(*names: str) -> torch.Tensor:
        teachers = Teachers(Distillation(teachers=names, views=2), workspace=finished, device=torch.device("cpu"))
        lesson, _ = teachers.for_epoch(
            [face_set(images, few_faces)], Augmentation(shift=0.1), epoch=0, message=lambda line: None
        )
        assert lesson is not None
        return lesson.views

    assert torch.equal(views("small"), views("small"))
    assert not torch.allclose(views("small"), views("small", "small"), atol=1e-3)
    assert not torch.allclose(views("small"), views("small~mirror"), atol=1e-3)


def test_a_teacher_can_see_the_mirrored_face(finished: Path) -> None:
    taught = Distillation(teachers=("small", "small~mirror"))
    assert member_runs(taught.teachers) == ("small",)
    teachers = Teachers(taught, workspace=finished, device=torch.device("cpu"))
    network = Run.open(finished / "training/small").network().eval()
    faces = torch.rand(9, 1, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        straight, turned = (torch.softmax(network(seen), 1) for seen in (faces, faces.flip(3)))
    assert not torch.allclose(straight, turned, atol=1e-3)
    assert torch.allclose(teachers.answer(lambda size: faces), (straight + turned) / 2, atol=1e-5)


@pytest.mark.parametrize("view", ["cached", "same"])
def test_teachers_see_the_mixtures_that_the_student_sees(
    view: str,
    tmp_path: Path,
    finished: Path,
    few_faces: Dataset,
    small_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each batch's soft targets are what the teacher says of the batch's own pictures, and the labels are mixed too."""
    shutil.copytree(finished / "training", tmp_path / "training")
    kept = tmp_path / "training/.soft_targets"
    kept.mkdir(exist_ok=True)
    before = set(kept.iterdir())
    teacher = Run.open(tmp_path / "training/small").network().eval()
    real_step = fit.take_step
    largest_shares: list[float] = []

    def check_batch(trained: torch.nn.Module, batch: Batch, *others: Any) -> tuple[torch.Tensor, torch.Tensor]:
        assert batch.soft_targets is not None
        with torch.no_grad():
            answers = torch.softmax(teacher(batch.faces), 1)
        assert torch.allclose(batch.soft_targets, answers, atol=2e-3)
        assert torch.allclose(batch.targets.sum(1), torch.ones(len(batch)), atol=1e-5)
        largest_shares.extend(batch.targets.amax(1).tolist())
        return real_step(trained, batch, *others)

    monkeypatch.setattr(fit, "take_step", check_batch)
    cached = view == "cached"
    mixing = Mixing() if cached else Mixing(mixup_alpha=1.0)
    recipe = dataclasses.replace(
        small_recipe,
        name="student",
        distillation=Distillation(("small",), view=view, views=2, mixup_alpha=float(cached)),  # type: ignore[arg-type]
        stages=(Stage(epochs=2, batch_size=40, mixing=mixing),),
    )
    assert train(recipe, few_faces, workspace=tmp_path, settings=CPU).status == "complete"
    assert len(largest_shares) == 2 * 280
    assert sum(share < 0.99 for share in largest_shares) / len(largest_shares) > 0.4
    assert len(set(kept.iterdir()) - before) == 2 * cached


def test_answers_to_mixtures_and_to_unmixed_faces_are_cached_apart(finished: Path, few_faces: Dataset) -> None:
    images = torch.from_numpy(few_faces.training.images[:64])

    def answers_to(alpha: float) -> torch.Tensor:
        taught = Distillation(teachers=("small",), views=2, mixup_alpha=alpha)
        teachers = Teachers(taught, workspace=finished, device=torch.device("cpu"))
        _, answers = teachers.for_epoch(
            [face_set(images, few_faces)], Augmentation(shift=0.1), epoch=0, message=lambda line: None
        )
        assert answers is not None
        return answers

    first, mixed, other = answers_to(0.0), answers_to(1.0), answers_to(0.3)
    assert torch.equal(first, answers_to(0.0))
    assert torch.equal(mixed, answers_to(1.0))
    assert not torch.allclose(first, mixed, atol=1e-2)
    assert not torch.allclose(other, mixed, atol=1e-2)


@pytest.mark.parametrize(("view", "alpha"), [("cached", 0.0), ("cached", 1.0), ("plain", 0.0)])
def test_unlabelled_faces_are_learned_with_the_teachers_labels(
    view: str,
    alpha: float,
    unlabelled: Path,
    finished: Path,
    few_faces: Dataset,
    small_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their targets are the kept answers; the labelled faces keep their own labels and the answers they had."""
    shutil.copytree(finished / "training", unlabelled / "training", ignore=shutil.ignore_patterns(".*"))
    own, teacher = [], []

    def keep(logits: torch.Tensor, targets: torch.Tensor, loss: Loss) -> torch.Tensor:
        own.append(targets)
        return loss_on_targets(logits, targets, loss)

    def distilled(logits: torch.Tensor, answers: torch.Tensor, taught: Distillation) -> torch.Tensor:
        teacher.append(answers)
        return distillation_loss(logits, answers, taught)

    monkeypatch.setattr(step, "loss_on_targets", keep)
    monkeypatch.setattr(step, "distillation_loss", distilled)
    taught = Distillation(("small",), view=view, views=2, mixup_alpha=alpha, unlabelled="faces")  # type: ignore[arg-type]
    stage = Stage(epochs=1, batch_size=350)
    student = dataclasses.replace(small_recipe, name="student", distillation=taught, stages=(stage,))
    outcome = train(student, few_faces, workspace=unlabelled, settings=CPU)
    data = outcome.run().record["data"]
    further = read_unlabelled(unlabelled / "faces", few_faces)
    assert data["unlabelled_faces"] == len(further) == 70
    assert data["training_rows"] == 280
    assert outcome.run().record["images_seen"] == 350
    assert data["unlabelled_sha256"] == hashlib.sha256(further.tobytes()).hexdigest()
    alike = (own[0] == teacher[0]).all(1)
    assert int(alike.sum()) == 70
    if not alpha:
        labels = torch.bincount(own[0][~alike].argmax(1), minlength=7)
        assert labels.tolist() == list(few_faces.training.counts)
    kept = {len(load_file(path)["probabilities"]) for path in (unlabelled / "training/.soft_targets").iterdir()}
    assert kept == {280, 70}


def test_a_run_with_unlabelled_faces_resumes_with_the_same_faces_to_the_same_weights(
    unlabelled: Path, finished: Path, few_faces: Dataset, small_recipe: Recipe
) -> None:
    shutil.copytree(finished / "training", unlabelled / "training")
    taught = Distillation(("small",), views=2, mixup_alpha=1.0, unlabelled="faces")
    stage = Stage(epochs=2, batch_size=70, optimiser=Optimiser(lr=4e-3))
    student = dataclasses.replace(small_recipe, distillation=taught, stages=(stage,), precise_bn=0.5)
    whole = train(student, few_faces, workspace=unlabelled, name="whole", settings=CPU)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 7

    def go_on() -> str:
        return train(student, few_faces, workspace=unlabelled, name="parts", settings=CPU, should_stop=stop).status

    assert go_on() == "stopped"
    moved = (unlabelled / "faces/07.png").rename(unlabelled / "07.png")
    with pytest.raises(RunError, match=r"parts: began with other unlabelled faces: .* --restart"):
        go_on()
    moved.rename(unlabelled / "faces/07.png")
    assert go_on() == "complete"
    assert sha256(unlabelled / "training/parts/weights.safetensors") == sha256(whole.folder / "weights.safetensors")
    shutil.rmtree(unlabelled / "faces")
    assert go_on() == "already complete"


def test_a_missing_folder_of_unlabelled_faces_is_reported_before_anything_is_written(
    tmp_path: Path, finished: Path, few_faces: Dataset, small_recipe: Recipe
) -> None:
    shutil.copytree(finished / "training", tmp_path / "training")
    student = dataclasses.replace(small_recipe, distillation=Distillation(("small",), unlabelled="data/faces"))
    with pytest.raises(DataError, match=r"data/faces: no such folder"):
        train(student, few_faces, workspace=tmp_path, name="student", settings=CPU)
    assert not (tmp_path / "training/student").exists()
