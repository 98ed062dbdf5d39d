"""`ferdeploy serve`: faces in, emotions out, over HTTP."""

from __future__ import annotations

from pathlib import Path

import click

from fer_deploy.cli.options import FiniteRange

EPILOG = """\b
Examples:
  ferdeploy serve
  ferdeploy serve --model exports/B+E.onnx --port 9000
  curl --data-binary @face.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/v1/face
  curl -F pictures=@a.jpg -F pictures=@b.png http://127.0.0.1:8000/v1/faces

\b
/openapi.json describes all routes; /health, /ready and /metrics are for those who run it.
A full queue answers 503 at once. SIGTERM ends it gracefully.
"""


@click.command("serve", epilog=EPILOG)
@click.option("--model", type=click.Path(path_type=Path), help="An exported ONNX file. Default: the package's own.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is everywhere.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--threads", type=click.IntRange(1), help="Threads that decode and compute. Default: one a core.")
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="Where to compute: cpu, cuda, ...")
@click.option("--queue", "maximum_queue", type=click.IntRange(1), default=256, show_default=True,
              help="Faces that may wait; more get 503 at once.")  # fmt: skip
@click.option("--batch", "maximum_batch", type=click.IntRange(1, 1024), default=32, show_default=True,
              help="Faces computed together at most.")  # fmt: skip
@click.option("--megabytes", type=FiniteRange(0.001, 1024), default=10.0, show_default=True,
              help="A request's body, at most.")  # fmt: skip
@click.option("--megapixels", type=FiniteRange(0.001, 80), default=25.0, show_default=True,
              help="A picture, at most.")  # fmt: skip
@click.option("--seconds", "maximum_seconds", type=FiniteRange(0.1, 600), default=10.0, show_default=True,
              help="A request, from its first byte to its answer, at most.")  # fmt: skip
@click.option("--drain", "drain_seconds", type=FiniteRange(0, 600), default=0.0, show_default=True,
              help="After SIGTERM, seconds to go on while /ready says no.")  # fmt: skip
@click.option("--log", type=click.Choice(["json", "text"]), help="Default: text on a terminal, json elsewhere.")
def command(
    model: Path | None,
    host: str,
    port: int,
    threads: int | None,
    providers: tuple[str, ...],
    maximum_queue: int,
    maximum_batch: int,
    megabytes: float,
    megapixels: float,
    maximum_seconds: float,
    drain_seconds: float,
    log: str | None,
) -> None:
    """Serve a model over HTTP."""
    import sys

    from fer_deploy.cli.errors import error_line

    with error_line():
        from fer_deploy.errors import UnavailableError, install
        from fer_deploy.recognizer import Recognizer

        try:
            from fer_deploy.serve.server import serve
            from fer_deploy.serve.settings import ServiceSettings
        except ModuleNotFoundError as error:
            raise UnavailableError(f"{error.name} is not installed: {install('serve')}") from error
        maximum_bytes = int(megabytes * 1_000_000)
        settings = ServiceSettings(
            host=host,
            port=port,
            threads=threads or 0,
            maximum_queue=maximum_queue,
            maximum_batch=maximum_batch,
            maximum_bytes=maximum_bytes,
            maximum_held_bytes=max(ServiceSettings.maximum_held_bytes, maximum_bytes),
            maximum_pixels=int(megapixels * 1_000_000),
            maximum_seconds=maximum_seconds,
            drain_seconds=drain_seconds,
            log=log or ("text" if sys.stdout.isatty() else "json"),
        )
        serve(Recognizer(model, threads=1, providers=providers or None), settings)
