"""What a recipe names is really in effect: the study's stages, as the training loop itself runs them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from fer_deploy.faces import Dataset
from fer_deploy.models import build_network
from fer_deploy.recipes import Loss, Network, Recipe, Stage, load_recipe
from fer_deploy.study import STUDY_VARIANTS
from fer_deploy.training import fit, optim
from fer_deploy.training import step as steps
from fer_deploy.training.data import TrainingData
from fer_deploy.training.evaluate import Validation
from fer_deploy.training.fit import Settings, train
from fer_deploy.training.optim import Scheduler, make_optimiser, parameter_groups
from fer_deploy.training.watcher import BatchReport, EpochRow, Silent

CPU = torch.device("cpu")

# Row and stage of the study's published table: optimiser, learning rate, betas, decay, whether it is on all parameters;
# schedule with its figures; clip.
ONE, PLATEAU, NONE = "one-cycle", "plateau", "constant"
A_CYCLE = (ONE, 0.1, 10, 1e3)
TABLE = {
    ("baseline", 0): ("Adam", 1e-3, (0.9, 0.999), 0.0, True, (NONE,), 0),
    ("resemotenet", 0): ("AdamW", 1e-3, (0.9, 0.999), 1e-4, True, (NONE,), 0),
    ("vgg19", 0): ("AdamW", 1e-3, (0.9, 0.999), 1e-4, True, (NONE,), 0),
    ("efficientnet-b1", 0): ("AdamW", 3e-3, (0.9, 0.9995), 0.05, False, (ONE, 0.1, 25, 1e4), 1.0),
    ("mobilenetv3-large", 0): ("AdamW", 3e-3, (0.9, 0.9995), 0.05, False, (ONE, 0.05, 25, 1e6), 0.5),
    ("efficientnetv2-s", 0): ("AdamW", 1e-3, (0.9, 0.95), 0.05, False, (ONE, 0.05, 10, 1e3), 1.0),
    ("efficientnetv2-s", 1): ("AdamW", 5e-4, (0.9, 0.99), 0.02, False, (ONE, 0.1, 5, 100), 0.5),
    ("efficientnetv2-s", 2): ("AdamW", 1e-4, (0.9, 0.999), 0.05, False, (ONE, 0.2, 10, 1e3), 0.3),
    ("A", 0): ("AdamW", 1e-2, (0.9, 0.999), 0.1, False, A_CYCLE, 2.0),
    ("A", 1): ("AdamW", 1e-4, (0.9, 0.99), 0.05, False, (PLATEAU, 0.5, 5, 1e-7), 1.0),
    ("A", 2): ("AdamW", 5e-5, (0.9, 0.999), 0.025, False, (PLATEAU, 0.2, 8, 5e-8), 0.5),
    ("A", 3): ("AdamW", 1e-3, (0.95, 0.999), 0.03, False, (ONE, 0.35, 20, 1e3), 1.0),
    ("A", 4): ("AdamW", 1e-3, (0.95, 0.999), 0.03, False, (ONE, 0.35, 20, 1e3), 1.0),
    ("B", 0): ("AdamW", 1e-2, (0.9, 0.999), 0.1, False, A_CYCLE, 2.0),
    ("B", 1): ("AdamW", 1e-4, (0.9, 0.99), 0.05, False, (PLATEAU, 0.5, 5, 1e-7), 1.0),
    ("B", 2): ("AdamW", 5e-5, (0.9, 0.99), 0.05, False, (PLATEAU, 0.5, 5, 1e-7), 1.0),
    ("C", 0): ("AdamW", 1e-2, (0.9, 0.999), 0.1, False, A_CYCLE, 2.0),
    ("C", 1): ("AdamW", 5e-5, (0.9, 0.99), 0.05, False, (PLATEAU, 0.5, 5, 1e-7), 1.0),
    ("D", 0): ("AdamW", 1e-2, (0.9, 0.999), 0.1, False, A_CYCLE, 2.0),
    ("D", 1): ("AdamW", 5e-5, (0.9, 0.99), 0.05, False, (PLATEAU, 0.5, 5, 1e-7), 1.0),
    ("E", 0): ("AdamW", 1e-2, (0.9, 0.999), 0.1, False, A_CYCLE, 2.0),
    ("E", 1): ("AdamW", 5e-5, (0.9, 0.99), 0.05, False, (PLATEAU, 0.5, 5, 1e-7), 1.0),
}


def test_the_table_has_every_stage() -> None:
    stages = {(name, index) for name in STUDY_VARIANTS for index in range(len(load_recipe(name).stages))}
    assert set(TABLE) == stages


@pytest.mark.parametrize(("name", "index"), sorted(TABLE))
def test_the_optimiser_has_the_studys_groups(name: str, index: int) -> None:
    kind, rate, betas, decay, on_all, _, _ = TABLE[name, index]
    stage = load_recipe(name).stages[index]
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 7))
    optimiser = make_optimiser(network, stage.optimiser, device=CPU)
    assert type(optimiser).__name__ == kind
    decays = {id(parameter): group["weight_decay"] for group in optimiser.param_groups for parameter in group["params"]}
    for parameter in network.parameters():
        assert decays[id(parameter)] == (decay if on_all or parameter.ndim > 1 else 0.0)
    for group in optimiser.param_groups:
        assert (group["lr"], tuple(group["betas"])) == (rate, betas)


@pytest.mark.parametrize("name", ["efficientnet-b0", "mobilenetv3-large", "efficientnetv2-s", "plain"])
def test_no_bias_and_no_batch_norm_decays(name: str) -> None:
    network = build_network(name)
    spared = {
        id(parameter) for parameter in parameter_groups(network, load_recipe("B").stages[0].optimiser)[1]["params"]
    }
    for module in network.modules():
        for what, parameter in module.named_parameters(recurse=False):
            matrix = isinstance(module, nn.Conv2d | nn.Linear) and what == "weight"
            assert (id(parameter) in spared) == (not matrix), (type(module).__name__, what)


def cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


@pytest.mark.parametrize(("name", "index"), sorted(key for key in TABLE if TABLE[key][5][0] == ONE))
def test_one_cycle_follows_its_formula_at_every_step(name: str, index: int) -> None:
    """Peak, warm-up, start and end divisors of the study's table; cosine both ways; the first beta .95, .85, .95."""
    _, peak, betas, _, _, (_, warm_up, start_divisor, final_divisor), _ = TABLE[name, index]
    stage = load_recipe(name).stages[index]
    total = 400
    optimiser = make_optimiser(nn.Linear(3, 2), stage.optimiser, device=CPU)
    scheduler = Scheduler(optimiser, stage, total_steps=total)
    first = peak / start_divisor
    top = warm_up * total - 1
    for step in range(total):
        if step <= top:
            rate, beta = cosine(first, peak, step / top), cosine(0.95, 0.85, step / top)
        else:
            share = (step - top) / (total - 1 - top)
            rate, beta = cosine(peak, first / final_divisor, share), cosine(0.85, 0.95, share)
        assert scheduler.lr == pytest.approx(rate, rel=1e-6, abs=1e-14)
        for group in optimiser.param_groups:
            assert group["betas"] == (pytest.approx(beta), betas[1])
        optimiser.step()
        scheduler.after_step()


