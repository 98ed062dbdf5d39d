"""The downloaded parts of the demo's page, from the cache of the user who runs the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fer_deploy.demo.parts import PARTS, read_part
from fer_deploy.errors import UnavailableError
from fer_deploy.machine import cache_folder

_USERS_CACHE = cache_folder()  # read before tests set FERDEPLOY_CACHE


def require_parts() -> None:
    """Link the downloaded parts into the tests' cache. Skip the test, with the remedy, where they are absent."""
    folder = cache_folder()
    demo = folder and folder / "demo"
    if demo and not demo.exists() and _USERS_CACHE and (_USERS_CACHE / "demo").is_dir():
        demo.parent.mkdir(parents=True, exist_ok=True)
        demo.symlink_to((_USERS_CACHE / "demo").resolve(), target_is_directory=True)
    for part in PARTS:
        try:
            read_part(part)
        except UnavailableError as error:
            pytest.skip(str(error).split(":")[0] + ": run `ferdeploy demo --fetch`")


def environment_with_parts() -> dict[str, str]:
    """The environment of a program that needs the parts."""
    require_parts()
    return {**os.environ, "FERDEPLOY_CACHE": str(Path(cache_folder()))}
