"""`ferdeploy train`: train recipes, show their progress, stop and resume without loss."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fer_deploy.cli.options import (
    FiniteRange,
    data_options,
    device_option,
    load_data,
    options_of,
    restart_option,
    threads_option,
    workspace_option,
)
from fer_deploy.training.request import TrainingRequest

if TYPE_CHECKING:
    from fer_deploy.faces import DataRequest

THREADS_PER_CORE = 8
"""More threads than cores repeat a run of a larger machine to the same bits. With many more, training takes hours."""

EPILOG = """\b
Examples:
  ferdeploy train                          B and E, the pair that the study deployed
  ferdeploy train B --data fer2013.csv     one variant
  ferdeploy train all --time-limit 9m      the study's eleven, nine minutes at a time
  ferdeploy train my.toml --epochs 20      your own recipe, 20 epochs over all its stages
  ferdeploy train B --data faces/ --labels raf-db     your own data; `ferdeploy data faces/` shows it first
  ferdeploy train A --set stage.0.optimiser.lr=5e-3 --name A-slow
  ferdeploy train lite0-96-taught --with-teachers     first its teachers
  ferdeploy train all --side-by-side 4     four runs at a time on one large GPU
  torchrun --nproc-per-node 2 -m fer_deploy train B     two processes share each batch

Run the same command again to resume a stopped run. A complete run is left alone.
"""


class Duration(click.ParamType[float]):
    """A length of time as people write it: 90, 90s, 9m, 1h30m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds."""
        if isinstance(value, float):
            return value
        number = r"(\d{1,9}(?:\.\d{1,9})?)"
        match = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", str(value).strip().lower())
        hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
        total = 3600 * hours + 60 * minutes + seconds
        if total <= 0:
            self.fail(f"{value!r} is not a length of time: write 90s, 9m or 1h30m", param, ctx)
        return total


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait for each other, unless the environment says otherwise.

    By default they spin. Where other programs share the cores, a spinning thread keeps the one that it waits for from
    running. OpenMP reads this once, when PyTorch loads it.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def keep_freed_memory() -> bool:
    """Have GNU's malloc keep the memory that a training step frees for the next step; return whether it does.

    By default it returns large blocks to the kernel, which has to clear every page of them again: on one thread a
    tenth of a step of EfficientNet-B0 at 48 pixels or of Lite2 at 128. The process's largest size does not change.
    Nothing is done where the C library is another one or the environment already configures malloc.
    """
    configured = {"MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & set(os.environ)
    if sys.platform != "linux" or configured or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, -1))


@click.command("train", epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME... | all | FILE.toml]")
@data_options
@workspace_option
@device_option
@threads_option()
@restart_option
@options_of(
    TrainingRequest,
    (
        "initialisation", "epochs", "batch_size", "changes", "run_name", "share", "seed", "seeds", "with_teachers",
        "time_limit", "at_once", "log",
    ),
    flags={"initialisation": "--init", "changes": "--set", "run_name": "--name", "at_once": "--side-by-side"},
    kinds={
        "epochs": click.IntRange(1, 100_000),
        "batch_size": click.IntRange(2, 65_536),
        "share": FiniteRange(min=0, min_open=True, max=1),
        "seed": click.IntRange(0, 2**53),
        "seeds": click.IntRange(1, 10_000),
        "time_limit": Duration(),
        "at_once": click.IntRange(1, 256),
    },
    into="request",
)  # fmt: skip
def command(
    names: tuple[str, ...],
    data: DataRequest,
    workspace: Path,
    device: str,
    threads: int | None,
    restart: bool,
    request: TrainingRequest,
) -> None:
    """Train variants, or resume stopped runs.

    NAME is a variant (`ferdeploy variants` lists them), a recipe in the workspace's training/recipes/, the path of a
    TOML recipe, or `all` for the study's eleven variants. Without a name: B and E. Each run is written to
    training/NAME in the workspace.
    """
    began = time.monotonic()  # loading counts towards the time limit
    wait_passively()
    keep_freed_memory()
    from fer_deploy.cli.errors import error_line

    with error_line(on_interrupt="Run the same command again to resume."):
        from fer_deploy.errors import UnavailableError, install
        from fer_deploy.machine import check_threads

        if threads is not None:
            check_threads(threads, per_core=THREADS_PER_CORE)
        try:
            import torch

            from fer_deploy.cli.train_display import TrainingCall, report_plan, train_with_display
            from fer_deploy.training.plan import labels_of_plan, plan_runs
        except ModuleNotFoundError as error:
            raise UnavailableError(f"{error.name} is not installed: {install('train')}") from error
        plan = plan_runs(names, workspace=workspace, request=request)
        data = dataclasses.replace(data, labels=labels_of_plan(plan, data.labels))
        if request.log is not None:
            from fer_deploy.training.tensorboard import event_writer

            event_writer()  # before the data is read
        dataset = load_data(data, workspace=workspace).with_share(request.share)
        if threads is not None:
            torch.set_num_threads(threads)
        call = TrainingCall(
            workspace=workspace, data=data, device=device, threads=threads, restart=restart, share=request.share,
            at_once=request.at_once, deadline=None if request.time_limit is None else began + request.time_limit,
            log=request.log,
        )  # fmt: skip
        report_plan(plan, dataset, call)
        failed = train_with_display(plan, dataset, call)
    if failed:
        raise SystemExit(1)
