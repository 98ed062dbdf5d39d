"""Options that several commands share, so that one name means one thing, and options made from a dataclass.

A settings dataclass documents each field by the string under it. `options_of` turns the fields into click options with
those strings as help, so that a name, a default and an explanation are written once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from fer_deploy.machine import MAXIMUM_THREADS

if TYPE_CHECKING:
    from fer_deploy.faces.dataset import Dataset
    from fer_deploy.faces.request import DataRequest

Command = TypeVar("Command", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """click's FloatRange, which also refuses nan and inf."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; a usage error for nan and inf."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class Millions(FiniteRange):
    """A whole number that people write in millions: `--megapixels 25` is 25,000,000 pixels.

    Defaults are whole numbers already and are not multiplied; help shows them in millions.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number times a million, rounded."""
        return value if isinstance(value, int) else round(super().convert(value, param, ctx) * 1_000_000)


def options_of(
    settings: type,
    names: Sequence[str],
    *,
    flags: Mapping[str, str] | None = None,
    kinds: Mapping[str, click.ParamType[Any] | type] | None = None,
    into: str = "settings",
) -> Callable[[Command], Command]:
    """Make click options from the fields of a documented dataclass, and one object from what the user gives.

    The command receives one argument, `into`, an object of the dataclass. A value that the dataclass refuses with
    ValueError is a usage error. An option's help is the first paragraph of the string under its field.

    Args:
        settings: a dataclass whose module is cheap to import, since `--help` imports it.
        names: the fields to offer, in the order in which help lists them; the others keep their defaults.
        flags: the option of a field where it is not the field's name with hyphens, such as
            `{"maximum_queue": "--queue"}`.
        kinds: click's type of a field where its annotation is not enough, such as `{"port": click.IntRange(0, 65535)}`.
        into: the name of the command's argument.

    Returns:
        A decorator for a command's function, to be put below `@click.command`.

    Raises:
        TypeError: a name is not a field, or its annotation has no click type.
    """
    hints = typing.get_type_hints(settings)
    fields = {field.name: field for field in dataclasses.fields(settings)}
    if unknown := [name for name in names if name not in fields]:
        raise TypeError(f"{settings.__name__} has no field {', '.join(unknown)}")
    explanations = _first_paragraphs(settings)
    decorators = [
        _option(
            fields[name],
            hints[name],
            flag=(flags or {}).get(name, "--" + name.replace("_", "-")),
            kind=(kinds or {}).get(name),
            explanation=explanations.get(name, ""),
        )
        for name in names
    ]

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def call(*arguments: Any, **values: Any) -> Any:
            chosen = {name: values.pop(name) for name in names}
            try:
                values[into] = settings(**chosen)
            except ValueError as error:
                raise click.UsageError(str(error)) from error
            return function(*arguments, **values)

        for decorator in reversed(decorators):
            call = decorator(call)
        return typing.cast(Command, call)

    return decorate


def _option(
    field: dataclasses.Field[Any], hint: Any, *, flag: str, kind: click.ParamType[Any] | type | None, explanation: str
) -> Callable[[Any], Any]:
    """The click option of one field."""
    has_default = field.default is not dataclasses.MISSING
    default: Any = field.default if has_default else None
    if field.default_factory is not dataclasses.MISSING:
        has_default, default = True, field.default_factory()
    more: dict[str, Any] = {"default": default} if has_default else {"required": True}
    more["help"] = explanation
    optional = [argument for argument in typing.get_args(hint) if argument is not type(None)]
    if typing.get_origin(hint) in (typing.Union, types.UnionType) and len(optional) == 1:
        hint = optional[0]
    if typing.get_origin(hint) is tuple:
        hint, more["multiple"] = typing.get_args(hint)[0], True
    if hint is bool:
        return click.option(flag, field.name, is_flag=True, **more)
    more["type"] = kind if kind is not None else _click_type(hint, field.name)
    if default not in (None, "", ()):
        more["show_default"] = f"{default / 1e6:g}" if isinstance(kind, Millions) else True
    return click.option(flag, field.name, **more)


def _click_type(hint: Any, name: str) -> click.ParamType[Any] | type:
    if typing.get_origin(hint) is Literal:
        return click.Choice(typing.get_args(hint))
    if hint is float:
        return FiniteRange()
    if hint is Path:
        return click.Path(path_type=Path)
    if hint in (int, str):
        return typing.cast(type, hint)
    raise TypeError(f"{name}: no click type for {hint!r}: pass one in `kinds`")


