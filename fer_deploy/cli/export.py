"""`ferdeploy export`: runs to self-contained ONNX files, each proven before it is there."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fer_deploy.cli.console import report_console, step_progress
from fer_deploy.cli.options import data_option, open_data, workspace_option
from fer_deploy.model.names import DYNAMIC, PRECISIONS, Shape, parse_shape

if TYPE_CHECKING:
    from rich.console import Console

    from fer_deploy.export.metadata import ExportedFile

EPILOG = """\b
Examples:
  ferdeploy export                                      every run of the workspace
  ferdeploy export B E --data fer2013.csv               two runs, proven and scored on real faces
  ferdeploy export --ensemble B,E                       the study's pair in one file, B+E.onnx
  ferdeploy export --ensemble B,E --search --data ...   with weights searched on the validation split
  ferdeploy export --ensemble B,E --name pair           the same, called pair.onnx
  ferdeploy export --ensemble B,B~mirror                a run and its view of the mirrored face
  ferdeploy export B --precision fp32,fp16,int8 --data fer2013.csv
  ferdeploy export B --static 1x48x48                   B.1x48x48.onnx, for engines that want fixed sizes
"""


def _read_names(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Each value's names, which have commas between them."""
    lists = [tuple(part.strip() for part in value.split(",")) for value in values]
    for names in lists:
        if not all(names):
            raise click.BadParameter(f"{','.join(names)!r} has an empty name: write B,E", context, parameter)
    return lists


def _read_weights(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Numbers with commas between them."""
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers: write .45,.55", context, parameter) from None


def _read_shape(context: click.Context, parameter: click.Parameter, value: str | None) -> Shape:
    """Batch, height and width; `n` leaves an axis free."""
    if value is None:
        return DYNAMIC
    try:
        return parse_shape(value.lower())
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


def _read_precisions(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Precisions with commas between them, in our own order."""
    names = [part.strip() for part in value.split(",")]
    for name in names:
        if name not in PRECISIONS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(PRECISIONS)}", context, parameter)
    return tuple(name for name in PRECISIONS if name in names)


