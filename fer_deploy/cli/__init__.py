"""The command line: one module per command, imported only when the command runs.

`ferdeploy --help` is therefore fast: it prints the summaries in the table below and imports no command.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from importlib import import_module
from itertools import takewhile
from typing import Any, NoReturn

import click

from fer_deploy import __version__
from fer_deploy.cli.errors import INTERRUPTED, close_streams, conclude, open_streams

VERBS: dict[str, str] = {
    "data": "Show what a data set holds, and what is wrong with it.",
    "train": "Train variants, or resume an interrupted run.",
    "export": "Write runs as self-contained ONNX files, and check each against PyTorch.",
    "verify": "Check exported ONNX files again.",
    "bench": "Measure accuracy, cost and latency side by side.",
    "predict": "Recognise emotions in pictures, videos and a camera's picture.",
    "score": "Classify a whole data set, on this machine or a cluster.",
    "serve": "Serve a model over HTTP.",
    "demo": "Serve a web page that recognises emotions in the browser.",
    "variants": "Show the networks and recipes that can be trained.",
    "crop": "Cut faces out of photos, to train on them.",
    "borrow": "Turn a published network's weights into a starting point for training.",
}
"""Each command with its summary, in the order in which a newcomer needs them."""


class LazyGroup(click.Group):
    """A group whose commands live in `fer_deploy.cli.<name>` and are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The commands' names, in the table's order."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None when there is none of that name."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"fer_deploy.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Import and run a command. Ctrl-C before the command can report it ends the program."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped.", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write names and summaries without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command as click does; an unknown name gets a hint at the nearest one."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Commands: {', '.join(VERBS)}."
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with: ferdeploy predict PHOTO. To make a model: ferdeploy train, ferdeploy export, ferdeploy bench. "
    "Each command has --help with examples.",
)
@click.version_option(__version__, prog_name="ferdeploy")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Facial-expression classifiers, from training to one ONNX file that any app can embed."""
    ctx.obj = {"debug": debug}


def main(*arguments: str) -> NoReturn:
    """Run the command line and exit.

    Args:
        *arguments: the words of the command; those of the process by default.
    """
    open_streams()
    words = list(arguments) or sys.argv[1:]
    try:
        code = cli.main(args=words, prog_name="ferdeploy", standalone_mode=False)  # a code where click ended early
        code = code if isinstance(code, int) else 0
    except BaseException as error:  # whatever ends a command becomes one line and a code
        code = conclude(error, debug="--debug" in takewhile(lambda word: word.startswith("-"), words))
    with suppress(ValueError):  # not the main thread
        # Nothing is left to interrupt but the shutdown of libraries, where Ctrl-C would print a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(close_streams(code))
