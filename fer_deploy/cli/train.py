"""`ferdeploy train`: run recipes, show how they go, and stop and go on without loss."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from pathlib import Path

import click

from fer_deploy.cli.options import FiniteRange, data_option, device_option, workspace_option

EPILOG = """\b
Examples:
  ferdeploy train                          B and E, the pair that the study deployed
  ferdeploy train B --data fer2013.csv     one variant
  ferdeploy train all --time-limit 9m      the whole table, nine minutes at a time
  ferdeploy train my.toml --epochs 20      a recipe of your own, 20 epochs over all its stages
  ferdeploy train A --set stage.0.optimiser.lr=5e-3 --name A-slow
  ferdeploy train all --side-by-side 4     four runs at a time on one large GPU
  torchrun --nproc-per-node 2 -m fer_deploy train B     two processes, one batch between them

A stopped run goes on where it stood when the same command is given again; a complete one is left alone.
"""


def read_duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """A length of time as people write it (90, 90s, 9m, 1h30m), in seconds."""
    if value is None:
        return None
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", value.strip().lower())
    seconds = 0.0
    if found:
        hours, minutes, rest = (float(part or 0) for part in found.groups())
        seconds = 3600 * hours + 60 * minutes + rest
    if seconds <= 0:
        raise click.BadParameter(f"{value!r} is not a length of time: write 90s, 9m or 1h30m", ctx, param)
    return seconds


def wait_passively() -> None:
    """Let OpenMP's threads sleep where they wait for each other, unless the environment says otherwise.

    By default they spin, and where a core is shared with anything else a spinning thread keeps the one from running
    that it waits for. OpenMP reads this once, when PyTorch brings it in.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def keep_freed_memory() -> bool:
    """Have GNU's malloc keep the maps that a training step frees for the next step; say whether it does.

    By default it gives large blocks back to the kernel, which has to clear every page of them again: on one thread a
    tenth of a step of EfficientNet-B0 at 48 pixels or of Lite2 at 128. The process's largest size stays what it was.
    Nothing changes where the C library is another one or the environment sets up malloc itself.
    """
    ours = {"MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & set(os.environ)
    if sys.platform != "linux" or ours or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mmap_max, trim_threshold = -4, -1  # the names' numbers in malloc.h; no block of its own, never trimmed
    return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, -1))


@click.command("train", epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME... | all | FILE.toml]")
@data_option
@workspace_option
@click.option(
    "--init",
    "initialisation",
    metavar="HOW",
    help="imagenet, xavier, default, or a .safetensors file. Default: as the recipe says.",
)
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", help="Budget of epochs over all stages of a recipe.")
@click.option(
    "--share",
    type=FiniteRange(min=0, min_open=True, max=1),
    default=1.0,
    metavar="SHARE",
    help="Learn from a random share of the training faces, such as 0.25, to see what more data would give.",
)
@click.option("--batch-size", type=click.IntRange(min=2), metavar="N", help="Faces a step, in all stages.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one value of the recipe, such as stage.0.optimiser.lr=1e-3. Repeatable.",
)
@click.option("--name", "run_name", metavar="RUN", help="Name of the run's folder. Default: the variant's name.")
@device_option
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Processor threads. Default: all cores.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Seed of every random draw."
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train N repeats with seeds from --seed on, and report mean and spread.",
)
@click.option(
    "--resume/--restart", default=True, help="Go on where a run of that name stood (the default), or begin anew."
)
@click.option(
    "--time-limit",
    callback=read_duration,
    metavar="TIME",
    help="End cleanly, all saved, before this has passed: 90s, 9m, 1h30m.",
)
@click.option(
    "--side-by-side",
    "at_once",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Train N runs at a time on the device, each in a process of its own: for small networks on a large GPU.",
)
def command(
    names: tuple[str, ...],
    data: str | None,
    workspace: Path,
    initialisation: str | None,
    epochs: int | None,
    share: float,
    batch_size: int | None,
    changes: tuple[str, ...],
    run_name: str | None,
    device: str,
    threads: int | None,
    seed: int,
    seeds: int | None,
    resume: bool,
    time_limit: float | None,
    at_once: int,
) -> None:
    """Train variants; a stopped run goes on where it stood.

    NAME is a variant (`ferdeploy variants` lists them), `all` for every one of the study's, or the path of a TOML
    recipe. With no name: B and E. Each run is written to training/NAME in the workspace.
    """
    began = time.monotonic()  # loading counts towards a limit of time too
    wait_passively()
    keep_freed_memory()
    from fer_deploy.cli.errors import error_line

    with error_line(on_interrupt="Give the same command again to go on."):
        from fer_deploy.errors import UnavailableError, install

        try:
            import torch

            from fer_deploy.cli.training_display import report_plan, train_with_display
            from fer_deploy.training.plan import plan_runs
        except ModuleNotFoundError as error:
            raise UnavailableError(f"{error.name} is not installed: {install('train')}") from error
        plan = plan_runs(
            names,
            workspace=workspace,
            initialisation=initialisation,
            epochs=epochs,
            batch_size=batch_size,
            changes=changes,
            run_name=run_name,
            seed=seed,
            seeds=seeds,
        )
        from fer_deploy.faces import load_dataset

        dataset = load_dataset(data, workspace=workspace).with_share(share)
        if threads is not None:
            torch.set_num_threads(threads)
        report_plan(plan, dataset, workspace=workspace, device=device, resume=resume, timed=time_limit is None)
        deadline = None if time_limit is None else began + time_limit
        if at_once > 1 and len(plan) > 1:
            from fer_deploy.cli.side_by_side import train_side_by_side

            failed = train_side_by_side(
                plan, at_once=at_once, data=data, workspace=workspace, device=device, threads=threads, resume=resume,
                share=share, deadline=deadline,
            )  # fmt: skip
        else:
            failed = train_with_display(
                plan, dataset, workspace=workspace, device=device, resume=resume, deadline=deadline
            )
    if failed:
        raise SystemExit(1)
