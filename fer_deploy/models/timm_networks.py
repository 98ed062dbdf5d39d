"""Any classification network of timm by its name: `timm/resnet18`, or with a tag of weights, `timm/resnet18.a1_in1k`.

A network is first built on PyTorch's meta device, which has shapes but no numbers. There it shows in a fraction of a
second which options it has and whether it takes faces of the wanted size. Nothing is downloaded here, and only names of
timm's own registry are accepted: timm would also read addresses and folders.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from fer_deploy.errors import RecipeError, one_line
from fer_deploy.models.entry import require_share

PREFIX = "timm/"
"""What the names of timm's networks begin with in a recipe."""

LARGEST_NUMBER = 65_536
"""Largest whole number that an option of a network may have: channels or layers."""

SIZES = range(16, 513)
"""Input sizes that a recipe may have, in pixels."""

RESERVED = frozenset({"in_chans", "num_classes", "device", "dtype", "cfg", "args", "kwargs", "self"})
"""Parameters of timm's classes that are not options of a recipe."""

_NAME = re.compile(r"\w+(\.\w+)?", re.ASCII)
_TRIED = 400
"""Networks on the meta device whose outcome is remembered."""


@dataclass(frozen=True, eq=False)
class TimmSource:
    """What a network of timm was built from. The network has it as its attribute `timm_source`."""

    model: str
    """timm's name, with its tag if it was given."""
    input_size: int
    """Side of the faces in pixels."""
    arguments: Mapping[str, Any]
    """Of `timm.create_model`."""


def timm_source(network: nn.Module) -> TimmSource | None:
    """What a network of timm was built from; None for other networks."""
    source = getattr(network, "timm_source", None)
    return source if isinstance(source, TimmSource) else None


def is_timm(name: str) -> bool:
    """Whether a network's name is one of timm's, valid or not."""
    return name.startswith(PREFIX)


def timm_model(name: str) -> str:
    """timm's own name of network `timm/...`.

    Raises:
        RecipeError: timm has no such network, or no such weights; names the nearest.
    """
    from timm.models import get_pretrained_cfg, is_model, list_models, list_pretrained

    model = name.removeprefix(PREFIX)
    if not _NAME.fullmatch(model):
        raise RecipeError(
            f"network '{one_line(name, limit=80)}': give the name of one of timm's networks, such as timm/resnet18; "
            "addresses and paths are not accepted"
        )
    architecture, _, tag = model.partition(".")
    if not is_model(architecture):
        raise RecipeError(f"timm has no network '{architecture}'{_nearest(architecture, list_models(), PREFIX)}")
    try:
        get_pretrained_cfg(model, allow_unregistered=False)
    except RuntimeError as error:
        if not tag:  # a network without weights
            return model
        tags = [full.partition(".")[2] for full in list_pretrained(f"{architecture}.*")]
        raise RecipeError(f"timm has no weights '{tag}' of network '{architecture}'{_nearest(tag, tags)}") from error
    return model


def list_timm(pattern: str) -> list[str]:
    """The names of timm's networks that match a shell pattern such as `timm/*vgg*`, sorted."""
    from timm.models import list_models

    return [PREFIX + model for model in list_models(pattern.removeprefix(PREFIX))]


