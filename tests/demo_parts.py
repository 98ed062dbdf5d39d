"""The demo's parts that others made, as the person who runs the tests has fetched them into the user's own cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fer_deploy.demo.parts import PARTS, read_part
from fer_deploy.errors import UnavailableError
from fer_deploy.faces.cache import cache_folder

_USERS_CACHE = cache_folder()  # imported before tests get a cache of their own


def require_parts() -> None:
    """Let the tests' own cache see the fetched parts; skip, saying how to fetch them, where there are none."""
    demo = cache_folder() / "demo"
    if not demo.exists() and (_USERS_CACHE / "demo").is_dir():
        demo.parent.mkdir(parents=True, exist_ok=True)
        demo.symlink_to((_USERS_CACHE / "demo").resolve(), target_is_directory=True)
    for part in PARTS:
        try:
            read_part(part)
        except UnavailableError as error:
            pytest.skip(str(error).split(":")[0] + ": run `ferdeploy demo --fetch`")


def environment_with_parts() -> dict[str, str]:
    """For a program that is to find them."""
    require_parts()
    return {**os.environ, "FERDEPLOY_CACHE": str(Path(cache_folder()))}
