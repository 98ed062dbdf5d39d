"""Recipes: every one of the package loads and says the study's figures; every wrong one gets one clear line."""

from __future__ import annotations

import dataclasses
import os
import runpy
import typing
from pathlib import Path

import pytest

from fer_deploy.errors import RecipeError
from fer_deploy.recipes import (
    Augmentation,
    Distillation,
    Loss,
    Mixing,
    Network,
    Optimiser,
    Recipe,
    Schedule,
    Stage,
    apply_settings,
    list_experiments,
    list_recipes,
    load_recipe,
    parse_recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from fer_deploy.recipes.load import RELEASED, field_documentation
from fer_deploy.recipes.write import recipe_to_toml
from fer_deploy.study import STUDY_VARIANTS

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = 'name = "mine"\ntitle = "t"\nnetwork = { name = "plain" }\n[[stage]]\nepochs = 2\n'
LONG = "k" * 10_000
TAUGHT = 'distillation = { teachers = ["a"], view = "cached", mixup_alpha = 1.0 }\n' + MINIMAL

# optimiser lr, betas, decay; schedule; clip, most epochs, patience, epochs run: the study's published notebook.
ONE_CYCLE_A = ("one-cycle", 0.1, 10, 1e3)
STUDY_STAGES: dict[str, list[tuple[object, ...]]] = {
    "baseline": [(1e-3, (0.9, 0.999), 0.0, ("constant",), 0.0, 10, 0, 10)],
    "resemotenet": [(1e-3, (0.9, 0.999), 1e-4, ("constant",), 0.0, 80, 15, 72)],
    "vgg19": [(1e-3, (0.9, 0.999), 1e-4, ("constant",), 0.0, 100, 20, 100)],
    "efficientnet-b1": [(3e-3, (0.9, 0.9995), 0.05, ("one-cycle", 0.1, 25, 1e4), 1.0, 120, 20, 110)],
    "mobilenetv3-large": [(3e-3, (0.9, 0.9995), 0.05, ("one-cycle", 0.05, 25, 1e6), 0.5, 120, 20, 23)],
    "efficientnetv2-s": [
        (1e-3, (0.9, 0.95), 0.05, ("one-cycle", 0.05, 10, 1e3), 1.0, 100, 10, 37),
        (5e-4, (0.9, 0.99), 0.02, ("one-cycle", 0.1, 5, 100), 0.5, 50, 15, 23),
        (1e-4, (0.9, 0.999), 0.05, ("one-cycle", 0.2, 10, 1e3), 0.3, 80, 20, 80),
    ],
    "A": [
        (1e-2, (0.9, 0.999), 0.1, ONE_CYCLE_A, 2.0, 300, 20, 71),
        (1e-4, (0.9, 0.99), 0.05, ("plateau", 0.5, 5, 1e-7), 1.0, 150, 20, 29),
        (5e-5, (0.9, 0.999), 0.025, ("plateau", 0.2, 8, 5e-8), 0.5, 100, 25, 71),
        (1e-3, (0.95, 0.999), 0.03, ("one-cycle", 0.35, 20, 1e3), 1.0, 200, 25, 54),
        (1e-3, (0.95, 0.999), 0.03, ("one-cycle", 0.35, 20, 1e3), 1.0, 200, 25, 37),
    ],
    "B": [
        (1e-2, (0.9, 0.999), 0.1, ONE_CYCLE_A, 2.0, 300, 20, 34),
        (1e-4, (0.9, 0.99), 0.05, ("plateau", 0.5, 5, 1e-7), 1.0, 150, 20, 45),
        (5e-5, (0.9, 0.99), 0.05, ("plateau", 0.5, 5, 1e-7), 1.0, 150, 20, 23),
    ],
    "C": [
        (1e-2, (0.9, 0.999), 0.1, ONE_CYCLE_A, 2.0, 300, 20, 57),
        (5e-5, (0.9, 0.99), 0.05, ("plateau", 0.5, 5, 1e-7), 1.0, 150, 20, 69),
    ],
    "D": [
        (1e-2, (0.9, 0.999), 0.1, ONE_CYCLE_A, 2.0, 300, 20, 34),
        (5e-5, (0.9, 0.99), 0.05, ("plateau", 0.5, 5, 1e-7), 1.0, 150, 20, 49),
    ],
    "E": [
        (1e-2, (0.9, 0.999), 0.1, ONE_CYCLE_A, 2.0, 300, 20, 29),
        (5e-5, (0.9, 0.99), 0.05, ("plateau", 0.5, 5, 1e-7), 1.0, 150, 20, 58),
    ],
}
INITIALISATION = {
    "baseline": "default",
    **dict.fromkeys(("resemotenet", "vgg19", "efficientnet-b1", "mobilenetv3-large"), "xavier"),
}
LOSSES = {
    "A": [("cross-entropy", 0.0)] * 3 + [("focal", 0.15)] * 2,
    "B": [("cross-entropy", 0.0), ("cross-entropy", 0.0), ("cross-entropy", 0.05)],
    "E": [("cross-entropy", 0.1), ("cross-entropy", 0.05)],
}


def _schedule(schedule: Schedule) -> tuple[object, ...]:
    if schedule.name == "one-cycle":
        assert schedule.cycle_momentum  # the notebook left PyTorch's default on
        return (schedule.name, schedule.warm_up, schedule.start_divisor, schedule.final_divisor)
    if schedule.name == "plateau":
        return (schedule.name, schedule.factor, schedule.patience, schedule.floor)
    return (schedule.name,)


def test_the_study_is_whole() -> None:
    assert set(STUDY_STAGES) == set(STUDY_VARIANTS)
    assert list_recipes()[: len(STUDY_VARIANTS)] == tuple(STUDY_VARIANTS)


@pytest.mark.parametrize("name", STUDY_VARIANTS)
def test_stages_are_the_studys(name: str) -> None:
    recipe = load_recipe(name)
    told = [
        (
            stage.optimiser.lr, stage.optimiser.betas, stage.optimiser.weight_decay, _schedule(stage.schedule),
            stage.clip, stage.epochs, stage.patience, stage.ran,
        )
        for stage in recipe.stages
    ]  # fmt: skip
    assert told == STUDY_STAGES[name]
    assert recipe.initialisation == INITIALISATION.get(name, "imagenet")
    assert {stage.batch_size for stage in recipe.stages} == ({64} if name == "E" else {400})
    losses = [(stage.loss.name, stage.loss.smoothing) for stage in recipe.stages]
    assert losses == LOSSES.get(name, [("cross-entropy", 0.0)] * len(recipe.stages))
    everything = name in ("baseline", "resemotenet", "vgg19")
    assert {stage.optimiser.decay for stage in recipe.stages} == {"all" if everything else "matrices"}
    # bfloat16 where the device has it, in place of the notebook's float16 on CUDA
    assert {stage.precision for stage in recipe.stages} == {"float32" if name == "baseline" else "bfloat16"}


def test_augmentations_are_the_studys() -> None:
    off = load_recipe("A").augmentation
    turned = dataclasses.replace(off, flip=0.5, crop=4, rotation=10.0, interpolation="nearest")
    assert load_recipe("vgg19").augmentation == off
    assert load_recipe("B").augmentation == turned
    assert load_recipe("C").augmentation == dataclasses.replace(turned, brightness=0.2, contrast=0.2)
    assert load_recipe("D").augmentation == dataclasses.replace(turned, cutout=0.5, cutout_area=(0.01, 0.11))
    assert load_recipe("E").augmentation == dataclasses.replace(off, flip=0.5)
    assert all(stage.mixing.mixup_alpha == 0.4 and stage.mixing.cutmix_alpha == 0 for stage in load_recipe("E").stages)
    focal = load_recipe("A").stages[3].loss
    assert (focal.gamma, focal.class_weights) == (2.5, (1.2,) * 7)


@pytest.mark.parametrize("name", [*list_recipes(), *list_experiments(ROOT)])
def test_every_recipe_survives_the_round_trip(name: str) -> None:
    recipe = load_recipe(name, workspace=ROOT)
    assert recipe.name == name
    assert recipe_from_dict(recipe_to_dict(recipe), source="again") == recipe
    assert parse_recipe(recipe_to_toml(recipe), source="again") == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "mine.toml: not a valid recipe in TOML"),
        (MINIMAL.replace("title", "titel"), "mine.toml: unknown key 'titel': did you mean 'title'?"),
        (MINIMAL + "optimiser = { lrr = 1 }", "mine.toml: unknown key 'stage.0.optimiser.lrr': did you mean 'lr'?"),
        (MINIMAL + "optimiser = { lr = 'fast' }", "mine.toml: stage.0.optimiser.lr must be a number, got 'fast'"),
        (MINIMAL + "optimiser = { lr = nan }", "mine.toml: stage.0.optimiser.lr must be a finite number, got nan"),
        (MINIMAL + f"optimiser = {{ lr = 1{'0' * 400} }}", "stage.0.optimiser.lr must be a finite number, got one too"),
        (MINIMAL + f"patience = 1{'0' * 5000}", "mine.toml: not a valid recipe in TOML: Exceeds the limit"),
        (MINIMAL + "optimiser = { lr = -1 }", "mine.toml: stage.0.optimiser.lr: must lie in (0, 10], got -1.0"),
        (MINIMAL + "optimiser = { betas = [0.9] }", "mine.toml: stage.0.optimiser.betas needs 2 values, got 1"),
        (MINIMAL + "optimiser = { name = 'lion' }", "must be one of 'adam', 'adamw', 'sgd', got 'lion'"),
        (MINIMAL + "patience = true", "mine.toml: stage.0.patience must be a whole number, got True"),
        (MINIMAL + "loss = { class_weights = [1] }", "stage.0.loss.class_weights: needs a number for each class"),
        (MINIMAL + "loss = { class_weights = 'even' }", "stage.0.loss.class_weights must be one of 'balanced', got"),
        (MINIMAL + "loss = { class_weights = 2 }", "stage.0.loss.class_weights must be a list, got 2"),
        (MINIMAL + "sampler = 'all'", "stage.0.sampler must be one of 'shuffled', 'balanced', got 'all'"),
        ("classes = ['a']\n" + MINIMAL, "mine.toml: classes: a network has 2 to 1,000 classes, not 1"),
        ("classes = ['a', 'A']\n" + MINIMAL, "mine.toml: classes: the class 'a' is named twice"),
        ("classes = ['a', 'b']\nlabel_map = { x = 'c' }\n" + MINIMAL, "mine.toml: label_map: 'c' is none of the cl"),
        ("label_map = { x = 3 }\n" + MINIMAL, "mine.toml: label_map.x must be a string, got 3"),
        ("label_map = 7\n" + MINIMAL, "mine.toml: label_map must be a table, got 7"),
        ("label_map = 'raf-db, affectnet'\n" + MINIMAL, "mine.toml: label_map: labels 'raf-db, affectnet': several"),
        ("classes = ['a', 'b']\nlabel_map = 'a,b'\n" + MINIMAL, "mine.toml: label_map: names classes too"),
        (MINIMAL.replace("epochs = 2", ""), "mine.toml: key 'stage.0.epochs' is missing"),
        (MINIMAL.replace('"mine"', '"../mine"'), "mine.toml: name: letters, digits"),
        ('name = "x"\ntitle = "t"\nnetwork = { name = "plain" }\n', "mine.toml: key 'stage' is missing"),
        ("precise_bn = 2.0\n" + MINIMAL, "mine.toml: precise_bn: must lie in [0, 1], got 2.0"),
        (
            TAUGHT.replace("cached", "same"),
            "mixup_alpha: needs view = \"cached\"; with 'same' use the stage",
        ),
        (
            TAUGHT + "mixing = { cutmix_alpha = 1.0 }",
            "stage.0.mixing: the distillation's mixup_alpha mixes already: remove one of them",
        ),
    ],
)
def test_a_wrong_recipe_gets_one_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, source="mine.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_package_lists_the_study_then_the_released_networks_and_has_all_their_teachers() -> None:
    names = list_recipes()
    assert names[: len(STUDY_VARIANTS) + len(RELEASED)] == (*STUDY_VARIANTS, *RELEASED)
    for name in names:
        recipe = load_recipe(name)
        teachers = recipe.distillation.teachers if recipe.distillation else ()
        parents = [Path(recipe.initialisation).parts[1]] if "/weights.safetensors" in recipe.initialisation else []
        for run in (*teachers, *parents):
            stem = run.removesuffix("~mirror")
            repeat = stem.partition(".")[0]  # `.seed1`, or `.1` for a second seed
            assert repeat in names, f"{name} needs {run}"


