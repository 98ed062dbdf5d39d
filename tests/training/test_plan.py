"""Names and options become runs; what makes no sense is refused before anything is loaded."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from fer_deploy.errors import RecipeError, RunError
from fer_deploy.recipes import load_recipe, recipe_to_dict
from fer_deploy.training.plan import WHOLE_TABLE, plan_runs
from fer_deploy.training.request import TrainingRequest
from fer_deploy.training.stages import share_budget


def test_no_name_means_b_and_e(tmp_path: Path) -> None:
    assert [run.name for run in plan_runs((), workspace=tmp_path)] == ["B", "E"]


def test_all_means_the_whole_table(tmp_path: Path) -> None:
    assert [run.name for run in plan_runs(("all",), workspace=tmp_path)] == list(WHOLE_TABLE)


def test_seeds_make_runs_of_their_own(tmp_path: Path) -> None:
    planned = plan_runs(("B",), workspace=tmp_path, request=TrainingRequest(seeds=3, seed=5))
    assert [(run.name, run.seed) for run in planned] == [("B.seed5", 5), ("B.seed6", 6), ("B.seed7", 7)]


def test_options_change_the_recipe(tmp_path: Path) -> None:
    request = TrainingRequest(batch_size=32, initialisation="xavier", changes=("stage.0.clip=9",), run_name="mine")
    (run,) = plan_runs(("E",), workspace=tmp_path, request=request)
    assert run.name == "mine"
    assert {stage.batch_size for stage in run.recipe.stages} == {32}
    assert (run.recipe.initialisation, run.recipe.stages[0].clip) == ("xavier", 9.0)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("F",), {}, "no variant 'F'"),
        (("B", "B"), {}, "named twice"),
        (("B", "E"), {"run_name": "x"}, "names one run, but 2"),
        (("B",), {"run_name": "../x"}, r"--name '\.\./x': name: letters"),
        (("B",), {"run_name": ""}, "--name ''"),
        (("B",), {"epochs": 2}, "less than one epoch for each of 3 stages"),
    ],
)
def test_senseless_requests_are_refused(
    names: tuple[str, ...], options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        plan_runs(names, workspace=tmp_path, request=TrainingRequest(**options))  # type: ignore[arg-type]


def test_a_missing_teacher_is_reported_before_training(tmp_path: Path) -> None:
    path = tmp_path / "student.toml"
    path.write_text(
        'name = "student"\ntitle = "t"\nnetwork = { name = "plain" }\n'
        'distillation = { teachers = ["B"] }\n[[stage]]\nepochs = 1\n'
    )
    with pytest.raises(RunError, match=r"teacher 'B': .*there is no run here: train it with `ferdeploy train B`"):
        plan_runs((str(path),), workspace=tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace('"B"', '"B-long"'), encoding="utf-8")
    with pytest.raises(RunError, match=r"teacher 'B-long': .*training/B-long: there is no run here, and no variant"):
        plan_runs((str(path),), workspace=tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace('"B-long"', '"B"'), encoding="utf-8")
    assert [run.name for run in plan_runs(("B", str(path)), workspace=tmp_path)] == [
        "B",
        "student",
    ]  # trained before it


@pytest.mark.parametrize("budget", [3, 10, 20, 102, 400])
def test_a_budget_is_shared_as_the_stages_ran(budget: int) -> None:
    recipe = load_recipe("B")  # 34, 45 and 23 epochs
    given = [stage.epochs for stage in share_budget(recipe, budget).stages]
    assert sum(given) == budget
    assert min(given) >= 1
    if budget >= 20:
        assert all(abs(got - budget * ran / 102) <= 1 for got, ran in zip(given, (34, 45, 23), strict=True))
    assert share_budget(recipe, None) is recipe


def write_recipe(folder: Path, name: str, *, teachers: tuple[str, ...] = (), initialisation: str = "default") -> None:
    """A recipe in a workspace's own folder of recipes."""
    folder.joinpath("training/recipes").mkdir(parents=True, exist_ok=True)
    distillation = f"distillation = {{ teachers = {json.dumps(teachers)} }}\n" if teachers else ""
    folder.joinpath(f"training/recipes/{name}.toml").write_text(
        f'name = "{name}"\ntitle = "t"\ninitialisation = "{initialisation}"\nnetwork = {{ name = "plain" }}\n'
        f"{distillation}[[stage]]\nepochs = 1\n"
    )


