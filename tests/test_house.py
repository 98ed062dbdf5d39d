"""The house stands as drawn: floors import downwards, the runtime stays light, and files say nothing of machines."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fer_deploy"

FLOORS = (
    ("cli",),
    ("bench", "demo", "serve", "score"),
    ("export",),
    ("training",),
    ("reading",),
    ("recognizer",),
    ("detection", "model", "ensemble"),
    ("recipes",),
    ("models",),
    ("faces",),
    ("pictures", "files", "machine", "study", "errors", "emotions"),
)
"""From the top down; a part imports from its own floor and from those below it."""

LEVEL = {part: level for level, parts in enumerate(FLOORS) for part in parts}

LOWER_MAY_SEE: dict[str, set[str]] = {"models": {"recipes"}}
"""Networks raise recipes' errors and read their option types; nothing else looks up."""


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    part = part_of(path)
    if part in ("__init__", "__main__"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if not name.startswith("fer_deploy."):
                continue
            other = name.split(".")[1]
            assert LEVEL[other] >= LEVEL[part] or other in LOWER_MAY_SEE.get(part, set()), f"{part} imports {other}"


def test_every_part_has_a_floor() -> None:
    parts = {part_of(path) for path in modules()} - {"__init__", "__main__"}
    assert parts == set(LEVEL)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


RUNTIME = {"numpy", "onnxruntime", "PIL", "click", "rich"}
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxscript",
    "fvcore",
    "matplotlib",
    "polars",
    "pandas",
    "pyarrow",
    "scipy",
    "ray",
    "fastapi",
}


CALL = (
    "from click.testing import CliRunner; from fer_deploy.cli import cli; "
    "done = CliRunner().invoke(cli, {}); assert done.exit_code in (0, 2), done.output"
)


@pytest.mark.parametrize(
    "statement",
    [
        "import fer_deploy",
        "import fer_deploy.recognizer",
        "import fer_deploy.recipes",
        "import fer_deploy.ensemble",
        "import fer_deploy.faces",
        "import fer_deploy.model.contract",
        "from fer_deploy import Recognizer",
        "from fer_deploy.recipes import load_recipe; load_recipe('B')",
        CALL.format([]),
        CALL.format(["--help"]),
        *(CALL.format([verb, "--help"]) for verb in ("train", "export", "verify", "bench", "predict", "variants")),
        CALL.format(["variants"]),
    ],
)
def test_the_light_parts_stay_light(statement: str) -> None:
    check = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & HEAVY


def test_help_imports_only_click() -> None:
    check = CALL.format(["--help"]) + "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & (HEAVY | {"numpy", "onnxruntime", "PIL"})


def test_the_program_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fer_deploy", "tarin"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 2
    assert "No such command 'tarin'. Did you mean 'train'?" in done.stderr
    version = subprocess.run(
        [sys.executable, "-m", "fer_deploy", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] in version.stdout


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, cwd=ROOT, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


MACHINE = re.compile(
    rb"/wo"
    rb"rk/(main|shared)|/ro"
    rb"ot/|/far"
    rb"m/|https?://[^\s)\"]+\.(whl|tgz|deb)\b|index"
    rb"-url|\"resol"
    rb"ved\":"
)


def test_tracked_files_name_no_machine_and_no_registry() -> None:
    found = []
    for path in tracked():
        if path.is_file() and path.suffix not in (".onnx", ".safetensors", ".png", ".jpg", ".raw", ".bin"):
            found += [
                f"{path.relative_to(ROOT)}: {match.group().decode()}" for match in MACHINE.finditer(path.read_bytes())
            ]
    assert not found


def test_no_picture_of_fer2013_and_no_large_file_is_tracked() -> None:
    for path in tracked():
        assert not re.search(r"fer2013.*\.(csv|npz|parquet|zip|gz)$", path.name)
        assert not path.exists() or path.stat().st_size <= 20 * 2**20, path


def test_shared_names_are_the_same_everywhere() -> None:
    from fer_deploy.cli import VERBS

    files = {path.stem for path in (PACKAGE / "cli").glob("*.py")}
    assert set(VERBS) <= files
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for verb in VERBS:
        assert f"ferdeploy {verb}" in readme, f"the README does not show `ferdeploy {verb}`"
