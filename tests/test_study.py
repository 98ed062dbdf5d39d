"""The study's figures: read once, complete, and no part of what makes two runs the same."""

from __future__ import annotations

import copy

import pytest
from click.testing import CliRunner

from fer_deploy.cli import cli
from fer_deploy.recipes import load_recipe, recipe_from_dict, recipe_to_dict
from fer_deploy.study import STUDY_ENSEMBLES, STUDY_ROWS, STUDY_VARIANTS


def test_the_table_has_eleven_networks_and_three_ensembles_of_them() -> None:
    assert (len(STUDY_ROWS), len(STUDY_VARIANTS), len(STUDY_ENSEMBLES)) == (14, 11, 3)
    for row in STUDY_ROWS:
        assert 0.4 < row.accuracy < 0.8
        assert row.efficiency == row.accuracy / row.gflops
    for ensemble in STUDY_ENSEMBLES.values():
        assert set(ensemble.members) <= set(STUDY_VARIANTS)
        assert len(ensemble.weights) == len(ensemble.members)
        assert sum(ensemble.weights) == pytest.approx(1)
        assert ensemble.gflops == pytest.approx(sum(STUDY_VARIANTS[name].gflops for name in ensemble.members), abs=5e-6)
        assert ensemble.remark
    assert not any(row.remark for row in STUDY_VARIANTS.values())


@pytest.mark.parametrize("name", ["B", "E", "baseline"])
def test_a_run_recorded_with_the_studys_figures_is_the_same_run(name: str) -> None:
    """Earlier versions kept them in each recipe, and so in run.json and its fingerprint."""
    now = recipe_to_dict(load_recipe(name))
    assert "study" not in now
    recorded = {**copy.deepcopy(now), "study": {"accuracy": 0.64685, "gflops": 0.02321, "note": "CutMix was off"}}
    assert recipe_to_dict(recipe_from_dict(recorded, source="run.json")) == now


def test_variants_shows_the_studys_figures_and_notes() -> None:
    shown = CliRunner().invoke(cli, ["variants", "E"])
    assert shown.exit_code == 0
    assert "# the study: 64.69% on PrivateTest at 0.02321 GFLOPs (the study's text says MixUp" in shown.output
    assert "the study" not in CliRunner().invoke(cli, ["variants", "plain"]).output
