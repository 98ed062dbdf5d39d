"""The structure of the package: layers, light imports, one name for one thing, and documents that diff well."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fer_deploy.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fer_deploy"

LAYERS = (
    ("api",),
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
    ("pictures", "files", "folders", "fonts", "hosts", "machine", "study", "tars", "errors", "emotions", "labels"),
)
"""From the top down. A room imports from its own layer and from those below it; no two rooms import each other."""

LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_imported_by(path: Path) -> set[str]:
    """The rooms that a module imports, in its functions too."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide what is imported"
            names += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "fer_deploy" and len(part) > 1 and part[1] in LEVEL}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    above = {other for other in rooms_imported_by(path) if LEVEL[other] < LEVEL[room]}
    assert not above, f"{room} imports {above}, which lie above it"


def test_no_two_rooms_import_each_other() -> None:
    imports: dict[str, set[str]] = {room: set() for room in LEVEL}
    for path in modules():
        if (room := room_of(path)) in LEVEL:
            imports[room] |= rooms_imported_by(path) - {room}
    mutual = {tuple(sorted((room, other))) for room in imports for other in imports[room] if room in imports[other]}
    assert not mutual


def test_every_room_has_a_layer() -> None:
    assert {room_of(path) for path in modules()} - {"__init__", "__main__"} == set(LEVEL)


def test_a_class_name_belongs_to_one_room() -> None:
    rooms: dict[str, set[str]] = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                rooms.setdefault(node.name, set()).add(room_of(path))
    twice = {name: found for name, found in rooms.items() if len(found) > 1}
    assert not twice, "rename one of each"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


PARSES_BY_ITSELF = {
    "files.py",  # the one place
    "study.py", "recipes/costs.py",  # files of the package
    "recipes/load.py",  # the value of --set
    # what our own processes write
    "bench/peers/workers/worker.py", "bench/probe.py", "bench/run.py", "reading/journal.py",
    "score/workers.py",
    "training/checkpoint.py",  # it may hold NaN
}  # fmt: skip
"""Modules that parse JSON or TOML without `files`, which survives depth, size and bad text. Add none."""


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_json_and_toml_are_read_in_one_place(path: Path) -> None:
    if path.relative_to(PACKAGE).as_posix() not in PARSES_BY_ITSELF:
        calls = re.findall(r"\b(?:json|tomllib)\.loads?\(", path.read_text(encoding="utf-8"))
        assert not calls, "use files.read_json, files.parse_json, files.read_toml or files.parse_toml"


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
    "uvicorn",
    "av",
    "cv2",
    "openvino",
}


CALL = (
    "from click.testing import CliRunner; from fer_deploy.cli import cli; "
    "done = CliRunner().invoke(cli, {}); assert done.exit_code in (0, 2), done.output"
)


@pytest.mark.parametrize(
    "statement",
    [
        "import fer_deploy",
        "import fer_deploy.api",
        "import fer_deploy.recognizer",
        "import fer_deploy.recipes",
        "import fer_deploy.ensemble",
        "import fer_deploy.faces",
        "import fer_deploy.model.contract",
        "from fer_deploy import Recognizer",
        "from fer_deploy.recipes import load_recipe; load_recipe('B')",
        CALL.format([]),
        CALL.format(["variants"]),
    ],
)
def test_the_light_parts_stay_light(statement: str) -> None:
    check = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & HEAVY


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_imports_no_numpy(words: list[str]) -> None:
    check = CALL.format(words) + "; import sys; print(*sys.modules)"
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


def test_every_command_has_a_module_and_a_place_in_the_readme() -> None:
    files = {path.stem for path in (PACKAGE / "cli").glob("*.py")}
    assert set(VERBS) <= files
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for verb in VERBS:
        assert f"ferdeploy {verb}" in readme, f"the README does not show `ferdeploy {verb}`"


GENERATED = re.compile(r"<!-- ([\w:]+) -->.*?<!-- /\1 -->", re.DOTALL)
"""What a tool writes between two marks; the pages of reports, in benchmarks/, are generated as a whole."""

ITEM = re.compile(r"\s*([-*+]|\d+\.)\s")
END_OF_SENTENCE = re.compile(r"[.!?:;][\"'”’)\]*_`]*$")
NEXT_SENTENCE = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bal)(?<!\bvs)[.!?][\"'”’)*_]*\s+(?=[\"“(*_`\[]*[A-Z])")


def layout_faults(text: str) -> list[str]:
    """Lines of Markdown paragraphs that hold several sentences or end within one; a list item is one line."""
    faults = []
    in_code = False
    previous = ""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if words.startswith(("```", "~~~")):
            in_code = not in_code
        other = in_code or not words or words.startswith(("```", "~~~", "#", "|", "<", "!")) or line.startswith("    ")
        if other:
            previous = ""
            continue
        item = bool(ITEM.match(line))
        if previous and not item and not END_OF_SENTENCE.search(previous):
            faults.append(f"{number - 1}: the sentence continues in the next line")
        if not item and (match := NEXT_SENTENCE.search(words)):
            faults.append(f"{number}: a second sentence begins with {words[match.end() :][:30]!r}")
        previous = words
    return faults


def test_markdown_has_one_sentence_or_list_item_per_line() -> None:
    documents = {path.relative_to(ROOT).as_posix(): path for path in tracked() if path.suffix == ".md"}
    faults = [
        f"{name}:{fault}"
        for name, path in documents.items()
        if not name.startswith("benchmarks/") and path.exists()
        for fault in layout_faults(GENERATED.sub("", path.read_text(encoding="utf-8")))
    ]
    assert not faults


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One.\nTwo, e.g. This.\n", 0),
        ("# A title. And more\n\n| a. B | c |\n\n```\na. B\nc\n```\n", 0),
        ("- an item. With two sentences.\n- another\n", 0),
        ("- an item.\n  A second line of it.\n", 0),
        ("One. Two.\n", 1),
        ("One that\ncontinues.\n", 1),
        ("- an item that\n  continues\n", 1),
    ],
)
def test_faults_of_layout_are_found(text: str, count: int) -> None:
    assert len(layout_faults(text)) == count


def test_test_files_have_names_of_their_own() -> None:
    # Where folders are no packages, pytest imports test files by their bare names.
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py") if not (path.parent / "__init__.py").exists()]
    assert sorted(names) == sorted(set(names))
