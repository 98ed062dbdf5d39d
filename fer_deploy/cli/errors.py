"""What a command does when it fails: one line on stderr and the right exit code, no traceback without --debug."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from fer_deploy.errors import FerDeployError


@contextmanager
def error_line(*, on_interrupt: str = "") -> Iterator[None]:
    """Turn a FerDeployError into `error: <message>` and exit 1, and Ctrl-C into `on_interrupt` and exit 130."""
    context = click.get_current_context(silent=True)
    debug = bool(context and (context.find_root().obj or {}).get("debug"))
    try:
        yield
    except FerDeployError as error:
        if debug:
            raise
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    except MemoryError:
        if debug:
            raise
        click.echo("error: out of memory: use a smaller batch or fewer files at a time", err=True)
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        where = f": {error.filename}" if error.filename else ""
        click.echo(f"error: {error.strerror or error}{where}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo(f"stopped. {on_interrupt}".rstrip(), err=True)
        sys.exit(130)
