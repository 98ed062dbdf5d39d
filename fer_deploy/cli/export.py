"""`ferdeploy export`: runs to self-contained ONNX files, each checked before it is moved into place."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fer_deploy.cli.console import report_console, step_progress
from fer_deploy.cli.errors import error_line
from fer_deploy.cli.options import data_options, open_data, workspace_option
from fer_deploy.model.names import DYNAMIC, PRECISIONS, Shape, parse_shape

if TYPE_CHECKING:
    from rich.console import Console

    from fer_deploy.ensemble import Fusion
    from fer_deploy.export.metadata import ExportedFile
    from fer_deploy.export.plan import Plan
    from fer_deploy.faces import DataRequest, Dataset

EPILOG = """\b
Examples:
  ferdeploy export                                      every run of the workspace
  ferdeploy export B E --data fer2013.csv               two runs, checked and scored on real faces
  ferdeploy export --ensemble B,E                       the study's pair in one file, B+E.onnx
  ferdeploy export --ensemble B,E --search --data ...   with weights searched on the validation split
  ferdeploy export --ensemble B,E --name pair           the same, called pair.onnx
  ferdeploy export --ensemble B,B~mirror                a run on the face and on its mirror image
  ferdeploy export B --precision fp32,fp16,int8 --data fer2013.csv
  ferdeploy export B --static 1x48x48                   B.1x48x48.onnx, for engines that need fixed sizes
"""


def _read_names(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Each value's names, separated by commas."""
    lists = [tuple(part.strip() for part in value.split(",")) for value in values]
    for names in lists:
        if not all(names):
            raise click.BadParameter(f"{','.join(names)!r} has an empty name: write B,E", context, parameter)
    return lists


