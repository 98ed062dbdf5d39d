"""Which runs a call of `ferdeploy train` makes, in which order: names and a request in, recipes with run names out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fer_deploy.ensemble import member_runs
from fer_deploy.errors import RecipeError, RunError
from fer_deploy.labels import LabelMap
from fer_deploy.recipes import Recipe, apply_settings, load_recipe
from fer_deploy.study import STUDY_ENSEMBLES, STUDY_VARIANTS
from fer_deploy.training.record import read_record, recorded_recipe, required
from fer_deploy.training.request import TrainingRequest
from fer_deploy.training.run import Run, find_weights, is_complete_run
from fer_deploy.training.stages import share_budget

DEFAULT_VARIANTS = ("B", "E")
"""What `ferdeploy train` trains without a name: the pair that the study deployed."""

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

    def depends_on(self) -> tuple[str, ...]:
        """The runs that must be complete before: its teachers', and the one whose weights it starts from."""
        teachers = member_runs(self.recipe.distillation.teachers) if self.recipe.distillation else ()
        match PurePosixPath(self.recipe.initialisation).parts:
            case ("training", name, "weights.safetensors"):
                return tuple(dict.fromkeys((*teachers, name)))
        return teachers


def plan_runs(names: Sequence[str], *, workspace: Path, request: TrainingRequest | None = None) -> list[PlannedRun]:
    """The runs to make, each after those that it depends on; nothing is loaded or written.

    Raises:
        RecipeError: a name, change or combination makes no sense, or runs depend on each other in a circle.
        RunError: a run depends on one that is neither complete nor planned before it.
    """
    request = request or TrainingRequest()
    planned = [
        PlannedRun(name, recipe, seed)
        for recipe in _recipes(names, workspace, request)
        for name, seed in _names_and_seeds(request.run_name or recipe.name, request)
    ]
    twice = [run.name for place, run in enumerate(planned) if run.name in {other.name for other in planned[:place]}]
    if twice:
        raise RecipeError(f"run {twice[0]!r} is named twice")
    if request.with_teachers:
        return _with_dependencies(planned, workspace)
    for place, run in enumerate(planned):
        before = {other.name for other in planned[:place]}
        for name in run.depends_on():
            if name not in before:
                _require(name, run, workspace)
    return planned


def labels_of_plan(plan: Sequence[PlannedRun], given: LabelMap | None) -> LabelMap | None:
    """How the data's labels are read for a plan: by its recipes and `--labels` together.

    Runs that others of the plan depend on may name neither classes nor a map: they are trained on the same labels.

    Args:
        plan: the runs, which share the data.
        given: `--labels`.

    Raises:
        RecipeError: recipes want different labels, or one of them contradicts `--labels`.
    """
    dependencies = {name for run in plan for name in run.depends_on()}
    maps = [(run, run.recipe.data_labels()) for run in plan]
    stated = [(run, wanted) for run, wanted in maps if wanted is not None or run.name not in dependencies]
    for run, wanted in stated[1:]:
        if wanted != stated[0][1]:
            raise RecipeError(
                f"{stated[0][0].name} and {run.name} read the data's labels differently (classes, label_map): train "
                "each in a call of its own"
            )
    wanted = stated[0][1] if stated else None
    if wanted is None or given is None:
        return wanted or given
    for what, ours, theirs in (
        ("numbering", wanted.numbering, given.numbering), ("classes", wanted.classes, given.classes)
    ):  # fmt: skip
        if ours and theirs and ours != theirs:
            raise RecipeError(f"--labels {given}: {stated[0][0].name} has other {what} ({wanted}): keep one of the two")
    try:
        return LabelMap(
            wanted.numbering or given.numbering,
            tuple(dict.fromkeys((*wanted.pairs, *given.pairs))),
            wanted.classes or given.classes,
        )
    except ValueError as error:
        raise RecipeError(f"--labels {given} with {stated[0][0].name} ({wanted}): {error}") from error