@pytest.mark.parametrize(("name", "index"), sorted(key for key in TABLE if TABLE[key][5][0] == PLATEAU))
def test_plateau_falls_by_its_factor_to_its_floor(name: str, index: int) -> None:
    _, rate, _, _, _, (_, factor, patience, floor), _ = TABLE[name, index]
    stage = load_recipe(name).stages[index]
    optimiser = make_optimiser(nn.Linear(3, 2), stage.optimiser, device=CPU)
    scheduler = Scheduler(optimiser, stage, total_steps=100)
    scheduler.after_epoch(0.6)
    expected = rate
    for _ in range(40):
        for _ in range(patience):
            scheduler.after_epoch(0.6)  # no better
            assert scheduler.lr == pytest.approx(expected)
        scheduler.after_epoch(0.59)
        expected = max(expected * factor, floor)
        if expected < scheduler.lr:  # PyTorch makes no step smaller than 1e-8
            assert scheduler.lr - expected <= 1e-8
            expected = scheduler.lr
        assert scheduler.lr == pytest.approx(expected)
    assert scheduler.lr <= floor + 1e-8


class Ears(Silent):
    """Keeps what the loop reports."""

    def __init__(self) -> None:
        self.reports: list[BatchReport] = []
        self.rows: list[EpochRow] = []

    def batch(self, report: BatchReport) -> None:
        self.reports.append(report)

    def epoch(self, row: EpochRow, *, best: bool) -> None:
        self.rows.append(row)


def cut(name: str, epochs: int, batch: int) -> Recipe:
    """A recipe of the study on a tiny network, with fewer epochs and smaller batches; all else is its own."""
    recipe = load_recipe(name)
    stages = tuple(dataclasses.replace(stage, epochs=epochs, batch_size=batch, patience=0) for stage in recipe.stages)
    network = Network("plain", options={"widths": (4,), "depths": (1,), "stem_stride": 2})
    return dataclasses.replace(recipe, network=network, initialisation="default", stages=stages)


