"""`ferdeploy verify`: check an exported file again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fer_deploy.cli.console import console as make_console
from fer_deploy.cli.console import step_progress
from fer_deploy.cli.errors import error_line
from fer_deploy.cli.options import data_options, open_data, workspace_option

if TYPE_CHECKING:
    from fer_deploy.export.verify import Verification
    from fer_deploy.faces import DataRequest

EPILOG = """\b
Examples:
  ferdeploy verify exports/B.onnx
  ferdeploy verify exports/*.onnx --data fer2013.csv --strict

\b
The checks, in order:
  contract         the structure, before an engine loads the file: input, output, labels, standard operators only
  answers          ONNX Runtime computes probabilities for drawn faces of several sizes, alone and in batches
  sha256           the bytes are those that manifest.json in the same folder records
  golden vectors   the recorded pictures get the recorded probabilities
  parity           ONNX Runtime and PyTorch agree on every face (needs the run folders, and torch)

\b
The last line states the result:
  proven               every check was made and passed
  sound but unproven   no check failed, but those listed could not be made
  failed               a check failed; a manifest that is damaged is a failure

\b
Exit codes:
  0   proven, or sound but unproven
  1   a check failed, or with --strict could not be made
  2   wrong usage
"""


@click.command("verify", epilog=EPILOG)
@click.argument("files", nargs=-1, required=True, metavar="FILE.onnx...", type=click.Path(path_type=Path))
@data_options
@workspace_option
@click.option("--strict", is_flag=True, help="Treat a check that could not be made as a failure.")
@click.pass_context
def command(context: click.Context, files: tuple[Path, ...], data: DataRequest, workspace: Path, strict: bool) -> None:
    """Check exported ONNX files again: structure, answers, recorded hashes and vectors, and parity with PyTorch."""
    given = context.get_parameter_source("workspace") != click.core.ParameterSource.DEFAULT
    with error_line():
        from fer_deploy.errors import printable
        from fer_deploy.export.verify import verify_file

        console = make_console()
        marks = {"ok": "green", "failed": "red", "skipped": "yellow"}
        dataset = open_data(data, workspace=workspace)
        results = []
        for path in files:
            with step_progress(stderr=False) as progress:
                result = verify_file(path, workspace=workspace if given else None, data=dataset, progress=progress)
            results.append(result)
            console.print(printable(str(path)), style="bold", markup=False)
            for check in result.checks:
                # Names and metadata of a file that somebody else made may hold control characters.
                console.print(f"  [{marks[check.status]}]{check.status:<7}[/] ", end="")
                console.print(f"{check.name}: {printable(check.detail)}", markup=False, soft_wrap=True)
            console.print(f"  {describe(result)}", markup=False, soft_wrap=True)
        if len(results) > 1:
            console.print(_summary(results), markup=False, soft_wrap=True)
        bad = [result.path for result in results if result.failed or (strict and result.skipped)]
        if bad:
            what = "failed a check" if not strict else "failed a check, or one could not be made (--strict)"
            click.echo(f"error: {', '.join(printable(str(path)) for path in bad)} {what}", err=True)
            sys.exit(1)


def describe(result: Verification) -> str:
    """A file's verdict, with the checks that failed or could not be made."""
    if result.failed:
        return f"failed: {', '.join(check.name for check in result.failed)}"
    if result.skipped:
        return f"{result.verdict}: could not check {', '.join(check.name for check in result.skipped)}"
    return f"{result.verdict}: every check passed"


def _summary(results: Sequence[Verification]) -> str:
    """How many files have each verdict."""
    verdicts = [result.verdict for result in results]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)]
    return f"{len(results)} files: {', '.join(counts)}"
