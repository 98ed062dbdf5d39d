"""One epoch's batches and training steps: show a batch, take a step, collect the losses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import torch
from torch import nn

from fer_deploy.recipes import Augmentation, Distillation, Recipe, Stage
from fer_deploy.training.data import TrainingData
from fer_deploy.training.devices import Processes, autocast, half_type
from fer_deploy.training.lesson import Lesson, draw_lesson
from fer_deploy.training.losses import Mix, apply_mix, distillation_loss, draw_mix, loss_on_targets
from fer_deploy.training.optim import Updater
from fer_deploy.training.progress import Progress
from fer_deploy.training.stages import generator_at
from fer_deploy.training.teachers import Teachers

CHECK_LOSS_EVERY = 20
"""Batches between looks at the loss on a GPU, where a look waits for the device; on the CPU every batch is checked."""
MOST_SKIPPED = 20
"""Losses in a row that may be infinite under a gradient scaler, which skips their steps and lowers its scale."""


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch as the student sees it."""

    faces: torch.Tensor
    """float32 (n, 1, s, s) in [-1, 1]."""
    targets: torch.Tensor
    """float32 (n, classes), rows that sum to one."""
    soft_targets: torch.Tensor | None
    """float32 (n, classes), the teachers' probabilities; None without teachers."""

    def __len__(self) -> int:
        return len(self.faces)


@dataclass(frozen=True, eq=False)
class Epoch:
    """What one epoch shows."""

    data: TrainingData
    augmentation: Augmentation
    size: int
    """Side in pixels of the student's input."""
    lesson: Lesson
    teachers: Teachers | None
    soft_targets: torch.Tensor | None
    """float32 (n, classes) of all faces; None without teachers, or if they answer batch by batch."""
    batches: tuple[torch.Tensor, ...]
    """int64 (b,): the views of the lesson that this process shows in each batch."""
    mixes: tuple[Mix | None, ...]
    """How each batch is mixed."""

    def batch(self, number: int) -> Batch:
        """The batch of a number, counted from 0."""
        chosen, mix, lesson, soft_targets = self.batches[number], self.mixes[number], self.lesson, self.soft_targets
        targets = lesson.mix_targets(self.data.targets, chosen)
        answers = None if soft_targets is None else soft_targets[lesson.faces_of(chosen)]
        if self.data.unlabelled_sha256 and answers is not None:
            is_unlabelled = lesson.faces_of(chosen) >= self.data.labelled
            targets = torch.where(is_unlabelled[:, None], answers, targets)

        def show(size: int) -> torch.Tensor:
            faces = lesson.show(self.data.at(size), chosen, self.augmentation, size=size)
            return faces if mix is None else apply_mix(faces, targets, mix)[0]

        faces = lesson.show(self.data.images, chosen, self.augmentation, size=self.size)
        if answers is not None:
            answers = answers if mix is None else apply_mix(faces, answers, mix)[1]
        elif self.teachers is not None:
            answers = self.teachers.answer(show)
        if mix is not None:
            faces, targets = apply_mix(faces, targets, mix)
        return Batch(faces, targets, answers)


@dataclass(frozen=True)
class BatchSizes:
    """How an epoch of a stage is cut into batches."""

    faces: int
    """Of each batch, over all processes."""
    count: int
    """Batches of an epoch; the faces that do not fill one are left out of it."""


def draw_epoch(
    data: TrainingData,
    recipe: Recipe,
    stage: Stage,
    *,
    place: tuple[int, int, int],
    sizes: BatchSizes,
    processes: Processes,
    teaching: tuple[Teachers | None, Lesson | None, torch.Tensor | None],
) -> Epoch:
    """Draw an epoch's order, views and mixtures.

    Args:
        data: the run's faces.
        recipe: the run's.
        stage: the epoch's.
        place: seed, stage and epoch within it: all that is drawn is a function of them.
        sizes: how many batches of how many faces.
        processes: each gets its part of every batch.
        teaching: the teachers, and what `Teachers.for_epoch` returned.
    """
    augmentation, device = recipe.augmentation_of(stage), data.targets.device
    order = torch.randperm(len(data), generator=generator_at(*place, "order"))
    faces = None
    if stage.sampler == "balanced":
        faces = draw_balanced(data, generator=generator_at(*place, "sampler"))
    teachers, lesson, soft_targets = teaching
    if lesson is None:
        lesson = draw_lesson(augmentation, len(data), generator=generator_at(*place, "views"))
        lesson = dataclasses.replace(lesson, faces=faces).to(device)  # a face that is repeated gets a view each time
    elif faces is not None:
        order = faces[order]
    batches = torch.split(order[: sizes.count * sizes.faces].to(device), sizes.faces)
    mixing = generator_at(*place, "mixing")
    return Epoch(
        data=data,
        augmentation=augmentation,
        size=recipe.network.input_size,
        lesson=lesson,
        teachers=teachers,
        soft_targets=soft_targets,
        batches=tuple(shard(batch, processes) for batch in batches),
        mixes=tuple(draw_mix(stage.mixing, generator=mixing) for _ in range(sizes.count)),
    )


