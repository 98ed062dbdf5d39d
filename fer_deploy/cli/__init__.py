"""The command line: one file a verb, found by its name and loaded only when it is called.

`ferdeploy --help` therefore answers at once: it reads each verb's one-line summary from the table below and imports
none of them.
"""

from __future__ import annotations

import io
import sys
from importlib import import_module
from typing import Any

import click

from fer_deploy import __version__

VERBS: dict[str, str] = {
    "train": "Train variants; a stopped run goes on where it stood.",
    "export": "Write runs as self-contained ONNX files, and prove each.",
    "verify": "Prove an ONNX file again.",
    "bench": "Measure accuracy, cost and latency side by side.",
    "predict": "Read the emotions in pictures.",
    "score": "Read a whole data set, here or on a cluster.",
    "serve": "Read faces over HTTP.",
    "demo": "Serve a web page that reads faces in the browser.",
    "variants": "Show the networks and recipes that can be trained.",
}


class LazyGroup(click.Group):
    """A group whose commands live in `fer_deploy.cli.<verb>` and are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The verbs, in the order in which a newcomer needs them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and give the command of a verb, or None when there is no such verb."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"fer_deploy.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the verbs and their summaries without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest verb named when there is no such one."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" There are: {', '.join(VERBS)}."
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with: ferdeploy train, ferdeploy export --ensemble B,E, ferdeploy bench. "
    "Each command has --help with examples.",
)
@click.version_option(__version__, prog_name="ferdeploy")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Facial-expression classifiers, from training to one ONNX file that any app can embed."""
    ctx.obj = {"debug": debug}


def main(*arguments: Any) -> None:
    """Run the command line; the entry point of the program `ferdeploy`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks shall end no command
            stream.reconfigure(errors="replace" if stream.errors == "strict" else stream.errors)
    cli.main(args=list(arguments) or None, prog_name="ferdeploy")