def _recipes(names: Sequence[str], workspace: Path, request: TrainingRequest) -> list[Recipe]:
    """The recipes of the names, changed as requested."""
    wanted = list(names) or list(DEFAULT_VARIANTS)
    if "all" in wanted:
        place = wanted.index("all")
        wanted[place : place + 1] = WHOLE_TABLE
    settings = list(request.changes)
    if request.batch_size is not None:
        settings.append(f"stage.*.batch_size={request.batch_size}")
    recipes = []
    for name in wanted:
        recipe = load_recipe(name, workspace=workspace)
        if settings:
            recipe = apply_settings(recipe, settings)
        if request.initialisation is not None:
            recipe = dataclasses.replace(recipe, initialisation=request.initialisation)
        recipes.append(share_budget(recipe, request.epochs))
    if request.run_name is not None:
        if len(recipes) > 1:
            raise RecipeError(f"--name {request.run_name}: names one run, but {len(recipes)} recipes are to be trained")
        try:
            dataclasses.replace(recipes[0], name=request.run_name)
        except ValueError as error:
            raise RecipeError(f"--name {request.run_name!r}: {error}") from error
    return recipes


def _names_and_seeds(name: str, request: TrainingRequest) -> list[tuple[str, int]]:
    if request.seeds is None:
        return [(name, request.seed)]
    return [(f"{name}.seed{seed}", seed) for seed in range(request.seed, request.seed + request.seeds)]


def _require(name: str, student: PlannedRun, workspace: Path) -> None:
    """Check that a run which another one depends on is there: RunError if not."""
    folder = workspace / "training" / name
    is_teacher = student.recipe.distillation and name in member_runs(student.recipe.distillation.teachers)
    if not is_teacher and Path(find_weights(student.recipe.initialisation, workspace)).exists():
        return  # a stopped run's weights can be started from too
    try:
        Run.open(folder)
    except RunError as error:
        role = "teacher" if is_teacher else "initial weights of run"
        raise RunError(f"{role} {name!r}: {error}; --with-teachers trains all that is missing") from error


def _with_dependencies(runs: Sequence[PlannedRun], workspace: Path) -> list[PlannedRun]:
    """The runs and all incomplete ones that they depend on, each after its own dependencies."""
    named = {run.name: run for run in runs}
    ordered: dict[str, PlannedRun] = {}

    def add(run: PlannedRun, students: tuple[str, ...]) -> None:
        if run.name in students:
            circle = " needs ".join((*students[students.index(run.name) :], run.name))
            raise RecipeError(f"{run.name}: it depends on itself: {circle}: change one of these recipes")
        if run.name in ordered:
            return
        for name in run.depends_on():
            if name in named or not is_complete_run(workspace / "training" / name):
                add(named.get(name) or _plan_dependency(name, run, workspace), (*students, run.name))
        ordered[run.name] = run

    for run in runs:
        add(run, ())
    return list(ordered.values())


def _plan_dependency(name: str, student: PlannedRun, workspace: Path) -> PlannedRun:
    """The run of a name that another one depends on.

    An interrupted run is resumed as its record describes it. A name such as `B.seed2` or `B.2` without a recipe is
    recipe B with seed 2.
    """
    path = workspace / "training" / name / "run.json"
    if path.exists():
        record = read_record(path)
        return PlannedRun(name, recorded_recipe(record, path), required(record, "seed", path))
    try:
        return PlannedRun(name, load_recipe(name, workspace=workspace), 0)
    except RecipeError as error:
        repeat = re.fullmatch(r"(.+)\.(?:seed)?(\d{1,9})", name)
        if repeat is not None:
            try:
                return PlannedRun(name, load_recipe(repeat[1], workspace=workspace), int(repeat[2]))
            except RecipeError:
                pass
        raise RecipeError(f"{student.name} depends on run {name!r}, which cannot be trained: {error}") from error
