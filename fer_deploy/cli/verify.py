"""`ferdeploy verify`: prove an exported file again."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fer_deploy.cli.console import step_progress
from fer_deploy.cli.options import data_option, open_data, workspace_option

EPILOG = """\b
Examples:
  ferdeploy verify exports/B.onnx
  ferdeploy verify exports/*.onnx --data fer2013.csv --strict

\b
What is checked, in order:
  contract         the file's structure, before any engine is given it: input, output, labels, standard operators only
  sha256           the bytes are those that the manifest beside the file records
  golden vectors   the recorded pictures get the recorded probabilities
  parity           ONNX Runtime says of every face what PyTorch says (where torch and the run folders are there)
"""


@click.command("verify", epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, metavar="FILE.onnx...", type=click.Path(path_type=Path))
@data_option
@workspace_option
@click.option("--strict", is_flag=True, help="Take a check that could not be made for a failure.")
@click.pass_context
def command(context: click.Context, files: tuple[Path, ...], data: str | None, workspace: Path, strict: bool) -> None:
    """Prove exported ONNX files again. Exit code 1 when a check fails."""
    from rich.console import Console
    from rich.markup import escape

    from fer_deploy.cli.errors import error_line

    console = Console()
    given = context.get_parameter_source("workspace") != click.core.ParameterSource.DEFAULT
    marks = {"ok": "[green]ok[/]     ", "failed": "[red]failed[/] ", "skipped": "[yellow]skipped[/]"}
    failed = []
    with error_line():
        from fer_deploy.export.verify import verify_file

        dataset = open_data(data, workspace=workspace)
        for path in files:
            with step_progress(stderr=False) as progress:
                found = verify_file(path, workspace=workspace if given else None, data=dataset, progress=progress)
            console.print(f"[bold]{escape(str(path))}[/]", highlight=False)
            for check in found.checks:
                console.print(f"  {marks[check.status]} {check.name}: {escape(check.detail)}", highlight=False)
            if found.failed or (strict and found.skipped):
                failed.append(path)
    if failed:
        what = "failed a check" if not strict else "failed a check, or one could not be made (--strict)"
        click.echo(f"error: {', '.join(map(str, failed))} {what}", err=True)
        sys.exit(1)
