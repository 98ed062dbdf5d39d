"""`ferdeploy variants`: what can be trained, as a table, and one recipe in full."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fer_deploy.cli.options import workspace_option

if TYPE_CHECKING:
    from fer_deploy.recipes import Network
    from fer_deploy.recipes.costs import Cost

EPILOG = """\b
Examples:
  ferdeploy variants              all of them, with their cost
  ferdeploy variants B            one recipe in full, as TOML to copy and change
  ferdeploy variants my.toml      check a recipe of your own, and see its cost
"""


@click.command("variants", epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME | FILE.toml]...")
@workspace_option
def command(names: tuple[str, ...], workspace: Path) -> None:
    """Show the networks and recipes that can be trained.

    With no NAME: a table of all. With names: each recipe in full, every stage and figure, as TOML.
    """
    from fer_deploy.cli.errors import error_line
    from fer_deploy.recipes import list_recipes, load_recipe

    with error_line():
        if names:
            for name in names:
                recipe = load_recipe(name)
                _show(recipe)
        else:
            _table([load_recipe(name) for name in list_recipes()], workspace)


def _costs(networks: list[Network]) -> dict[str, Cost]:
    """What each network costs, by its key: looked up where it is one of the package's, measured otherwise."""
    from rich.progress import track

    from fer_deploy.recipes.costs import Cost, known_costs, network_key

    costs = known_costs()
    unknown = {network_key(network): network for network in networks if network_key(network) not in costs}
    if unknown:
        from fer_deploy.models import build_network, measure_cost

        for key, network in track(unknown.items(), description="measuring", transient=True):
            options: dict[str, Any] = dict(network.options)
            cost = measure_cost(build_network(network.name, **options), size=network.input_size)
            costs[key] = Cost(cost.gflops, cost.parameters, cost.activations)
    return costs


def _table(recipes: list[object], workspace: Path) -> None:
    from rich.table import Table

    from fer_deploy.cli.console import report_console
    from fer_deploy.recipes import Recipe
    from fer_deploy.recipes.costs import network_key
    from fer_deploy.study import STUDY_VARIANTS
    from fer_deploy.training.record import read_record

    known = [recipe for recipe in recipes if isinstance(recipe, Recipe)]
    costs = _costs([recipe.network for recipe in known])
    console = report_console()
    described = console.width >= 110
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    headings = ["variant", "what", "GFLOPs", "params", "acts", "stages", "init", "study", "here"]
    for heading in headings if described else [name for name in headings if name != "what"]:
        left = heading in ("variant", "what", "init")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "what")
    for recipe in known:
        cost, study = costs[network_key(recipe.network)], STUDY_VARIANTS.get(recipe.name)
        record = workspace / "training" / recipe.name / "run.json"
        here = ""
        if record.exists():
            content = read_record(record)
            best = content.get("best")
            here = f"{best['validation_accuracy']:.2%}" if best else "begun"
            here += "" if content["status"] == "complete" else "…"
        initial = "weights" if recipe.initialisation.endswith(".safetensors") else recipe.initialisation
        table.add_row(
            recipe.name, *([recipe.title] if described else []),
            f"{cost.gflops:.5f}", _short(cost.parameters), _short(cost.activations),
            str(len(recipe.stages)), initial,
            f"{study.accuracy:.2%}" if study else "", here,
        )  # fmt: skip
    console.print(table)
    console.print(
        "\nGFLOPs: fvcore's multiply-adds, batch 1; acts: outputs of convolutions and linear layers. study: its "
        "PrivateTest accuracy as published. here: validation accuracy of the run in this workspace (… still "
        "training). init weights: another run's.\n`ferdeploy variants NAME` shows a recipe in full.",
        highlight=False,
    )


def _short(count: int) -> str:
    """A count in three or four characters: 340k, 4.0M, 80M."""
    if count < 1_000_000:
        return f"{count / 1e3:.0f}k"
    return f"{count / 1e6:.1f}M" if count < 10_000_000 else f"{count / 1e6:.0f}M"


def _show(recipe: object) -> None:
    from rich.console import Console
    from rich.syntax import Syntax

    from fer_deploy.recipes import Recipe
    from fer_deploy.recipes.costs import network_key
    from fer_deploy.recipes.write import recipe_to_toml
    from fer_deploy.study import STUDY_VARIANTS

    assert isinstance(recipe, Recipe)
    cost = _costs([recipe.network])[network_key(recipe.network)]
    head = f"# {cost.gflops:.6f} GFLOPs, {cost.parameters:,} parameters, {cost.activations:,} activations\n"
    study = STUDY_VARIANTS.get(recipe.name)
    if study:
        head += f"# the study: {study.accuracy:.2%} on PrivateTest at {study.gflops:.5f} GFLOPs"
        head += f" ({study.note})\n" if study.note else "\n"
    text = head + recipe_to_toml(recipe)
    console = Console()
    if console.is_terminal:
        console.print(Syntax(text, "toml", background_color="default"))
    else:
        click.echo(text, nl=False)