def test_a_workspace_has_recipes_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "training" / "recipes"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text(MINIMAL)
    (folder / "plain.toml").write_text(MINIMAL.replace('"mine"', '"plain"'))
    assert list_experiments(tmp_path) == ("mine", "plain")
    assert load_recipe("mine", workspace=tmp_path).name == "mine"
    assert load_recipe("plain", workspace=tmp_path).title != "t", "the package's own recipes come first"
    with pytest.raises(RecipeError, match="no variant 'mime': did you mean 'mine'"):
        load_recipe("mime", workspace=tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load_recipe("mine").name == "mine"
    (folder / "mine.toml").write_text("name = ")
    with pytest.raises(RecipeError, match=r"training/recipes/mine.toml: not a valid recipe in TOML"):
        load_recipe("mine")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no variant 'efficientnet-b2': did you mean 'efficientnet-b1'"):
        load_recipe("efficientnet-b2")
    with pytest.raises(RecipeError, match="did you mean 'B'"):
        load_recipe("b")


def test_a_path_works_where_a_name_does(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    with pytest.raises(RecipeError, match=r"mine.toml: no such file"):
        load_recipe(path)
    path.write_text(MINIMAL)
    assert load_recipe(str(path)).stages[0].epochs == 2
    path.write_bytes(b"\xff")
    with pytest.raises(RecipeError, match="not UTF-8 text"):
        load_recipe(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_recipes_from_windows_are_read(tmp_path: Path, encoding: str, line_end: str) -> None:
    """PowerShell's `ferdeploy variants B > my.toml` writes UTF-16; editors write a byte order mark."""
    recipe = load_recipe("B")
    text = recipe_to_toml(recipe).replace("\n", line_end)
    mark = "\ufeff" if encoding.endswith("e") else ""  # the other codecs write it themselves
    path = tmp_path / "my.toml"
    path.write_bytes((mark + text).encode(encoding))
    assert load_recipe(path) == recipe


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        ("\ufeff".encode("utf-16") + b"a", "not UTF-16 text"),
        (MINIMAL.encode("utf-16-le"), "not a valid recipe"),  # without a mark: zero bytes
        (b"a = " + b"[" * 100_000, "nested too deep"),
        (b"a = " + b"{a=" * 100_000, "nested too deep"),
        (b"network.options.a = " + b"[" * 320 + b"]" * 320, "unknown key|nested too deep|is missing"),
        (f"{MINIMAL}\n[network.options]\n".encode(), "Cannot declare|not a valid recipe"),
        (b"name = " + b"1" * 10_000, "not a valid recipe"),
        (MINIMAL.replace("2", f"'{'x' * 100_000}'").encode(), "epochs must be a whole number, got 'xxx"),
        (MINIMAL.replace("epochs", "e" * 100_000).encode(), "unknown key 'stage.0.eee"),
        (MINIMAL.replace(" }", f", options = {{ {LONG} = 1979-05-27 }} }}").encode(), "must be a plain value"),
        (MINIMAL.replace(" }", f", options = {{ {LONG} = nan }} }}").encode(), "must be a finite number"),
        (MINIMAL.replace('"mine"', f"'{'n' * 10_000}'").encode(), "at most 200 characters"),
        (MINIMAL.replace('"mine"', f"'{' ' * 10_000}'").encode(), "letters, digits"),
        (MINIMAL.replace("title", '"ti\\u001btle"').encode(), "unknown key 'ti.x1btle'"),
    ],
)
def test_hostile_recipes_get_one_short_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


def test_a_named_pipe_and_a_folder_are_no_recipes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    for name, kind in (("pipe.toml", "a named pipe"), ("folder.toml", "a folder")):
        with pytest.raises(RecipeError, match=f"{kind}, not a recipe"):
            load_recipe(tmp_path / name)
    folder = tmp_path / "training" / "recipes"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "mine.toml")
    with pytest.raises(RecipeError, match="a named pipe, not a recipe"):
        load_recipe("mine", workspace=tmp_path)


