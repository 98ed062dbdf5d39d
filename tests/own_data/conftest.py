"""One Ray for all tests that score."""

from __future__ import annotations

from score.conftest import local_ray as local_ray
