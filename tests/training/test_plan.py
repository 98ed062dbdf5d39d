"""Names and options become runs; what cannot be meant is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from fer_deploy.errors import RecipeError, RunError
from fer_deploy.recipes import load_recipe
from fer_deploy.training.plan import WHOLE_TABLE, plan_runs
from fer_deploy.training.stages import share_budget


def test_no_name_means_b_and_e(tmp_path: Path) -> None:
    assert [run.name for run in plan_runs((), workspace=tmp_path)] == ["B", "E"]


def test_all_means_the_whole_table(tmp_path: Path) -> None:
    assert [run.name for run in plan_runs(("all",), workspace=tmp_path)] == list(WHOLE_TABLE)


def test_seeds_make_runs_of_their_own(tmp_path: Path) -> None:
    planned = plan_runs(("B",), workspace=tmp_path, seeds=3, seed=5)
    assert [(run.name, run.seed) for run in planned] == [("B.seed5", 5), ("B.seed6", 6), ("B.seed7", 7)]


def test_options_change_the_recipe(tmp_path: Path) -> None:
    (run,) = plan_runs(
        ("E",), workspace=tmp_path, batch_size=32, initialisation="xavier", changes=["stage.0.clip=9"], run_name="mine"
    )
    assert run.name == "mine"
    assert {stage.batch_size for stage in run.recipe.stages} == {32}
    assert (run.recipe.initialisation, run.recipe.stages[0].clip) == ("xavier", 9.0)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("F",), {}, "no variant 'F'"),
        (("B", "B"), {}, "named twice"),
        (("B", "E"), {"run_name": "x"}, "names one run, and 2"),
        (("B",), {"run_name": "../x"}, r"--name '\.\./x': name: letters"),
        (("B",), {"run_name": ""}, "--name ''"),
        (("B",), {"epochs": 2}, "less than one epoch for each of 3 stages"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    names: tuple[str, ...], options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        plan_runs(names, workspace=tmp_path, **options)  # type: ignore[arg-type]


def test_a_missing_teacher_is_told_before_training(tmp_path: Path) -> None:
    path = tmp_path / "pupil.toml"
    path.write_text(
        'name = "pupil"\ntitle = "t"\nnetwork = { name = "plain" }\n'
        'distillation = { teachers = ["B"] }\n[[stage]]\nepochs = 1\n'
    )
    with pytest.raises(RunError, match=r"teacher 'B': .*there is no run here: train it with `ferdeploy train B`"):
        plan_runs((str(path),), workspace=tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace('"B"', '"B-long"'), encoding="utf-8")
    with pytest.raises(RunError, match=r"teacher 'B-long': .*training/B-long: there is no run here, and no variant"):
        plan_runs((str(path),), workspace=tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace('"B-long"', '"B"'), encoding="utf-8")
    assert [run.name for run in plan_runs(("B", str(path)), workspace=tmp_path)] == ["B", "pupil"]  # trained before it


@pytest.mark.parametrize("budget", [3, 10, 20, 102, 400])
def test_a_budget_is_shared_as_the_stages_ran(budget: int) -> None:
    recipe = load_recipe("B")  # 34, 45 and 23 epochs
    given = [stage.epochs for stage in share_budget(recipe, budget).stages]
    assert sum(given) == budget
    assert min(given) >= 1
    if budget >= 20:
        assert all(abs(got - budget * ran / 102) <= 1 for got, ran in zip(given, (34, 45, 23), strict=True))
    assert share_budget(recipe, None) is recipe
