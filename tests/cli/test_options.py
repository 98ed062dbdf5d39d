"""Options made from a documented dataclass, and those that all commands share."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

import click
import pytest
from click.testing import CliRunner, Result

from fer_deploy.cli import VERBS, cli
from fer_deploy.cli.options import (
    FiniteRange,
    Millions,
    model_option,
    options_of,
    provider_option,
    restart_option,
    threads_option,
)
from fer_deploy.machine import MAXIMUM_THREADS


@dataclass(frozen=True)
class Oven:
    """Settings of an oven."""

    dish: str
    """What to bake."""
    minutes: int = 30
    """How long
    to bake.

    This paragraph is for readers of the code.
    """
    heat: float | None = None
    """Degrees; none keeps the oven as it is."""
    mode: Literal["fan", "grill"] = "fan"
    """Where the heat comes from."""
    recipe: Path | None = None
    """A file."""
    spices: tuple[str, ...] = ()
    """Repeat for several."""
    light: bool = False
    """Switch the light on."""
    maximum_pixels: int = 25_000_000
    """Size of the picture of the dish."""
    secret: int = 7
    """Not an option."""

    def __post_init__(self) -> None:
        if self.minutes < 1:
            raise ValueError(f"minutes must be at least 1, got {self.minutes}")


NAMES = ["dish", "minutes", "heat", "mode", "recipe", "spices", "light", "maximum_pixels"]


@click.command()
@options_of(Oven, NAMES, flags={"maximum_pixels": "--megapixels", "spices": "--spice"},
            kinds={"maximum_pixels": Millions(0.001, 80), "heat": FiniteRange(0, 300)}, into="oven")  # fmt: skip
@click.option("--quiet", is_flag=True)
def bake(oven: Oven, quiet: bool) -> None:
    click.echo(repr((oven, quiet)))


def run(*words: str) -> Result:
    return CliRunner().invoke(bake, list(words))


def test_fields_that_the_user_does_not_give_keep_their_defaults() -> None:
    assert run("--dish", "pie").output == repr((Oven("pie"), False)) + "\n"


def test_every_kind_of_field_is_read() -> None:
    numbers = ["--minutes", "5", "--heat", "180", "--megapixels", "2.5"]
    others = ["--mode", "grill", "--recipe", "a.toml", "--spice", "salt", "--spice", "mace", "--light", "--quiet"]
    expected = Oven("pie", 5, 180.0, "grill", Path("a.toml"), ("salt", "mace"), True, 2_500_000)
    assert run("--dish", "pie", *numbers, *others).output == repr((expected, True)) + "\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing option '--dish'"),
        (["--dish", "pie", "--minutes", "x"], "Invalid value for '--minutes'"),
        (["--dish", "pie", "--minutes", "0"], "minutes must be at least 1, got 0"),
        (["--dish", "pie", "--heat", "nan"], "is not a finite number"),
        (["--dish", "pie", "--megapixels", "81"], "Invalid value for '--megapixels'"),
        (["--dish", "pie", "--mode", "steam"], "Invalid value for '--mode'"),
        (["--dish", "pie", "--secret", "1"], "No such option"),
    ],
)
def test_wrong_values_are_usage_errors(words: list[str], message: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert message in done.stderr


def test_help_is_the_first_paragraph_under_the_field_in_the_order_of_the_names() -> None:
    text = " ".join(run("--help").output.split())
    assert "How long to bake. [default: 30]" in text
    assert "readers of the code" not in text
    assert "[default: (25)" in text
    places = [text.index(flag) for flag in ("--dish", "--minutes", "--heat", "--mode", "--recipe", "--spice")]
    assert places == sorted(places)


def test_a_name_that_is_not_a_field_is_refused_when_the_command_is_defined() -> None:
    with pytest.raises(TypeError, match="Oven has no field colour"):
        options_of(Oven, ["colour"])


@click.command()
@model_option
@provider_option
@threads_option()
@restart_option
def shared(model: Path | None, providers: tuple[str, ...], threads: int | None, restart: bool) -> None:
    click.echo(repr((model, providers, threads, restart)))


def test_the_shared_options() -> None:
    assert CliRunner().invoke(shared, []).output == "(None, (), None, False)\n"
    words = ["--provider", "cuda", "--provider", "cpu", "--threads", "2", "--restart"]
    assert CliRunner().invoke(shared, words).output == "(None, ('cuda', 'cpu'), 2, True)\n"


@pytest.mark.parametrize("threads", ["0", "-1", str(MAXIMUM_THREADS + 1), "99999999999999999999", "1e3", "nan"])
def test_absurd_numbers_of_threads_are_usage_errors(threads: str) -> None:
    done = CliRunner().invoke(shared, ["--threads", threads])
    assert done.exit_code == 2
    assert "--threads" in done.stderr


def test_every_command_refuses_absurd_numbers_of_threads() -> None:
    with_threads = []
    for verb in VERBS:
        options = {
            name for parameter in import_module(f"fer_deploy.cli.{verb}").command.params for name in parameter.opts
        }
        if "--threads" not in options:
            continue
        with_threads.append(verb)
        for threads in ("100000", "0", "x"):
            done = CliRunner().invoke(cli, [verb, "--threads", threads, "one", "two"])
            assert done.exit_code == 2, (verb, threads)
            assert "Invalid value for '--threads'" in done.stderr
    assert with_threads == ["train", "bench", "predict", "score", "serve"]


def test_options_of_one_name_mean_one_thing_in_every_command() -> None:
    """A shared option has the same value name and the same type everywhere, so that it was declared once."""
    seen: dict[str, tuple[str, object]] = {}
    for verb in VERBS:
        for parameter in import_module(f"fer_deploy.cli.{verb}").command.params:
            for name in {"--data", "--workspace", "--device", "--model", "--provider", "--restart"} & set(
                parameter.opts
            ):
                declared = (parameter.name, parameter.help, parameter.multiple)
                assert seen.setdefault(name, declared) == declared, f"{verb} {name}"
    assert set(seen) == {"--data", "--workspace", "--device", "--model", "--provider", "--restart"}
