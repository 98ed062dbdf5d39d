"""What a call of `ferdeploy train` may request. It imports nothing heavy: the command's options are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingRequest:
    """Changes to the recipes, and how the runs are made."""

    initialisation: str | None = None
    """Initial weights: imagenet, xavier, default, or a .safetensors file. Default: the recipe's."""
    epochs: int | None = None
    """Budget of epochs over all stages of a recipe. Default: the recipe's."""
    batch_size: int | None = None
    """Faces per step, in all stages. Default: the recipe's."""
    changes: tuple[str, ...] = ()
    """Change one value of the recipe, such as stage.0.optimiser.lr=1e-3. Repeatable."""
    run_name: str | None = None
    """Name of the run's folder. Default: the recipe's name."""
    share: float = 1.0
    """Train on a random share of the training faces, such as 0.25, to see the effect of more data."""
    seed: int = 0
    """Seed of every random draw."""
    seeds: int | None = None
    """Train N repeats with seeds from --seed on, and report mean and spread."""
    with_teachers: bool = False
    """First train the runs that the named ones depend on: their teachers, and the runs whose weights they start from.
    Complete runs are kept. Options that change a recipe apply to the named runs alone."""
    time_limit: float | None = None
    """Stop, saved, within this time: 90s, 9m, 1h30m."""
    at_once: int = 1
    """Train N runs at the same time on the device, each in its own process. For small networks on a large GPU."""
    log: Literal["tensorboard"] | None = None
    """Also log each run for TensorBoard, in training/NAME/tensorboard. Needs the extra `tensorboard`."""