@pytest.mark.parametrize("key", ["a b", "", "ü", 'q"', "a.b", "\x7f", "\n"])
def test_options_of_any_name_survive_the_round_trip(key: str) -> None:
    network = {"name": "plain", "options": {key: key}}
    content = {"name": "mine", "title": key, "network": network, "stage": [{"epochs": 1}]}
    recipe = recipe_from_dict(content, source="mine")
    assert parse_recipe(recipe_to_toml(recipe), source="again") == recipe


@pytest.mark.parametrize("content", [None, [], 5, "x" * 10_000, {"stage": 3}, {"network": []}, {1: 2}])
def test_what_is_no_recipe_at_all_gets_one_line(content: object) -> None:
    with pytest.raises(RecipeError, match=r"^run.json: ") as caught:
        recipe_from_dict(content, source="run.json")
    assert len(str(caught.value)) < 300


def test_settings_change_single_values() -> None:
    recipe = load_recipe("B")
    changed = apply_settings(
        recipe, ["stage.1.optimiser.lr=2e-4", "stage.*.clip=0.5", "initialisation=xavier", "augmentation.flip=0"]
    )
    assert changed.stages[1].optimiser.lr == 2e-4
    assert {stage.clip for stage in changed.stages} == {0.5}
    assert (changed.initialisation, changed.augmentation.flip) == ("xavier", 0.0)
    assert dataclasses.replace(changed, initialisation="imagenet").network == recipe.network
    for setting, message in (
        ("clip", "write it as key=value"),
        ("stage.7.clip=1", "there is no stage '7'"),
        ("stage.²=1", "there is no stage '²'"),
        (f"stage.{'1' * 5000}.clip=1", "there is no stage '111"),
        (f"stage.0.clip=1{'0' * 400}", "clip must be a finite number, got one too large"),
        (f"stage.0.clip=1{'0' * 5000}", "clip must be a number"),
        ("stage.0.clip.x=1", "lies below a single value"),
        ("stage.0.clp=1", "did you mean 'clip'"),
        (f"stage.0.clip={'[' * 100_000}", "clip must be a number"),
        (f"{'a.' * 100_000}a=1", "no key of a recipe has 100001 parts"),
    ):
        with pytest.raises(RecipeError, match=message):
            apply_settings(recipe, [setting])


@pytest.mark.parametrize(
    "table", [Recipe, Network, Stage, Optimiser, Schedule, Loss, Mixing, Augmentation, Distillation]
)
def test_every_field_is_documented(table: type) -> None:
    assert set(field_documentation(table)) == {entry.name for entry in dataclasses.fields(table)}


def test_the_page_of_recipe_keys_is_current() -> None:
    tool = runpy.run_path(str(ROOT / "docs" / "tools" / "recipes.py"))
    assert tool["PAGE"].read_text(encoding="utf-8") == tool["render"](), "run python docs/tools/recipes.py"
    documented = set(tool["TABLES"].values())
    for table in documented:
        for hint in typing.get_type_hints(table).values():
            parts = [hint, *typing.get_args(hint)]
            assert {part for part in parts if dataclasses.is_dataclass(part)} <= documented