def _read_weights(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Numbers separated by commas."""
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers: write .45,.55", context, parameter) from None


def _read_shape(context: click.Context, parameter: click.Parameter, value: str | None) -> Shape:
    """Batch, height and width; `n` leaves an axis free."""
    if value is None:
        return DYNAMIC
    try:
        return parse_shape(value.lower())
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


def _read_precisions(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Precisions separated by commas, in the order of PRECISIONS."""
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
    help="Fuse these runs into one file. B~mirror is run B on the mirrored face. Repeatable.",
)
@click.option(
    "--weights",
    callback=_read_weights,
    metavar=".45,.55",
    help="The members' weights. Default: the study's for its own ensembles, else equal weights.",
)
@click.option("--search", is_flag=True, help="Search the weights on the validation split. Needs data.")
@click.option(
    "--fusion",
    type=click.Choice(["wap", "rrf"]),
    default="wap",
    show_default=True,
    help="Weighted average of probabilities, or reciprocal rank fusion.",
)
@click.option(
    "--name", "stem", metavar="STEM", help="Name of the file, if there is only one. Default: its members, B+E."
)
@click.option(
    "--precision",
    "precisions",
    callback=_read_precisions,
    default="fp32",
    show_default=True,
    metavar="fp32,fp16,int8",
    help="How weights are stored. int8 needs data for calibration.",
)
@click.option(
    "--tune",
    "tune_epochs",
    type=click.IntRange(1),
    metavar="N",
    help="For int8: first fine-tune the weights for N epochs with the rounding of the file.",
)
@click.option("--static", "shape", callback=_read_shape, metavar="1x48x48", help="Fix batch, height and width.")
@data_options
@workspace_option
@click.option(
    "--license",
    "license_text",
    metavar="TEXT",
    help="The weights' licence, written into the file: an SPDX identifier or a line of text. Default: research use for "
    "runs on FER2013, none stated for other data.",
)
@click.option("--card", is_flag=True, help="Also write a Hugging Face model card and upload folder.")
@click.option("--strict", is_flag=True, help="Treat every warning as an error.")
def command(
    names: tuple[str, ...],
    ensembles: list[tuple[str, ...]],
    weights: tuple[float, ...] | None,
    search: bool,
    fusion: Fusion,
    stem: str | None,
    precisions: tuple[str, ...],
    tune_epochs: int | None,
    shape: Shape,
    data: DataRequest,
    workspace: Path,
    license_text: str | None,
    card: bool,
    strict: bool,
) -> None:
    """Write runs as self-contained ONNX files, and check each against PyTorch.

    With NAMEs: those runs. With --ensemble: the fused file. With neither: every run of the workspace. A file is moved
    to exports/ only if ONNX Runtime and PyTorch agree on every face.
    """
    _check_usage(names, ensembles, weights=weights, search=search, fusion=fusion)
    _check_files(len(names) + len(ensembles), stem=stem, precisions=precisions, tune_epochs=tune_epochs)
    console = report_console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped run removes its temporary files
    with error_line(on_interrupt="No half-written file is left; run the same command again."):
        from fer_deploy.errors import ParityError, UnavailableError, install

        data = _as_trained(data, [*names, *(member for members in ensembles for member in members)], workspace)
        dataset = open_data(data, workspace=workspace)
        try:
            from fer_deploy.export.plan import plan_ensemble, plan_run
            from fer_deploy.export.write import export_plan
        except ModuleNotFoundError as error:
            raise UnavailableError(f"{error.name} is not installed: {install('train')}") from error

        warn = functools.partial(_warn, console, strict)
        chosen = list(names) if names or ensembles else _complete_runs(workspace, warn)
        refused: list[ParityError] = []
        plan_fusion = functools.partial(
            plan_ensemble, workspace=workspace, weights=weights, fusion=fusion, data=dataset, search=search
        )
        write = functools.partial(
            export_plan,
            folder=workspace / "exports",
            precisions=precisions,
            shape=shape,
            tune_epochs=tune_epochs or 0,
            warn=warn,
            on_refusal=refused.append,
        )
        with step_progress(stderr=False) as progress:
            plans = [plan_run(name, workspace=workspace) for name in chosen]
            plans += [plan_fusion(members, progress=progress) for members in ensembles]
            if stem is not None:
                plans = [plan.renamed(stem) for plan in plans]
            if license_text is not None:
                plans = [plan.licensed(license_text) for plan in plans]
            files = [
                file
                for plan in plans
                for file in write(plan, data=_data_for(plan, dataset, data, warn), progress=progress)
            ]
        _show(console, files)
        if card:
            _write_cards(console, files, folder=workspace / "exports")
        if refused:
            raise ParityError("; ".join(str(error) for error in refused))


def _warn(console: Console, strict: bool, message: str) -> None:
    """Print a warning, or raise it with --strict."""
    from rich.markup import escape

    from fer_deploy.errors import ExportError, printable

    if strict:
        raise ExportError(f"{message} (--strict)")
    console.print(f"[yellow]note:[/] {escape(printable(message))}", highlight=False)


def _as_trained(data: DataRequest, members: Sequence[str], workspace: Path) -> DataRequest:
    """The request, with the label map that all these runs were trained with if the user gives none."""
    folders = [workspace / "training" / member.partition("~")[0] for member in members]
    if data.source is None or data.labels is not None or not all((folder / "run.json").is_file() for folder in folders):
        return data
    from fer_deploy.errors import UnavailableError, install

    try:
        from fer_deploy.training.run import Run
    except ModuleNotFoundError as error:
        raise UnavailableError(f"{error.name} is not installed: {install('train')}") from error
    label_maps = {Run.open(folder).label_map for folder in folders}
    return replace(data, labels=label_maps.pop()) if len(label_maps) == 1 else data


def _data_for(plan: Plan, dataset: Dataset | None, data: DataRequest, warn: Callable[[str], None]) -> Dataset | None:
    """The faces for a plan's files. Default data with other labels than the plan's is left out."""
    if dataset is None or data.source is not None or dataset.labels == plan.labels:
        return dataset
    warn(f"{plan.name}: it has other labels than {dataset.name}, which is not used: give its own data with --data")
    return None


