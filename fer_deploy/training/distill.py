"""Soft targets: what the teachers of a recipe say about training faces, asked once where views come round again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fer_deploy.errors import RunError
from fer_deploy.files import replacing
from fer_deploy.models.fold import fold
from fer_deploy.recipes import Augmentation, Distillation, list_recipes
from fer_deploy.training.augment import draw_views, mirrored, render
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
        precision: torch.dtype = torch.float32,
    ) -> None:
        """Open the teachers' runs.

        Raises:
            RunError: a teacher's run is missing or unfinished; names the commands that mend it.
        """
        self.distillation = distillation
        self._runs: Sequence[Run] = [Run.open(workspace / "training" / name) for name in distillation.teachers]
        # folded, they answer one and a half times as fast (Lite0 at 96 pixels, bfloat16: 325 to 495 faces/s a thread)
        self._networks = [
            fold(run.network()).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload,unused-ignore]
            for run in self._runs
        ]
        self._device = device
        self._precision = precision
        self._folder = workspace / "training" / ".soft_targets"

    @property
    def fingerprint(self) -> str:
        """Changes when any teacher's weights do."""
        joined = " ".join(run.weights_sha256 for run in self._runs)
        return hashlib.sha256(joined.encode()).hexdigest()

    @torch.no_grad()
    def answer(self, images: torch.Tensor, views: torch.Tensor | None, augmentation: Augmentation) -> torch.Tensor:
        """Probabilities for uint8 (n, 48, 48) faces in the given views (None: plain), float32 (n, 7), on the device."""
        total = torch.zeros(len(images), 7, device=self._device)
        mixed = self._precision != torch.float32
        for run, network in zip(self._runs, self._networks, strict=True):
            faces = render(images, views, augmentation, size=run.input_size)
            with torch.autocast(self._device.type, self._precision, enabled=mixed):
                logits = network(faces.contiguous(memory_format=torch.channels_last))
            total += torch.softmax(logits.float(), 1)
        return total / len(self._networks)

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
        data_sha256: str,
        told: Callable[[str], None],
        between: Callable[[], None] = lambda: None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The views that an epoch must show, and what the teachers say of them.

        Args:
            images: uint8 (n, 48, 48), all training faces, on the device.
            augmentation: the stage's.
            epoch: counted over all stages.
            data_sha256: the data set's hash, part of the kept answers' key.
            told: is given one line when the teachers have to be asked.
            between: is called between their batches; what it raises ends the asking.

        Returns:
            Views float32 (n, columns) on the CPU, or None where the student draws its own; and the teachers'
            probabilities float32 (n, 7) on the device, or None where they are asked batch by batch.
        """
        kind = self.distillation.view
        if kind == "same":
            return None, None
        again, turn = divmod(epoch, self.distillation.views)
        views = None
        if kind == "cached":
            views = draw_views(augmentation, len(images), generator=self._generator(turn))
            if again % 2 and augmentation.flip:
                views = mirrored(views)
        key = {
            "teachers": self.fingerprint,
            "data": data_sha256,
            "view": f"{turn}, drawn by teachers" if kind == "cached" else "plain",
            "augmentation": dataclasses.asdict(augmentation) if kind == "cached" else None,
            "precision": str(self._precision),
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        path = self._folder / f"{digest[:24]}.safetensors"
        if path.exists():
            try:
                kept = load_file(path)["probabilities"]
                if kept.shape == (len(images), 7):
                    return views, kept.float().to(self._device)
            except (SafetensorError, KeyError, OSError):
                told(f"{path}: damaged, asking the teachers again")
        told(f"asking {len(self._runs)} teachers about view {turn + 1} of {self.distillation.views}")
        parts = []
        for start in range(0, len(images), TEACHER_BATCH):
            part = slice(start, start + TEACHER_BATCH)
            shown = views[part].to(self._device) if views is not None else None
            parts.append(self.answer(images[part], shown, augmentation))
            between()
        answers = torch.cat(parts)
        with replacing(path) as temporary:
            save_file({"probabilities": answers.half().cpu().contiguous()}, temporary)
        return views, answers.half().float()


def require_teachers(distillation: Distillation, workspace: Path) -> None:
    """Check, before any weight is loaded, that the teachers' runs are complete.

    Raises:
        RunError: one is not.
    """
    for name in distillation.teachers:
        if not (workspace / "training" / name / "run.json").exists():
            known = name in list_recipes()
            how = f"`ferdeploy train {name}` first" if known else f"train it first, into training/{name}"
            raise RunError(f"teacher {name!r} has not been trained: {how}")
        Run.open(workspace / "training" / name)
