"""Training for any number of classes: eight, three and two; class weights, the balanced sampler, macro-F1, teachers."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch
from sklearn.metrics import f1_score
from training_data import EIGHT, SMALL_NETWORK, VALENCE, drawn_dataset
from training_helpers import sha256, stops_at

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import RecipeError, RunError
from fer_deploy.faces import Dataset
from fer_deploy.labels import LabelMap
from fer_deploy.recipes import Recipe, apply_settings, parse_recipe, recipe_to_dict
from fer_deploy.training.data import TrainingData
from fer_deploy.training.evaluate import agreement
from fer_deploy.training.fit import Settings, train
from fer_deploy.training.losses import balanced_weights
from fer_deploy.training.plan import PlannedRun, labels_of_plan
from fer_deploy.training.run import Run
from fer_deploy.training.step import draw_balanced

CPU = Settings(device="cpu")
PLAIN = f"""
name = "own"
title = "a small network"
{SMALL_NETWORK}
augmentation = {{ flip = 0.5, crop = 2, cutout = 0.5 }}
precise_bn = 0.5
[[stage]]
epochs = 2
batch_size = 16
optimiser = {{ lr = 4e-3 }}
loss = {{ smoothing = 0.1 }}
"""
UNEQUAL = [30, 3, 9]


def recipe(*settings: str) -> Recipe:
    return apply_settings(parse_recipe(PLAIN, source="own.toml"), settings)


@pytest.fixture(scope="module")
def unequal() -> Dataset:
    return drawn_dataset(VALENCE, counts=UNEQUAL)


@pytest.mark.parametrize("labels", [EIGHT, VALENCE, ("ja", "nein"), ("喜び", "怒り", "悲しみ", "驚き", "平静")])
def test_any_number_of_classes_from_data_to_run(labels: tuple[str, ...], tmp_path: Path) -> None:
    dataset = drawn_dataset(labels)
    outcome = train(recipe("best_by=loss"), dataset, workspace=tmp_path, settings=CPU)
    run = Run.open(outcome.folder)
    assert run.labels == labels
    data = run.record["data"]
    assert data["labels"] == list(labels)
    assert (data["summary"]["labels"], data["summary"]["pictures"]) == (list(labels), 18 * len(labels))
    assert run.network()(torch.zeros(2, 1, 48, 48)).shape == (2, len(labels))
    assert train(recipe("best_by=loss"), dataset, workspace=tmp_path, settings=CPU).status == "already complete"


def test_the_seven_are_not_written_into_records_and_fingerprints(finished: Path, small_recipe: Recipe) -> None:
    record = json.loads((finished / "training/small/run.json").read_text())
    assert not {"labels", "label_map", "split", "class_weights"} & set(record["data"])
    assert not {"classes", "label_map"} & set(record["recipe"])
    assert all("sampler" not in stage for stage in record["fingerprint"]["recipe"]["stage"])
    assert Run.open(finished / "training/small").labels == EMOTIONS
    assert recipe_to_dict(small_recipe) == record["recipe"]


def test_macro_f1_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 8, generator=generator)
    classes = torch.randint(0, 5, (60,), generator=generator)  # the last three never occur as labels
    accuracy, macro_f1 = agreement(logits, classes)
    answers = logits.argmax(1)
    assert accuracy == float((answers == classes).double().mean())
    assert macro_f1 == pytest.approx(f1_score(classes, answers, average="macro"))


def test_macro_f1_chooses_the_best_epoch_and_is_in_history_record_and_curves(tmp_path: Path, unequal: Dataset) -> None:
    chosen = recipe("best_by=macro-f1", "stage.0.epochs=8")
    outcome = train(chosen, unequal, workspace=tmp_path, settings=CPU)
    rows = list(csv.DictReader((outcome.folder / "history.csv").open()))
    scores = [float(row["validation_macro_f1"]) for row in rows]
    record = json.loads((outcome.folder / "run.json").read_text())
    assert record["best"]["epoch"] == scores.index(max(scores)) + 1
    assert 0 <= record["best"]["validation_macro_f1"] <= 1
    from fer_deploy.training.curves import draw_curves

    assert draw_curves(outcome.folder).stat().st_size > 5000


def test_patience_follows_what_chooses_the_best_epoch(tmp_path: Path, unequal: Dataset) -> None:
    messages: list[str] = []

    from fer_deploy.training.watcher import Silent

    class Notes(Silent):
        def message(self, text: str) -> None:
            messages.append(text)

    fixed = recipe("best_by=macro-f1", "stage.0.epochs=30", "stage.0.patience=2", "stage.0.optimiser.lr=1e-9")
    train(fixed, unequal, workspace=tmp_path, settings=CPU, watcher=Notes())
    assert messages == ["stage 1 ends: no better validation macro-F1 in 2 epochs"]


def test_balanced_weights_are_scikit_learns() -> None:
    assert balanced_weights([30, 3, 9]) == pytest.approx((42 / 90, 42 / 9, 42 / 27))
    assert balanced_weights([4, 0]) == (0.5, 1.0)


def test_balanced_weights_are_those_of_the_training_faces(tmp_path: Path, unequal: Dataset) -> None:
    balanced = recipe("stage.0.loss.class_weights=balanced")
    outcome = train(balanced, unequal, workspace=tmp_path, settings=CPU)
    data = TrainingData.of(unequal, balanced, workspace=tmp_path, device=torch.device("cpu"))
    weights = data.fitted(balanced.stages[0]).loss.class_weights
    assert weights == pytest.approx(tuple(42 / (3 * count) for count in UNEQUAL))
    record = json.loads((outcome.folder / "run.json").read_text())
    assert record["data"]["class_weights"] == list(weights)
    assert record["recipe"]["stage"][0]["loss"]["class_weights"] == "balanced"
    listed = recipe("name=listed", f"stage.0.loss.class_weights={list(weights)}")
    same = train(listed, unequal, workspace=tmp_path, settings=CPU)
    assert sha256(same.folder / "weights.safetensors") == sha256(outcome.folder / "weights.safetensors")


@pytest.mark.parametrize("weights", ["[1, 2]", "[1, 2, 3, 4]", "[1, 1, 1, 1, 1, 1, 2]", "[2, 2]"])
def test_a_list_of_weights_of_another_length_is_refused(weights: str, tmp_path: Path, unequal: Dataset) -> None:
    wrong = recipe(f"stage.0.loss.class_weights={weights}")
    with pytest.raises(
        RecipeError, match=r"^own: stage.0.loss.class_weights: needs 3 numbers, one for each class, got"
    ):
        train(wrong, unequal, workspace=tmp_path, settings=CPU)
    assert not (tmp_path / "training/own/run.json").exists()


def test_the_balanced_sampler_shows_each_class_equally_often(tmp_path: Path, unequal: Dataset) -> None:
    data = TrainingData.of(unequal, recipe(), workspace=tmp_path, device=torch.device("cpu"))
    epochs = [draw_balanced(data, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    for faces in epochs:
        assert torch.bincount(data.classes[faces]).tolist() == [14, 14, 14]
        counts = torch.bincount(faces, minlength=42)
        for label in range(3):  # no face is repeated before all of its class were shown
            shown = counts[data.classes == label]
            assert int(shown.max() - shown.min()) <= 1
    frequent = torch.unique(torch.cat(epochs))
    assert int((data.classes[frequent] == 0).sum()) == 30  # other ones in other epochs


def test_a_class_without_training_faces_gets_no_share(tmp_path: Path) -> None:
    dataset = drawn_dataset(VALENCE, counts=[8, 0, 4])
    data = TrainingData.of(dataset, recipe(), workspace=tmp_path, device=torch.device("cpu"))
    faces = draw_balanced(data, generator=torch.Generator().manual_seed(0))
    assert torch.bincount(data.classes[faces], minlength=3).tolist() == [6, 0, 6]


def test_a_run_with_the_balanced_sampler_resumes_bit_for_bit(tmp_path: Path, unequal: Dataset) -> None:
    mixed = recipe(
        "stage.0.sampler=balanced", "stage.0.epochs=4", "stage.0.loss.class_weights=balanced", "best_by=macro-f1",
        "stage.0.mixing.mixup_alpha=0.4", "stage.0.ema=0.9",
    )  # fmt: skip
    whole = train(mixed, unequal, workspace=tmp_path, name="whole", settings=CPU)
    should_stop, statuses = stops_at(1, 4, 5), []
    while not statuses or statuses[-1] == "stopped":
        ended = train(mixed, unequal, workspace=tmp_path, settings=CPU, should_stop=should_stop)
        statuses.append(ended.status)
    assert statuses == ["stopped"] * 3 + ["complete"]
    assert sha256(whole.folder / "weights.safetensors") == sha256(ended.folder / "weights.safetensors")
    plain = train(
        apply_settings(mixed, ["stage.0.sampler=shuffled"]), unequal, workspace=tmp_path, name="p", settings=CPU
    )
    assert sha256(plain.folder / "weights.safetensors") != sha256(whole.folder / "weights.safetensors")


@pytest.mark.parametrize("view", ["same", "cached", "plain"])
def test_teachers_and_sampler_for_three_classes(view: str, tmp_path: Path, unequal: Dataset) -> None:
    train(recipe("name=teacher"), unequal, workspace=tmp_path, settings=CPU)
    taught = recipe(
        "stage.0.sampler=balanced", 'distillation.teachers=["teacher", "teacher~mirror"]', f"distillation.view={view}"
    )
    assert train(taught, unequal, workspace=tmp_path, settings=CPU).status == "complete"


@pytest.mark.parametrize("labels", [EIGHT, ("positive", "neutral", "negative")])
def test_teachers_with_other_labels_are_refused(labels: tuple[str, ...], tmp_path: Path, unequal: Dataset) -> None:
    """Another number of classes, and another order."""
    train(recipe("name=teacher"), drawn_dataset(labels), workspace=tmp_path, settings=CPU)
    taught = recipe('distillation.teachers=["teacher"]')
    with pytest.raises(
        RunError, match=r"^teacher 'teacher': it has the labels .*, and the data has negative, neutral, po"
    ):
        train(taught, unequal, workspace=tmp_path, settings=CPU)
    assert not (tmp_path / "training/own/run.json").exists()


def test_weights_of_a_run_with_other_labels_lend_all_but_the_last_layer(tmp_path: Path, unequal: Dataset) -> None:
    train(recipe("name=first"), unequal, workspace=tmp_path, settings=CPU)
    path = tmp_path / "training/first/weights.safetensors"
    new = ", a new last layer"
    for labels, words in ((VALENCE, ""), (("bad", "fair", "good"), f"{new}: its labels are others"), (EIGHT, new)):
        started = dataclasses.replace(recipe(f"name=from{len(labels)}{labels[0]}"), initialisation=str(path))
        outcome = train(started, drawn_dataset(labels), workspace=tmp_path, settings=CPU)
        initialisation = json.loads((outcome.folder / "run.json").read_text())["initialisation"]
        assert initialisation.partition("…")[2] == words


def test_a_recipes_classes_must_be_the_datas(tmp_path: Path, unequal: Dataset) -> None:
    named = dataclasses.replace(recipe(), classes=VALENCE)
    assert train(named, unequal, workspace=tmp_path, settings=CPU).status == "complete"
    for other in (
        dataclasses.replace(recipe(), classes=VALENCE[::-1]),
        dataclasses.replace(recipe(), label_map={"a": "b"}),
    ):
        with pytest.raises(RecipeError, match=r"^own: .*drawn was read with"):
            train(other, unequal, workspace=tmp_path, settings=dataclasses.replace(CPU, restart=True))
    with pytest.raises(
        RecipeError, match=r'^votes: labels = "ferplus" needs the seven expressions, and drawn has negative'
    ):
        train(recipe("labels=ferplus", "name=votes"), unequal, workspace=tmp_path, settings=CPU)


def planned(name: str, **changes: object) -> PlannedRun:
    return PlannedRun(name, dataclasses.replace(recipe(f"name={name}"), **changes), 0)  # type: ignore[arg-type]


def test_recipes_and_labels_option_are_combined() -> None:
    both = ("bad", "good")
    one = planned("one", classes=both, label_map={"happy": "good"})
    given = LabelMap.parse("sad=bad,happy=good")
    assert labels_of_plan([one], given) == LabelMap(None, (("happy", "good"), ("sad", "bad")), both)
    assert labels_of_plan([one], None) == LabelMap(None, (("happy", "good"),), both)
    assert labels_of_plan([planned("plain")], given) == given
    assert labels_of_plan([planned("plain")], None) is None
    assert labels_of_plan([planned("numbered", label_map="RAF-DB")], None) == LabelMap("raf-db")
    for text in ("happy=bad", "good,bad", "-", "joy=great"):
        with pytest.raises((RecipeError, ValueError)) as caught:
            labels_of_plan([one], LabelMap.parse(text))
        assert "\n" not in str(caught.value)


def test_recipes_that_read_the_labels_differently_are_refused() -> None:
    first, second = planned("first", classes=("bad", "good")), planned("second", classes=("good", "bad"))
    for plan in itertools.permutations([first, second, planned("plain")], 2):
        with pytest.raises(
            RecipeError, match=r"read the data's labels differently .*: train each in a call of its own"
        ):
            labels_of_plan(plan, None)
    distillation = parse_recipe(
        PLAIN.replace("[[stage]]", 'distillation = { teachers = ["plain"] }\n[[stage]]'), source=""
    )
    student = planned("student", classes=("bad", "good"), distillation=distillation.distillation)
    assert labels_of_plan([planned("plain"), student], None) == LabelMap(None, (), ("bad", "good"))
