"""`ferdeploy predict`: the emotions of the faces in pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from fer_deploy.cli.errors import error_line
from fer_deploy.errors import FerDeployError


@click.command("predict")
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="An exported ONNX file.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON a face.")
def command(photos: tuple[Path, ...], model: Path | None, as_json: bool) -> None:
    """Read the emotions in pictures of faces."""
    with error_line():
        from fer_deploy.pictures import shown
        from fer_deploy.recognizer import Recognizer

        recognizer = Recognizer(model)
        failed = 0
        for photo in photos:
            try:
                result = recognizer.predict(photo)
            except FerDeployError as error:
                failed += 1
                click.echo(f"error: {error}", err=True)
                continue
            if as_json:
                click.echo(json.dumps({"file": shown(photo), **result.as_dict()}, ensure_ascii=False))
            else:
                click.echo(f"{shown(photo)}: {result.label} {result.probability:.1%}")
        sys.exit(1 if failed else 0)