def timm_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a network of timm, checked against the parameters of its class.

    Raises:
        RecipeError: timm has no such network, or the network has no such option (with the nearest), or a value has a
            wrong type or size.
    """
    known = _parameters(timm_model(name))
    checked = {}
    for key, value in options.items():
        if key not in known:
            raise RecipeError(f"network '{name}' has no option '{one_line(key, limit=40)}'{_nearest(key, known)}")
        checked[key] = _checked(name, key, value, known[key])
    return checked


def build_timm(name: str, *, classes: int, input_size: int, options: Mapping[str, Any]) -> nn.Module:
    """Build a network of timm for grey faces, with timm's own initialisation, in training mode.

    Args:
        name: `timm/...`.
        classes: outputs.
        input_size: side of the faces in pixels. Networks with parameters for each position, such as vision
            transformers, are built for that size.
        options: options of the network's class.

    Raises:
        RecipeError: the name, an option or the size is not valid; names the nearest.
    """
    model = timm_model(name)
    checked = timm_options(name, options)
    if checked.pop("img_size", input_size) not in (input_size, (input_size, input_size)):
        raise RecipeError(f"network '{name}': img_size is always the input_size, {input_size}: leave it out")
    sized = {"img_size": input_size} if "img_size" in _parameters(model) else {}
    _check_fit(name, model, classes, input_size, checked)
    arguments = {**checked, **sized, "in_chans": 1, "num_classes": classes}
    network = _created(model, **arguments)
    network.timm_source = TimmSource(model, input_size, arguments)  # type: ignore[assignment]
    return network


def _nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    names = sorted(known)
    close = get_close_matches(word, names, n=1)
    if close:
        return f": did you mean '{prefix}{close[0]}'?"
    if len(names) > 60:
        return f": `ferdeploy variants '{prefix}*'` lists its {len(names):,} networks"
    return f"; there is {', '.join(names)}" if names else ""


@lru_cache(maxsize=_TRIED)
def _parameters(model: str) -> dict[str, inspect.Parameter]:
    """The parameters of a network's class that a recipe may set, by name.

    A class that passes keywords on has also its parents' parameters, or the fields of its configuration.
    """
    known: dict[str, inspect.Parameter] = {}
    for part in type(_on_meta(model)).__mro__:
        parameters = inspect.signature(part.__init__).parameters.values()  # type: ignore[misc]
        for parameter in parameters:
            known.setdefault(parameter.name, parameter)
            settings = parameter.annotation
            if parameter.name == "cfg" and dataclasses.is_dataclass(settings):
                for field in dataclasses.fields(settings):
                    known.setdefault(field.name, parameter.replace(name=field.name, default=_default(field)))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return {
        name: parameter
        for name, parameter in known.items()
        if name not in RESERVED and not callable(parameter.default) and not name.startswith("_")
    }


def _default(field: Any) -> Any:
    return None if field.default is dataclasses.MISSING else field.default


def _checked(name: str, key: str, value: Any, parameter: inspect.Parameter) -> Any:
    """An option's value with lists as tuples. RecipeError unless it has the type of the option's default."""
    where = f"network '{name}': option '{key}'"
    numbers = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(number, int) and abs(number) > LARGEST_NUMBER for number in numbers):
        raise RecipeError(f"{where} must be at most {LARGEST_NUMBER:,}")
    if isinstance(value, list | tuple):
        return tuple(value)
    kinds: dict[type, tuple[tuple[type, ...], str]] = {
        bool: ((bool,), "true or false"),
        int: ((int,), "a whole number"),
        float: ((int, float), "a number"),
        str: ((str,), "a text"),
    }
    wanted = kinds.get(type(parameter.default))
    # `type` and not `isinstance`, because True is an int
    if wanted and type(value) not in wanted[0]:
        raise RecipeError(f"{where} must be {wanted[1]}, got {one_line(repr(value), limit=60)}")
    if type(value) not in (bool, int, float, str):
        raise RecipeError(f"{where} must be a number, a text, true, false or a list, got {type(value).__name__}")
    if key.endswith(("drop_rate", "drop_path_rate")):
        try:
            require_share(key, value)
        except ValueError as error:
            raise RecipeError(f"network '{name}': {error}") from error
    return float(value) if type(parameter.default) is float else value


@lru_cache(maxsize=4)
def _on_meta(model: str, *, classes: int = 7, **arguments: Any) -> nn.Module:
    """A network on the meta device, in evaluation mode. PyTorch's random generator keeps its state."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return _created(model, in_chans=1, num_classes=classes, **arguments).eval()