def draw_balanced(data: TrainingData, *, generator: torch.Generator) -> torch.Tensor:
    """The faces that an epoch shows where each class is equally likely, int64 (len(data),); the order has no meaning.

    The labelled faces' part of the epoch is divided equally among the classes that have faces. Within a class no face
    is repeated before all were shown; which faces of a frequent class are left out changes with each epoch. Each
    unlabelled face is shown once.
    """
    members = [torch.nonzero(data.classes == label).flatten() for label in range(len(data.labels))]
    members = [faces for faces in members if len(faces)]
    shuffled = torch.randperm(len(members), generator=generator).tolist()  # the first get one face more
    drawn = []
    for turn, place in enumerate(shuffled):
        faces = members[place]
        count = data.labelled // len(members) + (turn < data.labelled % len(members))
        rounds = [torch.randperm(len(faces), generator=generator) for _ in range(-(-count // len(faces)))]
        drawn.append(faces[torch.cat(rounds)[:count]] if rounds else faces[:0])
    return torch.cat([*drawn, torch.arange(data.labelled, len(data))])


def shard(batch: torch.Tensor, processes: Processes) -> torch.Tensor:
    """This process's part of a batch: a run of its first half and that run's mirror image: MixUp's pairs."""
    if processes.count == 1:
        return batch
    size = len(batch) // processes.count
    half = size // 2
    start = processes.rank * half
    mirrored = len(batch) - start
    parts = [batch[start : start + half], batch[mirrored - half : mirrored]]
    if size % 2:
        middle = processes.count * half + processes.rank
        parts.insert(1, batch[middle : middle + 1])
    return torch.cat(parts)


def take_step(
    trained: nn.Module, batch: Batch, stage: Stage, distillation: Distillation | None, updater: Updater
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take one training step.

    Args:
        trained: the network, or its distributed wrapper.
        batch: what it learns from.
        stage: says how.
        distillation: the recipe's.
        updater: the stage's, of the same network.

    Returns:
        The mean loss, a float scalar, and how many faces were right, an integer scalar; both on the device.
    """
    device = batch.faces.device
    with autocast(device, half_type(stage.precision, device)):
        logits = trained(batch.faces.contiguous(memory_format=torch.channels_last))
    logits = logits.float()
    loss = loss_on_targets(logits, batch.targets, stage.loss)
    if batch.soft_targets is not None and distillation is not None:
        weight = distillation.weight
        loss = (1 - weight) * loss + weight * distillation_loss(logits, batch.soft_targets, distillation)
    updater.step(loss)
    return loss.detach(), (logits.detach().argmax(1) == batch.targets.argmax(1)).sum()


class LossNotFiniteError(Exception):
    """The loss became NaN or infinite, and no gradient scaler can help."""

    def __init__(self, batch: int, lr: float) -> None:
        super().__init__(batch, lr)
        self.batch = batch
        """Counted from 1 within its epoch."""
        self.lr = lr


@dataclass(frozen=True, eq=False)
class _Result:
    """A batch's results, still on the device."""

    loss: torch.Tensor
    """Summed over its faces."""
    correct: torch.Tensor
    batch: int
    lr: float


@dataclass(eq=False)
class Losses:
    """The results of batches that have not been read yet: reading them makes the processor wait for a GPU."""

    unread: list[_Result] = field(default_factory=list)
    bad_in_a_row: int = 0

    def add(self, loss: torch.Tensor, correct: torch.Tensor, *, batch: int, lr: float) -> None:
        """Add a batch's summed loss and its number of correct faces; `batch` is counted from 1."""
        self.unread.append(_Result(loss, correct, batch, lr))

    def must_be_read(self, device: torch.device) -> bool:
        """Whether it is time for `collect`."""
        return device.type == "cpu" or len(self.unread) >= CHECK_LOSS_EVERY

    def collect(self, progress: Progress, *, scaled: bool) -> None:
        """Read the results and add them to the epoch's sums.

        Args:
            progress: holds the sums.
            scaled: a gradient scaler is at work, so that a few losses may be infinite.

        Raises:
            LossNotFiniteError: more losses in a row than may be.
        """
        if not self.unread:
            return
        results, self.unread = self.unread, []
        losses = torch.stack([result.loss for result in results]).cpu().double()
        progress.correct += int(torch.stack([result.correct for result in results]).sum())
        finite = torch.isfinite(losses)
        allowed = MOST_SKIPPED if scaled else 0
        for result, is_finite in zip(results, finite.tolist(), strict=True):
            self.bad_in_a_row = 0 if is_finite else self.bad_in_a_row + 1
            if self.bad_in_a_row > allowed:
                raise LossNotFiniteError(result.batch, result.lr)
        progress.loss_sum += float(losses[finite].sum())
