"""`ferdeploy serve`: expressions of faces over HTTP."""

from __future__ import annotations

from pathlib import Path

import click

from fer_deploy.cli.options import FiniteRange, Millions, model_option, options_of, provider_option
from fer_deploy.machine import MAXIMUM_THREADS
from fer_deploy.serve.settings import ServiceSettings

EPILOG = """\b
Examples:
  ferdeploy serve
  ferdeploy serve --model exports/B+E.onnx --port 9000 --allow-origin http://localhost:3000
  curl --data-binary @face.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/v1/face
  curl -F pictures=@a.jpg -F pictures=@b.png http://127.0.0.1:8000/v1/faces

\b
/openapi.json describes all routes. /health, /ready and /metrics are for monitoring.
SIGTERM stops the service gracefully.
"""


@click.command("serve", epilog=EPILOG)
@model_option
@provider_option
@options_of(
    ServiceSettings,
    (
        "host", "port", "allowed_hosts", "allowed_origins", "threads", "maximum_queue", "maximum_batch",
        "maximum_bytes", "maximum_pixels", "maximum_large_pixels",
        "maximum_seconds", "drain_seconds", "log",
    ),
    flags={
        "allowed_hosts": "--allow-host",
        "allowed_origins": "--allow-origin",
        "maximum_queue": "--queue",
        "maximum_batch": "--batch",
        "maximum_bytes": "--megabytes",
        "maximum_pixels": "--megapixels",
        "maximum_large_pixels": "--large-megapixels",
        "maximum_seconds": "--seconds",
        "drain_seconds": "--drain",
    },
    kinds={
        "port": click.IntRange(0, 65535),
        "threads": click.IntRange(1, MAXIMUM_THREADS),
        "maximum_queue": click.IntRange(1),
        "maximum_batch": click.IntRange(1, 1024),
        "maximum_bytes": Millions(0.001, 1024),
        "maximum_pixels": Millions(0.001, 80),
        "maximum_large_pixels": Millions(0.001, 100_000),
        "maximum_seconds": FiniteRange(0.1, 600),
        "drain_seconds": FiniteRange(0, 600),
    },
)  # fmt: skip
def command(model: Path | None, providers: tuple[str, ...], settings: ServiceSettings) -> None:
    """Serve a model over HTTP."""
    from fer_deploy.cli.errors import error_line

    with error_line():
        from fer_deploy.errors import UnavailableError, install
        from fer_deploy.recognizer import Recognizer

        try:
            from fer_deploy.serve.server import serve
        except ModuleNotFoundError as error:
            raise UnavailableError(f"{error.name} is not installed: {install('serve')}") from error
        serve(Recognizer(model, threads=1, providers=providers or None), settings)