def write_record(folder: Path, name: str, *, status: str = "complete", seed: int = 0) -> None:
    record = {
        "format": 1, "status": status, "seed": seed, "weights_sha256": "0" * 64, "epochs_run": 1,
        "recipe": recipe_to_dict(dataclasses.replace(load_recipe("plain"), name="other")),
    }  # fmt: skip
    folder.joinpath("training", name).mkdir(parents=True, exist_ok=True)
    folder.joinpath("training", name, "run.json").write_text(json.dumps(record))


WITH_TEACHERS = TrainingRequest(with_teachers=True)


def test_with_teachers_everything_that_a_run_needs_comes_before_it(tmp_path: Path) -> None:
    """Teachers, their teachers, runs whose weights are started from, repeats under another seed; each once."""
    write_recipe(tmp_path, "base")
    write_recipe(tmp_path, "teacher", initialisation="training/base/weights.safetensors")
    write_recipe(tmp_path, "other", teachers=("base",))
    write_recipe(tmp_path, "student", teachers=("teacher~mirror", "other.seed3", "other.1"))
    plan = plan_runs(("student",), workspace=tmp_path, request=WITH_TEACHERS)
    assert [(run.name, run.recipe.name, run.seed) for run in plan] == [
        ("base", "base", 0), ("teacher", "teacher", 0), ("other.seed3", "other", 3), ("other.1", "other", 1),
        ("student", "student", 0),
    ]  # fmt: skip
    named = plan_runs(("student", "other", "base"), workspace=tmp_path, request=WITH_TEACHERS)
    assert [run.name for run in named] == ["base", "teacher", "other.seed3", "other.1", "student", "other"]


def test_complete_dependencies_are_left_out_and_interrupted_ones_resume_as_recorded(tmp_path: Path) -> None:
    write_recipe(tmp_path, "base")
    write_recipe(tmp_path, "teacher", teachers=("base",))
    write_recipe(tmp_path, "student", teachers=("teacher", "second"))
    write_record(tmp_path, "teacher")
    write_record(tmp_path, "second", status="training", seed=5)
    plan = plan_runs(("student",), workspace=tmp_path, request=WITH_TEACHERS)
    assert [(run.name, run.recipe.name, run.seed) for run in plan] == [
        ("second", "other", 5),
        ("student", "student", 0),
    ]


def test_changes_apply_to_the_named_run_alone(tmp_path: Path) -> None:
    write_recipe(tmp_path, "teacher")
    write_recipe(tmp_path, "student", teachers=("teacher",))
    request = TrainingRequest(with_teachers=True, epochs=3, batch_size=8, run_name="mine", seed=4)
    teacher, mine = plan_runs(("student",), workspace=tmp_path, request=request)
    assert (teacher.name, teacher.epochs, teacher.recipe.stages[0].batch_size, teacher.seed) == ("teacher", 1, 128, 0)
    assert (mine.name, mine.epochs, mine.recipe.stages[0].batch_size, mine.seed) == ("mine", 3, 8, 4)


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ({"a": ("a",)}, "a: it depends on itself: a needs a: change"),
        ({"a": ("b",), "b": ("c",), "c": ("b",)}, "b: it depends on itself: b needs c needs b"),
        (
            {"a": ("b",), "b": ("absent.seed1",)},
            "b depends on run 'absent.seed1', which cannot be trained: there is no",
        ),
    ],
)
def test_circles_and_missing_recipes_are_one_error(
    teachers: dict[str, tuple[str, ...]], message: str, tmp_path: Path
) -> None:
    for name, needed in teachers.items():
        write_recipe(tmp_path, name, teachers=needed)
    with pytest.raises(RecipeError, match=message):
        plan_runs(("a",), workspace=tmp_path, request=WITH_TEACHERS)


def test_a_missing_start_is_reported_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path, "student", initialisation="training/plain/weights.safetensors")
    message = "initial weights of run 'plain': .*train it with `ferdeploy train plain`; --with-teachers trains all"
    with pytest.raises(RunError, match=message):
        plan_runs(("student",), workspace=tmp_path)
    (tmp_path / "training/plain").mkdir()
    (tmp_path / "training/plain/weights.safetensors").touch()  # a stopped run's
    assert [run.name for run in plan_runs(("student",), workspace=tmp_path)] == ["student"]
