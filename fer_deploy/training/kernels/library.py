"""Builds kernels.cpp with the machine's own C++ compiler, once, and gives its functions to Python.

The library is kept in the user's cache folder under a name made of everything that its bytes depend on (source,
flags, compiler, processor), so a build happens once a machine and takes a few seconds. Where there is no compiler,
or a build fails or does not answer as PyTorch does, `kernels()` is None, the log says why, and training goes on
with PyTorch's own operators.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

from fer_deploy.files import replacing

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
    """The compiled library, or None where it cannot be had (the log says why, once).

    Set the environment variable FERDEPLOY_KERNELS to 0 to do without.
    """
    if os.environ.get("FERDEPLOY_KERNELS") == "0":
        _log.info("compiled kernels are switched off by FERDEPLOY_KERNELS=0: training uses PyTorch's own operators")
        return None
    try:
        return load(build(_cache_folder()))
    except (OSError, subprocess.SubprocessError, RuntimeError, AttributeError) as error:
        _log.warning("no compiled kernels, training uses PyTorch's own operators: %s", _one_line(error))
        return None


def build(folder: Path) -> Path:
    """Compile the kernels into `folder` unless they are there already, and return the library's path.

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
    recipe = "\0".join((source, *_FLAGS, compiler, version, _processor(), sys.platform))
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


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "ferdeploy"


def _processor() -> str:
    """Words that differ where -march=native differs."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )


def _one_line(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        detail = (error.stderr or "").strip().splitlines()
        return f"{error.cmd[0]} failed: {detail[0] if detail else error.returncode}"
    return " ".join(str(error).split())
