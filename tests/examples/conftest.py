from __future__ import annotations

from pathlib import Path

import pytest
from golden_exports import Exported, best_exported, exports_folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The file that the examples are run with."""
    return best_exported(exports_folder(lambda: tmp_path_factory.mktemp("exports")))


@pytest.fixture(scope="session")
def cpp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the C++ example is built."""
    return tmp_path_factory.mktemp("cpp")