@pytest.mark.parametrize("name", STUDY_VARIANTS)
def test_the_loop_runs_every_stage_as_the_table_says(
    name: str, tmp_path: Path, few_faces: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates over time, gradient clipping, losses and mixing, as the loop uses them in each stage."""
    losses: list[Loss] = []
    clips: list[float] = []
    mixed: list[bool] = []
    real_loss, real_clip = steps.loss_on_targets, nn.utils.clip_grad_norm_

    def loss(logits: torch.Tensor, targets: torch.Tensor, wanted: Loss) -> torch.Tensor:
        losses.append(wanted)
        mixed.append(bool(((targets > 0) & (targets < 1)).any()))
        return real_loss(logits, targets, wanted)

    def clip(parameters: object, largest: float) -> torch.Tensor:
        clips.append(largest)
        given = list(parameters)  # type: ignore[call-overload]
        total = real_clip(given, largest)
        after = torch.stack([parameter.grad.norm() for parameter in given]).norm()
        assert float(after) <= largest * 1.001
        return total

    monkeypatch.setattr(steps, "loss_on_targets", loss)
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", clip)
    ears, recipe = Ears(), cut(name, epochs=2, batch=64)
    train(recipe, few_faces, workspace=tmp_path, settings=Settings(device="cpu"), watcher=ears)
    each = 2 * (280 // 64)  # batches a stage
    assert len(ears.reports) == each * len(recipe.stages)
    clips_left = iter(clips)
    for index, stage in enumerate(recipe.stages):
        _, rate, _, _, _, schedule, largest = TABLE[name, index]
        here = slice(index * each, (index + 1) * each)
        assert {report.stage for report in ears.reports[here]} == {index + 1}
        rates = [report.lr for report in ears.reports[here]]  # after the step, so the next one's
        if schedule[0] == ONE:
            reference = torch.optim.lr_scheduler.OneCycleLR(
                torch.optim.AdamW([nn.Parameter(torch.zeros(1))], betas=(0.9, 0.9)), max_lr=rate, total_steps=each,
                pct_start=schedule[1], div_factor=schedule[2], final_div_factor=schedule[3],
            )  # fmt: skip
            expected = []
            for step in range(each):
                if step < each - 1:
                    reference.optimizer.step()
                    reference.step()
                expected.append(reference.get_last_lr()[0])
            assert rates == pytest.approx(expected)
        else:
            assert rates == pytest.approx([rate] * each)
        if largest:
            assert [next(clips_left) for _ in range(each)] == [largest] * each
        assert losses[here] == [stage.loss] * each
        assert mixed[here] == [name == "E"] * each
    assert not list(clips_left)


def test_each_stage_begins_with_the_best_weights_of_the_one_before(
    tmp_path: Path, few_faces: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, moving average and batch norm's statistics included, and with a fresh optimiser."""
    starts: list[dict[str, torch.Tensor]] = []
    validated: list[tuple[float, dict[str, torch.Tensor]]] = []
    real_optimiser, real_validate = optim.make_optimiser, fit.validate

    def optimiser(network: nn.Module, *arguments: object, **options: object) -> torch.optim.Optimizer:
        starts.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        made = real_optimiser(network, *arguments, **options)  # type: ignore[arg-type]
        assert not made.state
        return made

    def validate(
        network: nn.Module, weights: dict[str, torch.Tensor] | None, data: TrainingData, *, size: int
    ) -> Validation:
        answer = real_validate(network, weights, data, size=size)
        state = network.state_dict() if weights is None else weights
        validated.append((answer[1], {name: tensor.clone() for name, tensor in state.items()}))
        return answer

    monkeypatch.setattr(optim, "make_optimiser", optimiser)
    monkeypatch.setattr(fit, "validate", validate)
    stages = [Stage(epochs=6, batch_size=32, ema=0.5), Stage(epochs=4, batch_size=64), Stage(epochs=1, batch_size=64)]
    recipe = dataclasses.replace(cut("B", epochs=1, batch=32), stages=tuple(stages))
    train(recipe, few_faces, workspace=tmp_path, settings=Settings(device="cpu"))
    assert len(starts) == 3
    for stage, (first, last) in enumerate([(0, 6), (6, 10)], start=1):
        best = max(range(first, last), key=lambda epoch: (validated[epoch][0], -epoch))
        assert starts[stage].keys() == validated[best][1].keys()
        assert all(torch.equal(starts[stage][name], tensor) for name, tensor in validated[best][1].items())
    assert any(not torch.equal(starts[1][name], tensor) for name, tensor in starts[2].items())