def _first_paragraphs(settings: type) -> dict[str, str]:
    from fer_deploy.recipes.load import field_documentation

    return {name: " ".join(text.split("\n\n")[0].split()) for name, text in field_documentation(settings).items()}


def open_data(data: DataRequest, *, workspace: Path) -> Dataset | None:
    """The data set of --data, else the default one if there is one, else None.

    A data/ folder that holds something else is ignored with a note, since the user did not name it.
    """
    named = data.source is not None or os.environ.get("FERDEPLOY_DATA")
    if not named and not (workspace / "data").exists():
        return None
    from fer_deploy.errors import NoDataError

    try:
        return load_data(data, workspace=workspace)
    except NoDataError as error:
        if named:
            raise
        click.echo(f"note: no data set is used: {str(error).partition(':')[0]}", err=True)
        return None


def load_data(data: DataRequest, *, workspace: Path) -> Dataset:
    """The data set of --data, or the default one, read with a progress bar. DataError if there is none."""
    from fer_deploy.cli.console import step_progress
    from fer_deploy.faces.load import load_dataset

    with step_progress() as progress:
        return load_dataset(data, workspace=workspace, progress=progress)


def threads_option(*, default: int | None = None, each: str = "") -> Callable[[Command], Command]:
    """`--threads`: processor threads; None means one for each core.

    Args:
        default: what a command takes that must not use all cores by itself.
        each: what has so many threads where there are several, such as "worker".
    """
    return click.option(
        "--threads",
        type=click.IntRange(1, MAXIMUM_THREADS),
        default=default,
        show_default="all cores" if default is None else True,
        metavar="N",
        help=f"Processor threads{f' of each {each}' if each else ''}, 1 to {MAXIMUM_THREADS}.",
    )


def data_options(function: Command) -> Command:
    """Add `--data`, `--labels` and `--split`; the command receives one `DataRequest`, as its argument `data`."""

    @functools.wraps(function)
    def call(*arguments: Any, **values: Any) -> Any:
        from fer_deploy.faces.request import DataRequest, SplitRequest

        labels, split = values.pop("labels"), values.pop("split")
        try:
            if labels is not None:
                from fer_deploy.labels import LabelMap

                labels = LabelMap.parse(labels)
            values["data"] = DataRequest(
                values["data"],
                labels=labels,
                split=None if split is None else SplitRequest.parse(split),
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        return function(*arguments, **values)

    for option in reversed(_DATA_OPTIONS):
        call = option(call)
    return typing.cast(Command, call)


_DATA_OPTIONS = (
    click.option(
        "--data",
        metavar="PATH",
        help="A folder of folders (one for each label), a table of files or pixels (CSV, TSV, JSON Lines, Parquet), "
        "fer2013.csv, a published data set as it was unpacked, an archive of any of these, or 'synthetic'. "
        "Default: $FERDEPLOY_DATA, then data/ in the workspace.",
    ),
    click.option(
        "--labels",
        metavar="MAP",
        help="What the labels mean: a known numbering (fer2013, raf-db, affectnet, ferplus, ck+), renamed or merged "
        "labels (1=surprise,2=fear,calm=-; - leaves a label out), or the classes in order (sad,happy).",
    ),
    click.option(
        "--split",
        metavar="SHARES",
        help="How to draw splits that the data lacks: '80/10/10 by=COLUMN-or-REGEX seed=N', each part optional. "
        "Persons and exact copies stay in one split.",
    ),
)
workspace_option = click.option(
    "--workspace",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    show_default="the current folder",
    help="The folder that holds training/, exports/ and benchmarks/.",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Where to compute. auto takes CUDA, else MPS, else the CPU.",
)
model_option = click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="FILE.onnx",
    show_default="the package's own",
    help="The exported model to use.",
)
provider_option = click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="NAME",
    show_default="cpu",
    help="ONNX Runtime's execution provider: cpu, cuda, coreml, … Repeat it to name fallbacks, best first.",
)
restart_option = click.option(
    "--restart/--resume",
    default=False,
    help="Discard what an interrupted run left and start over, or resume it (the default).",
)