def _complete_runs(workspace: Path, warn: Callable[[str], None]) -> list[str]:
    """The names of the workspace's complete runs. Warns of those whose weights are missing."""
    from fer_deploy.errors import ExportError
    from fer_deploy.training.run import list_runs

    names = []
    for run in list_runs(workspace):
        if run.weights_path.exists():
            names.append(run.name)
        else:
            warn(f"{run.folder}: left out, its weights are not here: train it again")
    if not names:
        raise ExportError(f"{workspace / 'training'} has no complete run: train one with `ferdeploy train`")
    return names


def _write_cards(console: Console, files: list[ExportedFile], *, folder: Path) -> None:
    from fer_deploy.export.card import write_card
    from fer_deploy.files import shown

    for name in dict.fromkeys(file.name for file in files):
        console.print(f"card: {shown(write_card(name, folder=folder))}", highlight=False, markup=False)


def _check_files(count: int, *, stem: str | None, precisions: tuple[str, ...], tune_epochs: int | None) -> None:
    if stem is not None and count != 1:
        raise click.UsageError("--name goes with one NAME or one --ensemble")
    if tune_epochs and "int8" not in precisions:
        raise click.UsageError("--tune is for int8: add --precision int8")


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
        raise click.UsageError("--weights sets the weights and --search searches them: give one of the two")
    for members in ensembles:
        if len(members) < 2:
            raise click.UsageError(f"--ensemble needs two members or more, got {','.join(members)}")
        if weights and len(weights) != len(members):
            raise click.UsageError(f"--weights has {len(weights)} numbers for {len(members)} members")


def _show(console: Console, files: list[ExportedFile]) -> None:
    """The table of the files that were written, and notes on single files."""
    if not files:
        return
    from rich.table import Table
    from rich.text import Text

    from fer_deploy.errors import printable

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("file", "kB", "nodes", "max |Δp|", "mean |Δp|", "flips", "valid. %", "test %"):
        table.add_column(
            title, justify="left" if title == "file" else "right", no_wrap=title != "file", overflow="fold"
        )
    for file in files:
        parity = file.parity
        table.add_row(
            Text(printable(file.path.name)),  # named after a folder, which may be called anything
            f"{file.bytes / 1000:,.0f}",
            str(file.nodes),
            f"{parity.max_difference:.1e}",
            f"{parity.mean_difference:.1e}",
            str(len(parity.whole.flips)),
            "–" if parity.faces_from == "drawn faces" else f"{100 * parity.accuracy:.2f}",
            "–" if file.accuracy is None else f"{100 * file.accuracy:.2f}",
        )
    console.print(table)

    def say(line: str, style: str | None = None) -> None:
        console.print(printable(line), style=style, highlight=False, markup=False)

    first, test = files[0].parity, files[0].accuracy_split
    scored = f"; valid.: {first.faces_from}, test: {test}" if test else ""
    say(f"Δp, flips: against {first.reference}, {first.whole.faces:,} faces ({first.faces_from}){scored}", style="dim")
    for file in files:
        for note in _notes(file):
            say(f"{file.path.name}: {note}")
    say(f"written to {files[0].path.parent}")


def _notes(file: ExportedFile) -> Iterator[str]:
    """A fusion's weights, how an int8 file was made, and the faces whose answers differ from PyTorch's."""
    if len(file.members) > 1:
        shares = zip(file.members, file.weights.values, strict=True)
        yield f"weights {', '.join(f'{member} {share:.3g}' for member, share in shares)} ({file.weights.source})"
    if file.note:
        yield file.note
    if flips := file.parity.whole.flips:
        rows = ", ".join(map(str, flips[:8])) + (f" and {len(flips) - 8} more (manifest.json)" * (len(flips) > 8))
        yield f"the most probable class differs from PyTorch's in rows {rows}"
