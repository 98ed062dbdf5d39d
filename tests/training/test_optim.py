"""Optimiser groups, schedules over time against PyTorch's own, and the moving average."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from fer_deploy.models import build_network
from fer_deploy.recipes import Optimiser, Schedule, Stage, load_recipe
from fer_deploy.training.checkpoint import optimiser_tensors, restore_optimiser
from fer_deploy.training.optim import MovingAverage, Scheduler, make_optimiser, parameter_groups

CPU = torch.device("cpu")


def test_weight_decay_spares_one_dimensional_parameters_and_biases() -> None:
    network = build_network("efficientnet-b0")
    decayed, spared = parameter_groups(network, load_recipe("B").stages[0].optimiser)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in spared["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(list(network.parameters()))
    (everything,) = parameter_groups(network, load_recipe("vgg19").stages[0].optimiser)
    assert everything["weight_decay"] == 1e-4


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_optimisers_are_pytorchs(name: str, kind: type) -> None:
    made = make_optimiser(nn.Linear(3, 2), Optimiser(name=name, lr=0.01, betas=(0.8, 0.9)), device=CPU)  # type: ignore[arg-type]
    assert type(made) is kind
    group = made.param_groups[0]
    assert group["lr"] == 0.01
    assert group.get("betas", (0.8, 0.9)) == (0.8, 0.9)
    assert group.get("momentum", 0.8) == 0.8


@pytest.mark.parametrize("variant", ["A", "B", "mobilenetv3-large", "efficientnetv2-s"])
def test_one_cycle_has_the_recipes_rates_over_time(variant: str) -> None:
    stage = load_recipe(variant).stages[0]
    optimiser = make_optimiser(nn.Linear(3, 2), stage.optimiser, device=CPU)
    scheduler = Scheduler(optimiser, stage, total_steps=1000)
    rates, first_betas = [], []
    for _ in range(1000):
        rates.append(scheduler.lr)
        first_betas.append(optimiser.param_groups[0]["betas"][0])
        optimiser.step()
        scheduler.after_step()
    schedule, peak = stage.schedule, stage.optimiser.lr
    assert rates[0] == pytest.approx(peak / schedule.start_divisor)
    assert max(rates) == pytest.approx(peak, rel=1e-4)
    assert rates.index(max(rates)) == pytest.approx(1000 * schedule.warm_up, abs=2)
    assert rates[-1] == pytest.approx(peak / schedule.start_divisor / schedule.final_divisor)
    assert min(first_betas) == pytest.approx(0.85)
    assert max(first_betas) == pytest.approx(0.95)
    assert optimiser.param_groups[0]["betas"][1] == stage.optimiser.betas[1]


def test_plateau_lowers_the_rate_after_its_patience() -> None:
    stage = load_recipe("B").stages[1]
    optimiser = make_optimiser(nn.Linear(3, 2), stage.optimiser, device=CPU)
    scheduler = Scheduler(optimiser, stage, total_steps=100)
    rates = []
    for epoch in range(20):
        scheduler.after_epoch(0.5 + 0.001 * min(epoch, 3))
        rates.append(scheduler.lr)
    assert rates[3 + 5] == 1e-4  # five epochs without a better one are borne
    assert rates[3 + 6] == 5e-5
    assert rates[3 + 12] == 2.5e-5


@pytest.mark.parametrize("warm_up", [0.1, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("total_steps", [1, 2, 4, 9, 10, 11])
def test_one_cycle_takes_a_warm_up_of_any_length(total_steps: int, warm_up: float) -> None:
    optimiser = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.01)
    stage = Stage(epochs=1, optimiser=Optimiser(lr=0.01), schedule=Schedule(name="one-cycle", warm_up=warm_up))
    scheduler = Scheduler(optimiser, stage, total_steps=total_steps)
    rates = [scheduler.lr]
    for _ in range(total_steps - 1):
        optimiser.step()
        scheduler.after_step()
        rates.append(scheduler.lr)
    assert all(0 < rate <= 0.01 + 1e-12 for rate in rates)
    assert total_steps * warm_up != 1 or rates[0] == pytest.approx(0.01)


@pytest.mark.parametrize(
    "schedule", [Schedule(), Schedule(name="one-cycle", cycle_momentum=True), Schedule(name="plateau", patience=1)]
)
def test_optimiser_and_schedule_go_on_from_their_saved_state(schedule: Schedule) -> None:
    stage = Stage(epochs=1, optimiser=Optimiser(lr=0.1, weight_decay=0.01), schedule=schedule)

    def run(cut: int | None) -> list[float]:
        torch.manual_seed(0)
        network = nn.Linear(4, 3)
        optimiser = make_optimiser(network, stage.optimiser, device=CPU)
        scheduler = Scheduler(optimiser, stage, total_steps=30)
        seen = []
        for step in range(30):
            if step == cut:
                tensors = {name: tensor.clone() for name, tensor in optimiser_tensors(optimiser).items()}
                state = json.loads(json.dumps(scheduler.state()))
                optimiser = make_optimiser(network, stage.optimiser, device=CPU)
                scheduler = Scheduler(optimiser, stage, total_steps=30)
                restore_optimiser(optimiser, tensors)
                scheduler.restore(state)
            optimiser.zero_grad()
            network(torch.ones(2, 4) * step).square().sum().backward()
            optimiser.step()
            scheduler.after_step()
            scheduler.after_epoch(0.5)
            seen += [scheduler.lr, float(network.weight.detach().sum())]
        return seen

    assert run(13) == run(None)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("fused_first", [False, True])
def test_a_checkpoint_of_a_fused_optimiser_goes_on_in_one_that_is_not(name: str, fused_first: bool) -> None:
    """CPU and CUDA have fused optimisers, MPS has not: a checkpoint may move either way, whatever memory layout."""

    def run(moved: bool) -> Tensor:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(20, 2))
        network.to(memory_format=torch.channels_last)
        recipe = Optimiser(name=name, lr=0.01, weight_decay=0.1)  # type: ignore[arg-type]
        optimiser = make_optimiser(network, recipe, device=CPU if fused_first else torch.device("mps"))
        for step in range(12):
            if moved and step == 6:
                tensors = {key: tensor.clone().contiguous() for key, tensor in optimiser_tensors(optimiser).items()}
                if not fused_first:
                    network.to(memory_format=torch.contiguous_format)
                optimiser = make_optimiser(network, recipe, device=torch.device("mps") if fused_first else CPU)
                restore_optimiser(optimiser, tensors)
                assert bool(optimiser.param_groups[0]["fused"]) != fused_first
            optimiser.zero_grad()
            network(torch.ones(2, 3, 4, 4) * (1 + step % 3)).square().mean().backward()
            optimiser.step()
        return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    assert torch.allclose(run(True), run(False), atol=1e-6)
    assert not torch.allclose(run(True), torch.zeros(()), atol=1e-3)


def test_moving_average_follows_its_formula() -> None:
    network = nn.BatchNorm1d(3)
    average = MovingAverage(network, 0.9)
    expected = network.weight.detach().clone()
    for step in range(1, 200):
        with torch.no_grad():
            network.weight.add_(0.1)
        network.num_batches_tracked += 1
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * network.weight.detach()
        assert torch.allclose(average.tensors["weight"], expected, rtol=1e-5), step
    assert int(average.tensors["num_batches_tracked"]) == 199
