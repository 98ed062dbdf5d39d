"""Compiles kernels.cpp with the machine's C++ compiler, once, and makes its functions callable.

The library is kept in the user's cache folder (`$FERDEPLOY_CACHE`, else the system's place for caches). Its name is a
hash of everything that its bytes depend on (source, flags, compiler, processor), so that each machine compiles once,
which takes a few seconds. Without a compiler, or if the build fails or its answers differ from PyTorch's, `kernels()`
is None, the log states why, and training uses PyTorch's own operators.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

from fer_deploy.errors import one_line
from fer_deploy.files import replacing
from fer_deploy.machine import cache_folder, processor_identity

_log = logging.getLogger(__name__)

_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-ffp-contract=fast", "-fPIC", "-w")
"""No -ffast-math: the kernels rely on IEEE rounding."""

_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_SIGNATURES = {
    "depthwise_forward": (*[_POINTER] * 3, _INT, *[_POINTER] * 5, _INT),
    "depthwise_backward": (*[_POINTER] * 6, _INT, *[_POINTER] * 7, _INT),
    "moments": (_POINTER, _LONG, _LONG, _POINTER, _POINTER, _INT),
    "apply": (*[_POINTER] * 4, _LONG, _LONG, _LONG, _POINTER, _POINTER, _INT, _INT),
    "pool": (*[_POINTER] * 3, _LONG, _LONG, _LONG, _POINTER, _POINTER, _INT, _INT),
    "normalise_backward": (*[_POINTER] * 7, _LONG, _LONG, _LONG, *[_POINTER] * 7, _INT, _INT),
}
"""The functions of kernels.cpp, each there for float32 and for bfloat16 maps."""


@cache
def kernels() -> ctypes.CDLL | None:
    """The compiled library, or None without one (the log states why, once).

    The environment variable FERDEPLOY_KERNELS=0 switches it off.
    """
    if os.environ.get("FERDEPLOY_KERNELS") == "0":
        _log.info("compiled kernels are switched off by FERDEPLOY_KERNELS=0: training uses PyTorch's own operators")
        return None
    try:
        return _load_cached() or _load_uncached()
    except (OSError, subprocess.SubprocessError, RuntimeError, AttributeError) as error:
        _log.warning("no compiled kernels, training uses PyTorch's own operators: %s", _reason(error))
        return None


def _load_cached() -> ctypes.CDLL | None:
    """The library in the user's cache; None where the user has no cache, or it cannot be written or read."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        return load(build(folder))
    except OSError as error:
        _log.info("%s: no cache for the CPU kernels: they are compiled for this process alone", one_line(error))
        return None


def _load_uncached() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="ferdeploy-") as folder:
        return load(build(Path(folder)))  # once it is loaded, its file may go


def build(folder: Path) -> Path:
    """Compile the kernels into `folder`, unless it has them already, and return the library's path.

    Raises:
        RuntimeError: there is no C++ compiler.
        subprocess.SubprocessError, OSError: the compiler failed.
    """
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError(
            "no C++ compiler found (tried $CXX, c++, g++, clang++); installing g++ makes training faster"
        )
    source = files(__package__).joinpath("kernels.cpp").read_text(encoding="utf-8")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    recipe = "\0".join((source, *_FLAGS, compiler, version, processor_identity(), sys.platform))
    library = folder / f"kernels-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.so"
    if library.is_file():
        return library
    _log.info("compiling the CPU kernels with %s (a few seconds, once)", compiler)
    openmp = ("-Xpreprocessor", "-fopenmp") if sys.platform == "darwin" else ("-fopenmp",)
    link = ("-shared", "-undefined", "dynamic_lookup") if sys.platform == "darwin" else ("-shared",)
    with tempfile.TemporaryDirectory() as scratch, replacing(library) as temporary:
        source_file, object_file = Path(scratch, "kernels.cpp"), Path(scratch, "kernels.o")
        source_file.write_text(source, encoding="utf-8")
        # Linked without -fopenmp: the symbols are found in the OpenMP that PyTorch has loaded, so that both share
        # one pool of threads.
        for command in (
            [compiler, *_FLAGS, *openmp, "-c", str(source_file), "-o", str(object_file)],
            [compiler, *link, str(object_file), "-o", str(temporary)],
        ):
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return library


def load(library: Path) -> ctypes.CDLL:
    """Load a built library and declare its functions' signatures."""
    loaded = ctypes.CDLL(str(library))
    for name, arguments in _SIGNATURES.items():
        for suffix in ("float32", "bfloat16"):
            function = getattr(loaded, f"{name}_{suffix}")
            function.argtypes, function.restype = arguments, None
    return loaded


def find_compiler() -> str | None:
    """The C++ compiler to use: $CXX, else the first of c++, g++, clang++ on the path; None where there is none."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (path := shutil.which(name)):
            return path
    return None


def _reason(error: Exception) -> str:
    """What went wrong, in one line: of a compiler that failed, its first message."""
    if isinstance(error, subprocess.CalledProcessError):
        detail = (error.stderr or "").strip().splitlines()
        return one_line(f"{error.cmd[0]} failed: {detail[0] if detail else error.returncode}")
    return one_line(error)
