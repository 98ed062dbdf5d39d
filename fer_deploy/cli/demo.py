"""`ferdeploy demo`: a web page that reads faces and expressions in photos and from the camera, in the browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from fer_deploy.cli.errors import error_line
from fer_deploy.cli.options import model_option

EPILOG = """\b
Examples:
  ferdeploy demo --fetch                  once: download ONNX Runtime for browsers and the face detector
  ferdeploy demo                          serve the page on this machine only
  ferdeploy demo --model exports/B+E.onnx --open
  ferdeploy demo --static site            write the page's files for any web server
"""


@click.command("demo", epilog=EPILOG)
@model_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8765,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Host name that requests may use besides those of this machine; * allows all. Repeat it for several.",
)
@click.option("--open", "open_browser", is_flag=True, help="Open the page in the browser.")
@click.option(
    "--static",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the page's files to DIR and stop.",
)
@click.option("--fetch", is_flag=True, help="Download the missing parts with npm and pip, and stop.")
def command(
    model: Path | None,
    host: str,
    port: int,
    allowed_hosts: tuple[str, ...],
    open_browser: bool,
    static: Path | None,
    fetch: bool,
) -> None:
    """Serve a web page that reads faces and expressions in photos and from the camera.

    The browser computes everything with ONNX Runtime: no picture leaves the machine that shows the page.
    """
    with error_line():
        if fetch:
            from fer_deploy.demo.parts import fetch_parts

            fetch_parts(lambda line: click.echo(line, err=True))
            click.echo("All parts of the page are on this machine: run `ferdeploy demo`.")
            return
        from fer_deploy.demo.site import build_site, write_site

        site = build_site(model)
        if static is not None:
            write_site(site, static)
            click.echo(
                f"{len(site.files)} files, {site.bytes / 1e6:.1f} MB, in {static}: any web server can host them. "
                "Browsers open the camera only over https or on localhost."
            )
            return
        from fer_deploy.demo.server import PageServer

        server = PageServer(site, host=host, port=port, allowed_hosts=allowed_hosts)
        click.echo(f"{site.model.name} ({site.model.precision}) at {server.address}   Ctrl-C stops.")
        if not server.loopback:
            click.echo(
                "Other machines can open the page too. Their browsers open the camera only over https.", err=True
            )
        server.serve(ready=(lambda: _open(server.address)) if open_browser else (lambda: None))


def _open(address: str) -> None:
    if not webbrowser.open(address):
        click.echo("No browser could be opened: open the address above yourself.", err=True)
