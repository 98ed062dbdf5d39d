"""`--log tensorboard`: a run's figures for TensorBoard, in `training/<name>/tensorboard/`.

It is a watcher like any other, see `fer_deploy.training.watcher`. Look at the runs of a workspace with
`tensorboard --logdir training`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fer_deploy.errors import UnavailableError, install
from fer_deploy.recipes import Recipe
from fer_deploy.recipes.write import recipe_to_toml
from fer_deploy.training.curves import draw_curves
from fer_deploy.training.watcher import EpochRow, Silent

FOLDER = "tensorboard"
"""Below the run's folder."""


def event_writer() -> Any:
    """PyTorch's SummaryWriter class. UnavailableError if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UnavailableError(f"--log tensorboard: TensorBoard is not installed: {install('tensorboard')}") from error
    return SummaryWriter


class TensorBoardLog(Silent):
    """Writes each epoch's losses, accuracies, macro-F1, learning rate and speed, and at the end the curves."""

    def __init__(self, folder: Path) -> None:
        """Log the run of a folder. UnavailableError if TensorBoard is not installed."""
        self._folder = folder
        self._class = event_writer()
        self._writer: Any = None

    def started(self, recipe: Recipe, *, device: str, epochs_done: int) -> None:
        """Open the log, and drop what an earlier call logged of epochs that come again."""
        self._writer = self._class(str(self._folder / FOLDER), purge_step=epochs_done + 1)
        self._writer.add_text("recipe", f"    {recipe_to_toml(recipe)}".replace("\n", "\n    "), epochs_done)
        self._writer.add_text("device", device, epochs_done)

    def epoch(self, row: EpochRow, *, best: bool) -> None:  # noqa: ARG002
        """Log the epoch."""
        scalars = {
            "loss/training": row.training_loss,
            "loss/validation": row.validation_loss,
            "accuracy/training": row.training_accuracy,
            "accuracy/validation": row.validation_accuracy,
            "macro-f1/validation": row.validation_macro_f1,
            "learning rate": row.lr,
            "images per second": row.images_per_second,
        }
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()

    def ended(self, folder: Path, *, complete: bool) -> None:  # noqa: ARG002
        """Log the curves, and close the log."""
        if (folder / "history.csv").exists():
            with Image.open(draw_curves(folder)) as picture:
                self._writer.add_image("curves", np.asarray(picture.convert("RGB")), dataformats="HWC")
        self._writer.close()
