"""What the tests of training share beside fixtures."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

import torch

from fer_deploy.recipes import (
    Loss,
)
from fer_deploy.training.losses import loss_on_targets


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stops_at(*calls: int) -> Callable[[], bool]:
    """A `should_stop` that is True at these calls, counted from 1 over all calls of `train`."""
    count = itertools.count(1)
    return lambda: next(count) in calls


class BadLoss:
    """Stands for `loss_on_targets` and spoils one of its answers, by a factor or with an error."""

    def __init__(self, at: int, spoil: float | Exception) -> None:
        self.at, self.spoil, self.calls = at, spoil, 0

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor, loss: Loss) -> torch.Tensor:
        self.calls += 1
        value = loss_on_targets(logits, targets, loss)
        if self.calls != self.at:
            return value
        if isinstance(self.spoil, Exception):
            raise self.spoil
        return value * self.spoil
