from __future__ import annotations

import os
from pathlib import Path

import pytest

from fer_deploy.errors import DataError
from fer_deploy.reading.inputs import find_inputs
from fer_deploy.reading.outputs import Outputs, outputs_of


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copies(*words: str, draw: str = "out") -> list[str]:
    outputs = outputs_of(find_inputs(words).sources, draw=Path(draw), plot=None)
    return [output.copy.relative_to(draw).as_posix() for output in outputs.values() if output.copy is not None]


def test_names_are_kept_and_another_format_is_added_to_them() -> None:
    assert copies("a.jpg", "b.JPEG", "c.tiff", "d.mp4", "e.MOV", "noending", "-") == [
        "a.jpg",
        "b.JPEG",
        "c.tiff.png",
        "d.mp4",
        "e.MOV.mp4",
        "noending.png",
        "stdin.png",
    ]


def test_plots_are_of_videos_alone() -> None:
    sources = find_inputs(["a.jpg", "b.mov"]).sources
    plots = outputs_of(sources, draw=None, plot=Path("plots"))
    assert list(plots.values()) == [Outputs(), Outputs(plot=Path("plots/b.mov.png"))]
    assert outputs_of(sources, draw=None, plot=None) == {}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a/1.jpg", "b/1.jpg", "c/2.jpg"], ["a/1.jpg", "b/1.jpg", "c/2.jpg"]),
        (["a/1.jpg", "/b/1.jpg"], ["a/1.jpg", "b/1.jpg"]),
        (["a/1.jpg", "b/1.JPG"], ["a/1.jpg", "b/1.JPG"]),
        (["1.jpg", "../1.jpg", "../../1.jpg"], ["1.jpg", "1-2.jpg", "1-3.jpg"]),
        (["x.mov", "x.mp4"], ["x.mov.mp4", "x.mp4"]),
        (["x.mov", "x.mov.mp4"], ["x.mov.mp4", "x.mov-2.mp4"]),
        (["x.tiff", "x.tiff.png"], ["x.tiff.png", "x.tiff-2.png"]),
        (["-", "stdin.png"], ["stdin.png", "stdin-2.png"]),
    ],
)
def test_no_two_copies_have_one_place(words: list[str], expected: list[str]) -> None:
    assert copies(*words) == expected


def test_a_plot_is_not_where_a_copy_is() -> None:
    sources = find_inputs(["x.mp4", "x.mp4.png"]).sources
    video, picture = outputs_of(sources, draw=Path("out"), plot=Path("out")).values()
    assert video == Outputs(Path("out/x.mp4"), Path("out/x.mp4.png"))
    assert picture == Outputs(Path("out/x.mp4-2.png"))


def test_copies_replace_regular_files_only(folder: Path) -> None:
    Path("a.jpg").write_bytes(b"x")
    Path("out").mkdir()
    Path("kept").write_bytes(b"kept")
    Path("out/a.jpg").symlink_to("../kept")
    with pytest.raises(DataError, match=r"^a\.jpg: its annotated copy would replace out/a\.jpg, a symbolic link"):
        copies("a.jpg")
    Path("out/a.jpg").unlink()
    os.mkfifo("out/a.jpg")
    with pytest.raises(DataError, match=r"would replace out/a\.jpg, a named pipe"):
        copies("a.jpg")


def test_a_copy_does_not_overwrite_other_files_of_the_run(folder: Path) -> None:
    Path("a.jpg").write_bytes(b"x")
    Path("out").mkdir()
    Path("out/a.jpg").write_bytes(b"names")
    sources = find_inputs(["a.jpg"]).sources
    with pytest.raises(DataError, match=r"its annotated copy would overwrite the list of names out/a\.jpg"):
        outputs_of(sources, draw=Path("out"), plot=None, others={"list of names": [Path("out/a.jpg")]})


def test_an_output_over_an_input_is_refused(folder: Path) -> None:
    for name in ("in/1.jpg", "other/1.jpg", "clip.mp4", "clip.mp4.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"x")
    assert copies("in/1.jpg", draw="other") == ["1.jpg"], "what is not read may be an earlier copy"
    own = r"^in/1\.jpg: its annotated copy would overwrite the input in/1\.jpg: .* instead of "
    for words, draw in ((["in/1.jpg"], "in"), (["in/1.jpg"], str(folder / "in")), (["in/1.jpg", "other/1.jpg"], ".")):
        with pytest.raises(DataError, match=own):
            copies(*words, draw=draw)
    with pytest.raises(DataError, match=r"^in/1\.jpg: .* overwrite the input other/1\.jpg: .* instead of other$"):
        copies("in/1.jpg", ".", draw="other")
    with pytest.raises(
        DataError, match=r"^clip\.mp4: its plot would overwrite the input clip\.mp4\.png: .* instead of \.$"
    ):
        outputs_of(find_inputs(["clip.mp4", "clip.mp4.png"]).sources, draw=None, plot=Path())
