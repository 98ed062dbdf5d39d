"""`python -m fer_deploy.cli.crop`: the faces of photos as pictures of their own, for a recipe's `unlabelled`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from fer_deploy.cli.console import step_progress
from fer_deploy.cli.errors import error_line

if TYPE_CHECKING:
    from fer_deploy.detection.detector import FaceDetector

SMALLEST = 40
"""Pixels: a face smaller than this would be mostly invented at 48."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", metavar="DIR", type=click.Path(path_type=Path), required=True, help="Where the faces go.")
def main(photos: tuple[Path, ...], output: Path) -> None:
    """Cut the largest face out of each of PHOTOS: files, folders or patterns.

    Each becomes a grey PNG of 48x48 pixels in DIR, called as its photo is, framed as FER2013's faces are. Photos
    without a face, or with none of at least 40 pixels, give none. A face that is there already is not cut out again, so
    that a stopped run goes on.

    \b
    Example, for `distillation = { ..., unlabelled = "data/faces" }` in a recipe:
      python -m fer_deploy.cli.crop photos/ --output data/faces
    """
    with error_line(on_interrupt="Run the same command again and it goes on from here."):
        from fer_deploy.detection.detector import FaceDetector
        from fer_deploy.errors import DataError
        from fer_deploy.reading.inputs import find_inputs

        inputs = find_inputs(photos, leave_out=[output])
        problems = list(inputs.problems)
        pictures = [source for source in inputs.sources if not source.is_video]
        targets = {source: (output / source.place).with_suffix(".png") for source in pictures}
        if len(set(targets.values())) < len(targets):
            raise DataError("two photos would give a face of one name: name their folder, or cut them out one by one")
        detector = FaceDetector()
        found = there = 0
        with step_progress() as report:
            for done, source in enumerate(pictures, 1):
                if targets[source].exists():
                    there += 1
                else:
                    try:
                        found += _cut_out(source.path, targets[source], detector)
                    except DataError as error:
                        problems.append(str(error))
                report("photos", done, len(pictures))
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    already = f", {there:,} were there already" if there else ""
    click.echo(f"{output}: {found:,} faces from {len(pictures) - there:,} photos{already}")
    if problems:
        sys.exit(1)


def _cut_out(photo: Path, target: Path, detector: FaceDetector) -> bool:
    """Write the largest face of a photo; False when it has none. DataError when the photo cannot be read."""
    from PIL import Image

    from fer_deploy.faces.dataset import SIZE
    from fer_deploy.files import read_file, shown
    from fer_deploy.pictures import MAXIMUM_BYTES, read_picture
    from fer_deploy.reading.draw import save

    pixels = read_picture(read_file(photo, maximum_bytes=MAXIMUM_BYTES, what="picture"), name=shown(photo)).pixels
    boxes = detector.detect(pixels)
    if not boxes:
        return False
    face = Image.fromarray(detector.crop(pixels, max(boxes, key=lambda box: box.area))).convert("L")
    if face.width < SMALLEST:
        return False
    how = Image.Resampling.BOX if face.width > 2 * SIZE else Image.Resampling.BILINEAR
    save(target, np.asarray(face.resize((SIZE, SIZE), how)))
    return True


if __name__ == "__main__":
    main()
