"""Which runs a call of `ferdeploy train` makes: names and options in, recipes with run names and seeds out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_deploy.ensemble import member_runs
from fer_deploy.errors import RecipeError
from fer_deploy.recipes import Recipe, apply_settings, load_recipe
from fer_deploy.study import STUDY_ENSEMBLES, STUDY_VARIANTS
from fer_deploy.training.stages import share_budget
from fer_deploy.training.teachers import require_teachers

DEFAULT_VARIANTS = ("B", "E")
"""What `ferdeploy train` trains when it is given no name: the pair that the study deployed."""

_MEMBERS = {member for ensemble in STUDY_ENSEMBLES.values() for member in ensemble.members}

WHOLE_TABLE = tuple(sorted(STUDY_VARIANTS, key=lambda name: (name not in _MEMBERS, STUDY_VARIANTS[name].gflops)))
"""What `all` trains: the study's eleven networks, its ensembles' members first, then from the cheapest on."""


@dataclass(frozen=True)
class PlannedRun:
    """One run to make."""

    name: str
    """The run's folder below `training/`."""
    recipe: Recipe
    """With the budget shared out and every change made."""
    seed: int

    @property
    def epochs(self) -> int:
        """Most epochs over all stages."""
        return sum(stage.length for stage in self.recipe.stages)


def plan_runs(
    names: Sequence[str],
    *,
    workspace: Path,
    initialisation: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    changes: Sequence[str] = (),
    run_name: str | None = None,
    seed: int = 0,
    seeds: int | None = None,
) -> list[PlannedRun]:
    """Resolve names and options into runs; nothing is loaded or written.

    Raises:
        RecipeError: a name, change or combination cannot be meant.
        RunError: a recipe's teacher has not been trained and is not to be trained before it.
    """
    wanted = list(names) or list(DEFAULT_VARIANTS)
    if "all" in wanted:
        place = wanted.index("all")
        wanted[place : place + 1] = WHOLE_TABLE
    settings = list(changes)
    if batch_size is not None:
        settings.append(f"stage.*.batch_size={batch_size}")
    recipes = []
    for name in wanted:
        recipe = load_recipe(name, workspace=workspace)
        if settings:
            recipe = apply_settings(recipe, settings)
        if initialisation is not None:
            recipe = dataclasses.replace(recipe, initialisation=initialisation)
        recipes.append(share_budget(recipe, epochs))
    if run_name is not None:
        if len(recipes) > 1:
            raise RecipeError(f"--name {run_name}: names one run, and {len(recipes)} variants are to be trained")
        try:
            dataclasses.replace(recipes[0], name=run_name)
        except ValueError as error:
            raise RecipeError(f"--name {run_name!r}: {error}") from error
    planned = []
    for recipe in recipes:
        name = run_name or recipe.name
        if seeds is None:
            planned.append(PlannedRun(name, recipe, seed))
        else:
            planned += [PlannedRun(f"{name}.seed{each}", recipe, each) for each in range(seed, seed + seeds)]
    seen: set[str] = set()
    for run in planned:
        if run.name in seen:
            raise RecipeError(f"run {run.name!r} is named twice")
        if run.recipe.distillation is not None:
            missing = [teacher for teacher in member_runs(run.recipe.distillation.teachers) if teacher not in seen]
            if missing:
                require_teachers(dataclasses.replace(run.recipe.distillation, teachers=tuple(missing)), workspace)
        seen.add(run.name)
    return planned
