"""However a command ends, a person gets one line and the right exit code: real processes, real signals, real pipes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_model import grey_face, write_tiny_model

from fer_deploy.errors import DataError

PROGRAM = [sys.executable, "-m", "fer_deploy"]

FAILING = """
import sys
from fer_deploy import cli
from fer_deploy.cli import variants
def fail(*words, **options):
    {}
variants._print_table = fail
cli.main(*sys.argv[1:])
"""
"""Runs the command line with a listing of variants that fails. No option makes a real command fail unforeseen."""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "tmp").mkdir()
    return {**os.environ, "FERDEPLOY_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp"), "COLUMNS": "80"}


def fail(statement: str, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", FAILING.format(statement), *(words or ("variants",))]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("raise KeyError('labels')", "unexpected KeyError: 'labels'. "),
        pytest.param(
            "fail()",
            "unexpected RecursionError: maximum recursion depth exceeded",
            # CPython 3.13.0 itself fills the memory at this recursion instead of raising RecursionError.
            marks=pytest.mark.skipif(sys.version_info[:3] == (3, 13, 0), reason="CPython 3.13.0 crashes by itself"),
        ),
        ("'ü'.encode('idna' * 1 and 'ascii')", "unexpected UnicodeEncodeError: 'ascii' codec"),
        ("assert 0", "unexpected AssertionError: no message."),
        ("raise type('Own', (BaseException,), {})('odd')", "unexpected Own: odd."),
        ("raise ValueError('a\\nb\\x1b[2Jc' + 'd' * 100_000)", "unexpected ValueError: a b"),
        ("raise ExceptionGroup('several', [ValueError(1), OSError(2)])", "unexpected ExceptionGroup: several"),
    ],
)
def test_an_unforeseen_error_is_one_line_and_its_traceback_a_file(
    statement: str, message: str, environment: dict[str, str], tmp_path: Path
) -> None:
    done = fail(statement, environment)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.isprintable()
    assert len(line) < 700
    assert line.startswith(f"error: {message}")
    assert "`ferdeploy --debug …` prints it" in line
    (saved,) = (tmp_path / "cache" / "errors").iterdir()
    assert f"The traceback is in {saved}." in line
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    text = saved.read_text()
    assert "Traceback (most recent call last)" in text
    assert "variants" in text.splitlines()[1]


def test_debug_prints_the_traceback_and_saves_none(environment: dict[str, str], tmp_path: Path) -> None:
    done = fail("raise KeyError('labels')", environment, "--debug", "variants")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("KeyError: 'labels'\n")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "home",
    ["os.environ['FERDEPLOY_CACHE'] = '/dev/null/no'", "del os.environ['FERDEPLOY_CACHE']; pathlib.Path.home = no"],
)
def test_without_a_cache_the_traceback_is_in_the_temporary_folder(
    home: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """A home folder that cannot be written, and a user without one."""
    environment.pop("XDG_CACHE_HOME", None)
    prepare = f"import os, pathlib\n    def no(*_): raise RuntimeError('no home')\n    {home}\n    raise KeyError(1)"
    done = fail(prepare, environment)
    assert done.returncode == 1
    (saved,) = (tmp_path / "tmp").glob("ferdeploy-error-*.txt")
    assert str(saved) in done.stderr


def test_without_any_folder_the_line_comes_all_the_same(environment: dict[str, str]) -> None:
    prepare = (
        "import tempfile\n    def no(*_, **__): raise FileNotFoundError('none')\n"
        "    tempfile.gettempdir = tempfile.mkstemp = no\n    raise KeyError(1)"
    )
    done = fail(prepare, environment)
    assert done.returncode == 1
    assert done.stderr.startswith("error: unexpected KeyError: 1. This is a fault in ferdeploy or in a library. `ferd")


def test_a_user_without_home_and_passwd_entry_gets_the_line(environment: dict[str, str], tmp_path: Path) -> None:
    """Containers run under any user id."""
    strange = ["unshare", "--user", "--map-user=54321", "env", "-u", "HOME", "-u", "FERDEPLOY_CACHE"]
    if subprocess.run([*strange, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system allows no user namespaces")
    command = [*strange, sys.executable, "-c", FAILING.format("raise KeyError(1)"), "variants"]
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    (saved,) = (tmp_path / "tmp").glob("ferdeploy-error-*.txt")
    assert str(saved) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_old_tracebacks_are_removed(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "errors"
    folder.mkdir(parents=True)
    for number in range(30):
        path = folder / f"ferdeploy-error-{number:02d}.txt"
        path.touch()
        os.utime(path, (number, number))
    fail("raise KeyError(1)", environment)
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 20
    assert "ferdeploy-error-10.txt" not in names
    assert "ferdeploy-error-29.txt" in names


@pytest.mark.parametrize(
    ("statement", "code", "line"),
    [
        ("raise MemoryError", 1, "error: out of memory: use a smaller batch or fewer files at a time"),
        ("bytearray(1 << 60)", 1, "error: out of memory: use a smaller batch or fewer files at a time"),
        (
            'raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried to allocate 9 bytes")',
            1,
            "error: out of memory",
        ),
        ("raise ImportError('libtorch.so: failed to map segment from shared object')", 1, "error: out of memory"),
        ("raise OSError(12, 'Cannot allocate memory')", 1, "error: out of memory"),
        ("open('/no/where')", 1, "error: No such file or directory: /no/where"),
        ("open(b'/no/\\xff')", 1, "error: No such file or directory: /no/"),
        ("raise BrokenPipeError(32, 'Broken pipe')", 1, "error: Broken pipe"),
        ("raise KeyboardInterrupt", 130, "stopped."),
        ("import signal; signal.raise_signal(signal.SIGINT)", 130, "stopped."),
        ("sys.exit(7)", 7, ""),
        ("sys.exit('bye')", 1, "bye"),
        ("from fer_deploy.errors import DataError; raise DataError('a\\nb')", 1, "error: a b"),
    ],
)
def test_known_ends(statement: str, code: int, line: str, environment: dict[str, str], tmp_path: Path) -> None:
    done = fail(statement, environment)
    assert done.returncode == code
    assert done.stderr.rstrip("\n").startswith(line)
    assert len(done.stderr.splitlines()) == (1 if line else 0)
    assert not (tmp_path / "cache").exists()


def test_a_long_value_leaves_the_beginning_and_the_remedy_of_an_error() -> None:
    text = str(DataError(f"faces.csv: row 7: {'x' * 100_000}\x1b: write a number"))
    assert text.startswith("faces.csv: row 7: xxx")
    assert text.endswith("xxx\\x1b: write a number")
    assert len(text) < 2000


def test_an_interruption_that_a_library_turns_into_another_error_is_one(environment: dict[str, str]) -> None:
    swallow = (
        "try: raise KeyboardInterrupt\n    except KeyboardInterrupt as stop: raise ImportError('cannot load') from stop"
    )
    done = fail(swallow, environment)
    assert (done.returncode, done.stderr) == (130, "stopped. \n".replace(" ", ""))


INTERRUPT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("fer_deploy.cli", ["variants"]),
        ("click", ["variants"]),
        ("fer_deploy.cli.variants", ["variants"]),
        ("fer_deploy.recipes.load", ["variants"]),
        ("rich.table", ["variants"]),
        ("difflib", ["variant"]),
        ("numpy", ["predict", "nothing.jpg"]),
        ("onnxruntime", ["predict", "nothing.jpg"]),
        ("torch", ["train", "plain", "--data", "synthetic:70"]),
        ("pyarrow", ["score", "nothing", "nowhere"]),
    ],
)
def test_ctrl_c_during_imports_ends_without_a_traceback(
    module: str, words: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT)
    environment["PYTHONPATH"] = f"{tmp_path}:{environment.get('PYTHONPATH', '')}"
    environment["INTERRUPT_AT"] = module
    done = subprocess.run(
        [*PROGRAM, *words], capture_output=True, text=True, env=environment, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.startswith("stopped.")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.glob("**/ferdeploy-error*")) == []


LONG = FAILING.format("for number in range(200_000): print(number, 'a line of the table')")
RICH = FAILING.format(
    "from fer_deploy.cli.console import console\n    for number in range(20_000): console().print('a line of a table')"
)


@pytest.mark.parametrize(
    "program",
    [
        ["-c", LONG, "variants"],
        ["-c", RICH, "variants"],
        ["-m", "fer_deploy", "--help"],
        ["-m", "fer_deploy", "variants", "B"],
        ["-m", "fer_deploy", "variants"],
    ],
)
@pytest.mark.parametrize("merged", [False, True], ids=["stdout", "both streams"])
def test_a_reader_that_leaves_ends_the_program_quietly(
    program: list[str], merged: bool, environment: dict[str, str]
) -> None:
    child = subprocess.Popen(
        [sys.executable, *program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        env=environment,
    )
    assert child.stdout is not None
    child.stdout.close()  # before the first line, as `| true`
    errors = b"" if child.stderr is None else child.stderr.read()
    assert child.wait() == 141
    assert errors == b""


def test_head_gets_its_line(environment: dict[str, str]) -> None:
    script = f'set -o pipefail; {sys.executable} -c "$PROGRAM" variants | head -1'
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={**environment, "PROGRAM": LONG}, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (141, "0 a line of the table\n", "")


@pytest.mark.parametrize("form", ["--csv", "--json"])
def test_predict_into_head_ends_quietly(form: str, environment: dict[str, str], tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.onnx")
    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(300):
        Image.fromarray(grey_face("happy", height=48, width=48)).save(folder / f"{number:03d}.png")
    script = (
        f"set -o pipefail; {sys.executable} -m fer_deploy predict {folder} --crops --model {model} {form} | head -1"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (141, "")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "redirections", "code"),
    [
        ("variants", ">&-", 0),
        ("variants", "<&- >&- 2>&-", 0),
        ("variants nope", "2>&-", 1),
        ("nope", "2>&-", 2),
        ("--version", ">&-", 0),
        ("predict -", "<&-", 1),
        ("variants", ">/dev/full", 1),
        ("variants nope", "2>/dev/full", 1),
        ("--help", ">/dev/full", 1),
    ],
)
def test_standard_streams_that_are_closed_or_full(
    words: str, redirections: str, code: int, environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m fer_deploy {words} {redirections}"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert len(done.stderr.splitlines()) <= 3
    assert not (tmp_path / "cache" / "errors").exists()


def test_files_opened_with_a_closed_stream_do_not_take_its_number(environment: dict[str, str], tmp_path: Path) -> None:
    """What a library prints to descriptor 2 must not land in a file that the command writes."""
    script = FAILING.format(
        "import os\n    with open(sys.argv[2], 'w') as file: os.write(2, b'a warning'); file.write('content')"
    )
    path = tmp_path / "result.txt"
    (tmp_path / "script.py").write_text(script.replace("cli.main(*sys.argv[1:])", "cli.main('variants')"))
    subprocess.run(
        ["bash", "-c", f"{sys.executable} {tmp_path / 'script.py'} variants {path} 2>&- >&- <&-"],
        env=environment,
        check=True,
    )
    assert path.read_text() == "content"


def test_ctrl_c_while_a_command_works(environment: dict[str, str]) -> None:
    script = FAILING.format("import time; print('ready', flush=True); time.sleep(60)")
    child = subprocess.Popen(
        [sys.executable, "-c", script, "variants"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=20)
    assert (child.returncode, errors) == (130, b"stopped.\n")