@click.command("export", epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option(
    "--ensemble",
    "ensembles",
    callback=_read_names,
    multiple=True,
    metavar="B,E",
    help="Fuse these runs into one file. B~mirror is run B shown the mirrored face. Repeatable.",
)
@click.option(
    "--weights", callback=_read_weights, metavar=".45,.55", help="The members' weights. Default: the study's, or equal."
)
@click.option("--search", is_flag=True, help="Search the weights on the validation split. Needs data.")
@click.option(
    "--fusion",
    type=click.Choice(["wap", "rrf"]),
    default="wap",
    show_default=True,
    help="Weighted average of probabilities, or reciprocal rank fusion.",
)
@click.option("--name", "stem", metavar="STEM", help="What the one file is called. Default: its members, B+E.")
@click.option(
    "--precision",
    "precisions",
    callback=_read_precisions,
    default="fp32",
    show_default=True,
    metavar="fp32,fp16,int8",
    help="How weights are stored. int8 needs data to be calibrated on.",
)
@click.option(
    "--tune",
    "tune_epochs",
    type=click.IntRange(1),
    metavar="N",
    help="int8: first fine-tune the weights for N epochs, rounded as the file rounds them.",
)
@click.option("--static", "shape", callback=_read_shape, metavar="1x48x48", help="Fix batch, height and width.")
@data_option
@workspace_option
@click.option("--card", is_flag=True, help="Also write a Hugging Face model card and the folder that is uploaded.")
@click.option("--strict", is_flag=True, help="Take every warning for an error.")
def command(
    names: tuple[str, ...],
    ensembles: list[tuple[str, ...]],
    weights: tuple[float, ...] | None,
    search: bool,
    fusion: str,
    stem: str | None,
    precisions: tuple[str, ...],
    tune_epochs: int | None,
    shape: Shape,
    data: str | None,
    workspace: Path,
    card: bool,
    strict: bool,
) -> None:
    """Write runs as self-contained ONNX files, and prove each.

    With NAMEs: those runs. With --ensemble: the fused file. With neither: every run of the workspace. A file is moved
    to exports/ only once ONNX Runtime says of every face what PyTorch says.
    """
    _check_usage(names, ensembles, weights=weights, search=search, fusion=fusion)
    if stem is not None and len(names) + len(ensembles) != 1:
        raise click.UsageError("--name goes with one NAME or one --ensemble")
    if tune_epochs and "int8" not in precisions:
        raise click.UsageError("--tune is for int8: add --precision int8")
    from fer_deploy.cli.errors import error_line

    console = report_console()
    with error_line(on_interrupt="No half-written file is left; run the same command again."):
        from fer_deploy.errors import ExportError, ParityError, UnavailableError, install

        dataset = open_data(data, workspace=workspace)
        if search and dataset is None:
            raise ExportError("--search needs faces: give --data, or set $FERDEPLOY_DATA")
        try:
            from fer_deploy.export.plan import Plan, plan_ensemble, plan_run
            from fer_deploy.export.write import export_plan
            from fer_deploy.training.run import list_runs
        except ModuleNotFoundError as error:
            raise UnavailableError(f"{error.name} is not installed: {install('train')}") from error

        def warn(message: str) -> None:
            if strict:
                raise ExportError(f"{message} (--strict)")
            console.print(f"[yellow]note:[/] {message}", highlight=False)

        chosen = list(names)
        if not names and not ensembles:
            for run in list_runs(workspace):
                if run.weights_path.exists():
                    chosen.append(run.name)
                else:
                    warn(f"{run.folder}: left out, its weights are not here: train it again")
            if not chosen:
                raise ExportError(f"{workspace / 'training'} has no complete run: train one with `ferdeploy train`")
        refused: list[ParityError] = []
        files: list[ExportedFile] = []
        with step_progress(stderr=False) as progress:
            plans: list[Plan] = [plan_run(name, workspace=workspace) for name in chosen]
            plans += [
                plan_ensemble(
                    members,
                    workspace=workspace,
                    weights=weights,
                    fusion="rrf" if fusion == "rrf" else "wap",
                    data=dataset,
                    search=search,
                    progress=progress,
                )
                for members in ensembles
            ]
            if stem is not None:
                plans = [plan.renamed(stem) for plan in plans]
            for plan in plans:
                files += export_plan(
                    plan,
                    folder=workspace / "exports",
                    precisions=precisions,
                    data=dataset,
                    shape=shape,
                    tune_epochs=tune_epochs or 0,
                    progress=progress,
                    warn=warn,
                    on_refusal=refused.append,
                )
        if files:
            _show(console, files)
        if card:
            from fer_deploy.export.card import write_card

            for name in dict.fromkeys(file.name for file in files):
                console.print(f"card: {write_card(name, folder=workspace / 'exports')}", highlight=False)
        if refused:
            raise ParityError("; ".join(str(error) for error in refused))


def _check_usage(
    names: tuple[str, ...],
    ensembles: list[tuple[str, ...]],
    *,
    weights: tuple[float, ...] | None,
    search: bool,
    fusion: str,
) -> None:
    for name in names:
        if "+" in name:
            raise click.UsageError(f"{name!r} is a fusion: write --ensemble {name.replace('+', ',')}")
    if not ensembles and (weights or search or fusion == "rrf"):
        raise click.UsageError("--weights, --search and --fusion go with --ensemble")
    if weights and search:
        raise click.UsageError("--weights says the weights and --search looks for them: give one of the two")
    for members in ensembles:
        if len(members) < 2:
            raise click.UsageError(f"--ensemble needs two members or more, got {','.join(members)}")
        if weights and len(weights) != len(members):
            raise click.UsageError(f"--weights has {len(weights)} numbers for {len(members)} members")


def _show(console: Console, files: list[ExportedFile]) -> None:
    """The table of what was written, and what is to be said of single files."""
    from rich.table import Table

    splits = {"validation": files[0].parity.faces_from, "test": files[0].accuracy_split or ""}
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("file", "kB", "nodes", "max |Δp|", "mean |Δp|", "flips", "valid. %", "test %"):
        table.add_column(
            title, justify="left" if title == "file" else "right", no_wrap=title != "file", overflow="fold"
        )
    for file in files:
        parity = file.parity
        drawn = parity.faces_from == "drawn faces"
        table.add_row(
            file.path.name,
            f"{file.bytes / 1000:,.0f}",
            str(file.nodes),
            f"{parity.max_difference:.1e}",
            f"{parity.mean_difference:.1e}",
            str(len(parity.whole.flips)),
            "–" if drawn else f"{100 * parity.accuracy:.2f}",
            "–" if file.accuracy is None else f"{100 * file.accuracy:.2f}",
        )
    console.print(table)
    first = files[0].parity
    scored = "" if not splits["test"] else f"; valid.: {splits['validation']}, test: {splits['test']}"
    say = functools.partial(console.print, highlight=False, markup=False)
    say(f"Δp, flips: against {first.reference}, {first.whole.faces:,} faces ({first.faces_from}){scored}", style="dim")
    for file in files:
        if len(file.members) > 1:
            shares = ", ".join(
                f"{member} {weight:.3g}" for member, weight in zip(file.members, file.weights.values, strict=True)
            )
            say(f"{file.path.name}: weights {shares} ({file.weights.source})")
        if file.note:
            say(f"{file.path.name}: {file.note}")
        flips = file.parity.whole.flips
        if flips:
            rows = ", ".join(map(str, flips[:8])) + (f" and {len(flips) - 8} more (manifest.json)" * (len(flips) > 8))
            say(f"{file.path.name}: another first class than PyTorch's in rows {rows}")
    say(f"written to {files[0].path.parent}")