def _created(model: str, **arguments: Any) -> nn.Module:
    import timm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: nn.Module = timm.create_model(model, pretrained=False, **arguments)
    return network


def _check_fit(name: str, model: str, classes: int, size: int, options: Mapping[str, Any]) -> None:
    """RecipeError unless the network can be built with these options and gives logits for faces of this size."""
    given = tuple(sorted(options.items()))
    reason = _misfit(model, classes, size, given)
    if not reason:
        return
    if given and not _misfit(model, classes, size, ()):
        raise RecipeError(f"network '{name}' can't be built with {_list(options)} for input_size {size}: {reason}")
    sizes = _sizes_near(size, lambda other: not _misfit(model, classes, other, given), usual=_usual_size(model))
    if not sizes:
        raise RecipeError(f"network '{name}' can't be used on faces of one grey channel: {reason}")
    raise RecipeError(f"network '{name}' does not take input_size {size}: {sizes} ({reason})")


def _list(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {one_line(repr(value), limit=40)}" for key, value in options.items())


def _usual_size(model: str) -> int:
    """The size that a network was published for, in pixels."""
    from timm.models import get_pretrained_cfg

    settings = get_pretrained_cfg(model)
    return int(settings.input_size[-1]) if settings else 224


@lru_cache(maxsize=_TRIED)
def _misfit(model: str, classes: int, size: int, options: tuple[tuple[str, Any], ...]) -> str:
    """Why a network does not give logits (n, classes) for faces of `size` pixels; empty if it does."""
    sized = {"img_size": size} if "img_size" in _parameters(model) else {}
    try:
        network = _on_meta(model, classes=classes, **dict(options), **sized)
        if size % (patch := _patch(network)):
            return f"its patches have {patch} pixels"
        with torch.no_grad():
            logits = network(torch.zeros(2, 1, size, size, device="meta"))
    except Exception as error:  # what timm's classes and torch's operators raise has no common class
        return one_line(str(error).partition("\n")[0] or type(error).__name__, limit=90)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, classes):
        return f"its output is {tuple(getattr(logits, 'shape', ()))} for 2 faces, not (2, {classes})"
    return ""


def _patch(network: nn.Module) -> int:
    """The side of a vision transformer's patches in pixels. Pixels that fill no patch would be ignored. Else 1."""
    embedding = getattr(network, "patch_embed", None)
    patch = getattr(embedding, "patch_size", 1)
    if getattr(embedding, "dynamic_img_pad", False) or not isinstance(patch, int | tuple):
        return 1
    return patch if isinstance(patch, int) else int(patch[0])


def _sizes_near(size: int, fits: Callable[[int], bool], *, usual: int) -> str:
    """The sizes next to `size` that a network takes, in words; empty if it does not even take its usual one."""
    if not fits(usual):
        return ""
    candidates = sorted({usual, *SIZES[::16], *range(14, SIZES.stop, 14)}, key=lambda other: abs(other - size))
    above = next((other for other in candidates if other > size and fits(other)), None)
    if above is not None and fits(above + 1) and fits(above + 2):
        while above - 1 > size and fits(above - 1):
            above -= 1
        # the end of the range, where it has one
        wide = next((other for other in range(above + 16, SIZES.stop, 16) if not fits(other)), None)
        if wide is None:
            return f"it takes {above} pixels or more"
        return f"it takes {above} to {next(other for other in range(wide - 1, 0, -1) if fits(other))} pixels"
    below = next((other for other in candidates if other < size and fits(other)), None)
    near = [other for other in (below, above) if other is not None]
    if not near:
        return ""
    steps = (step for step in (64, 32, 28, 16, 14, 8, 4) if all(other % step == 0 for other in near) and size % step)
    step = next((step for step in steps if fits(near[-1] + step) and fits(near[-1] + 2 * step)), None)
    return f"it takes {' and '.join(map(str, near))} pixels" + (f", multiples of {step}" if step else "")
