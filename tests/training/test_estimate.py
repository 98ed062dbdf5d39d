"""The estimate of the time that `train` prints before it begins."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fer_deploy.cli import cli
from fer_deploy.faces import Dataset
from fer_deploy.recipes import Network, Recipe
from fer_deploy.training.estimate import epochs_left, measure_rate
from fer_deploy.training.fit import Settings, train

CPU = torch.device("cpu")


def test_a_network_a_hundred_times_as_large_is_slower(small_recipe: Recipe) -> None:
    large = Network(name="plain", options={"widths": (32, 64), "depths": (2, 4)})
    assert measure_rate(small_recipe, device=CPU) > 3 * measure_rate(
        dataclasses.replace(small_recipe, network=large), device=CPU
    )


def test_measuring_draws_no_random_number(small_recipe: Recipe) -> None:
    before = torch.get_rng_state()
    measure_rate(small_recipe, device=CPU)
    assert torch.equal(before, torch.get_rng_state())


def test_a_run_on_disk_has_fewer_epochs_left(tmp_path: Path, small_recipe: Recipe, few_faces: Dataset) -> None:
    folder = tmp_path / "training" / "small"
    assert epochs_left(small_recipe, folder) == 7
    stopped = iter([False] * 20)  # looks at it once a batch
    train(
        small_recipe, few_faces, workspace=tmp_path, settings=Settings(device="cpu"),
        should_stop=lambda: next(stopped, True),
    )  # fmt: skip
    assert 0 < epochs_left(small_recipe, folder) < 7
    train(small_recipe, few_faces, workspace=tmp_path, settings=Settings(device="cpu"))
    assert epochs_left(small_recipe, folder) == 0


@pytest.mark.parametrize(("option", "estimated"), [((), True), (("--time-limit", "1s"), False)])
def test_the_plan_estimates_the_time_unless_it_is_limited(
    tmp_path: Path, option: tuple[str, ...], estimated: bool
) -> None:
    recipe = tmp_path / "one.toml"
    network = '{ name = "plain", options = { widths = [4], depths = [1] } }'
    recipe.write_text(f'name = "one"\ntitle = "a layer"\nnetwork = {network}\n[[stage]]\nepochs = 1\n')
    given = ["--data", "synthetic:140", "--device", "cpu", "--workspace", str(tmp_path), *option]
    result = CliRunner().invoke(cli, ["train", str(recipe), *given])
    assert result.exit_code == 0, result.output
    assert ("time, about" in result.stdout) == estimated
