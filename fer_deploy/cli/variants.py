"""`ferdeploy variants`: what can be trained, as a table, and one recipe in full."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fer_deploy.cli.options import workspace_option

if TYPE_CHECKING:
    from fer_deploy.recipes import Network, Recipe
    from fer_deploy.recipes.costs import KnownCost

EPILOG = """\b
Examples:
  ferdeploy variants              the study's networks and the released ones, with their cost
  ferdeploy variants --all        also their teachers, and the workspace's training/recipes/
  ferdeploy variants B            one recipe in full, as TOML to copy and change
  ferdeploy variants my.toml      check a recipe of your own, and show its cost
  ferdeploy variants 'timm/*vgg*' networks of timm that a recipe can name

A recipe can name any classification network of timm:
  network = { name = "timm/resnet18", input_size = 64 }
"""

NOTES = (
    "GFLOPs: multiply-adds of one face, counted by fvcore. acts: outputs of convolutions and linear layers. "
    "init weights: those of another run. study: PrivateTest accuracy as published. here: validation accuracy "
    "of the run in this workspace (… not finished)."
)


@click.command("variants", epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME | FILE.toml | timm/PATTERN]...")
@click.option("--all", "everything", is_flag=True, help="Also list teachers and the workspace's own recipes.")
@workspace_option
def command(names: tuple[str, ...], everything: bool, workspace: Path) -> None:
    """Show the networks and recipes that can be trained.

    Without NAME: a table. With names: each recipe in full, every stage and number, as TOML. A pattern that begins with
    timm/ lists the networks of timm that match it.
    """
    from fer_deploy.cli.errors import error_line
    from fer_deploy.recipes import list_experiments, list_recipes, load_recipe
    from fer_deploy.recipes.load import RELEASED
    from fer_deploy.study import STUDY_VARIANTS

    with error_line():
        for name in names:
            if name.startswith("timm/"):
                _print_timm(name)
            else:
                _print_recipe(load_recipe(name, workspace=workspace))
        if not names:
            experiments = [name for name in list_experiments(workspace) if name not in list_recipes()]
            available = [*list_recipes(), *experiments]
            listed = available if everything else [*STUDY_VARIANTS, *RELEASED]
            _print_table([load_recipe(name, workspace=workspace) for name in listed], workspace)
            others = len(available) - len(listed)
            more = f" --all: {others} more." if others else ""
            click.echo(f"`ferdeploy variants NAME` shows a recipe in full.{more}")


def _print_timm(pattern: str) -> None:
    """The networks of timm that match a pattern, one a line. RecipeError with the nearest name if there is none."""
    from fer_deploy.models.timm_networks import list_timm, timm_model

    names = list_timm(pattern) or [f"timm/{timm_model(pattern)}"]
    click.echo("\n".join(names))


def _costs(networks: Iterable[Network]) -> dict[str, KnownCost]:
    """Each network's cost by its key, measured where the package does not keep it."""
    from fer_deploy.cli.console import ProgressBar
    from fer_deploy.recipes.costs import KnownCost, known_costs, network_key

    costs = known_costs()
    unknown = {network_key(network): network for network in networks if network_key(network) not in costs}
    if unknown:
        from fer_deploy.models import build_network, measure_cost

        with ProgressBar() as bar:
            for number, (key, network) in enumerate(unknown.items()):
                bar.update("measuring networks", number, len(unknown))
                options: dict[str, Any] = dict(network.options)
                size = network.input_size
                cost = measure_cost(build_network(network.name, input_size=size, **options), size=size)
                costs[key] = KnownCost(cost.gflops, cost.parameters, cost.activations)
    return costs


def _print_table(recipes: list[Recipe], workspace: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from fer_deploy.cli.console import report_console, short_count
    from fer_deploy.errors import printable
    from fer_deploy.recipes.costs import network_key
    from fer_deploy.study import STUDY_VARIANTS

    costs = _costs(recipe.network for recipe in recipes)
    console = report_console()
    has_titles = console.width >= 110
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    headings = ["variant", "what", "GFLOPs", "params", "acts", "stages", "init", "study", "here"]
    for heading in headings if has_titles else [name for name in headings if name != "what"]:
        left = heading in ("variant", "what", "init")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "what")
    for recipe in recipes:
        cost, study = costs[network_key(recipe.network)], STUDY_VARIANTS.get(recipe.name)
        initial = "weights" if recipe.initialisation.endswith(".safetensors") else recipe.initialisation
        table.add_row(
            recipe.name, *([Text(printable(recipe.title))] if has_titles else []),
            f"{cost.gflops:.5f}", short_count(cost.parameters), short_count(cost.activations),
            str(len(recipe.stages)), initial,
            f"{study.accuracy:.2%}" if study else "", _result(recipe.name, workspace),
        )  # fmt: skip
    console.print(table)
    console.print("\n" + NOTES, highlight=False)


def _result(name: str, workspace: Path) -> str:
    """The validation accuracy of a run in the workspace, marked where it is not finished; empty without a run."""
    from fer_deploy.training.record import read_record

    path = workspace / "training" / name / "run.json"
    if not path.exists():
        return ""
    record = read_record(path)
    best = record.get("best")
    accuracy = f"{best['validation_accuracy']:.2%}" if best and "validation_accuracy" in best else "begun"
    return accuracy if record["status"] == "complete" else accuracy + "…"


def _print_recipe(recipe: Recipe) -> None:
    from rich.syntax import Syntax

    from fer_deploy.cli.console import console
    from fer_deploy.recipes.costs import network_key
    from fer_deploy.recipes.write import recipe_to_toml
    from fer_deploy.study import STUDY_VARIANTS

    cost = _costs([recipe.network])[network_key(recipe.network)]
    head = f"# {cost.gflops:.6f} GFLOPs, {cost.parameters:,} parameters, {cost.activations:,} activations\n"
    study = STUDY_VARIANTS.get(recipe.name)
    if study:
        head += f"# the study: {study.accuracy:.2%} on PrivateTest at {study.gflops:.5f} GFLOPs"
        head += f" ({study.note})\n" if study.note else "\n"
    text = head + recipe_to_toml(recipe)
    output = console()
    if output.is_terminal:
        output.print(Syntax(text, "toml", background_color="default"))
    else:
        click.echo(text, nl=False)
