"""How a budget of epochs is divided among stages, and seeds that make every random draw a function of its place."""

from __future__ import annotations

import dataclasses
import hashlib

import torch

from fer_deploy.errors import RecipeError
from fer_deploy.recipes import Recipe, Stage


def share_budget(recipe: Recipe, budget: int | None) -> Recipe:
    """The recipe with its stages shortened or lengthened to `budget` epochs in all; unchanged if that is None.

    Each stage gets at least one epoch, and a share in proportion to its length (`Stage.length`). Its schedule then
    spans that share.

    Raises:
        RecipeError: the budget has fewer epochs than the recipe has stages.
    """
    if budget is None:
        return recipe
    stages = recipe.stages
    if budget < len(stages):
        raise RecipeError(
            f"{recipe.name}: --epochs {budget} is less than one epoch for each of {len(stages)} stages: "
            f"use at least --epochs {len(stages)}"
        )
    wanted = [stage.length for stage in stages]
    exact = [budget * epochs / sum(wanted) for epochs in wanted]
    given = [max(1, int(epochs)) for epochs in exact]
    while sum(given) > budget:
        given[max(range(len(given)), key=lambda i: given[i] - exact[i] if given[i] > 1 else -1.0)] -= 1
    while sum(given) < budget:
        given[max(range(len(given)), key=lambda i: exact[i] - given[i])] += 1
    return dataclasses.replace(recipe, stages=tuple(map(_with_epochs, stages, given)))


def _with_epochs(stage: Stage, epochs: int) -> Stage:
    """The stage at a length of `epochs`; `ran` would cut a longer one short."""
    return dataclasses.replace(stage, epochs=epochs, ran=stage.ran if stage.ran >= epochs else 0)


def seed_at(*place: int | str) -> int:
    """A 56-bit seed that is a function of `place` alone, such as (seed, stage, epoch, "order")."""
    text = " ".join(map(str, place))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


def generator_at(*place: int | str) -> torch.Generator:
    """A CPU generator seeded by `seed_at(*place)`."""
    return torch.Generator().manual_seed(seed_at(*place))
