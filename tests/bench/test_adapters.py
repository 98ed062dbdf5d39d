"""Feeding other projects' ONNX files: layout, scaling, labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench_files import tiny_model

from fer_deploy.bench.adapters import find_adapter, load_adapter, parse_adapter, shipped_adapters
from fer_deploy.bench.engines import open_session, score
from fer_deploy.bench.subjects import find_subjects
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError, MeasurementError

TEXT = """
name = "theirs"
source = "somewhere"
files = ["theirs*.onnx"]
labels = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "-"]
[input]
name = "data"
layout = "nchw"
channels = "grey"
size = [64, 64]
[output]
name = "scores"
kind = "logits"
"""


def foreign_model(*, input_name: str = "data", channels: int = 1, side: int = 64, batch: int | str = 1) -> bytes:
    """Eight scores: the mean of the input times 1 to 8 over a hundred."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("ReduceMean", [input_name, "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["column"]),
        helper.make_node("MatMul", ["column", "weights"], ["scores"]),
    ]
    constants = {
        "axes": np.array([1, 2, 3], np.int64),
        "one": np.array([1], np.int64),
        "weights": (np.arange(1, 9, dtype=np.float32) / 100)[None],
    }
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, [batch, channels, side, side])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


def test_the_two_files_that_people_embed_have_adapters() -> None:
    by_name = {adapter.name: adapter for adapter in shipped_adapters()}
    ferplus, mobilefacenet = by_name["emotion-ferplus"], by_name["opencv-zoo-mobilefacenet"]
    assert find_adapter(Path("x/emotion-ferplus-8.onnx")) == ferplus
    assert find_adapter(Path("facial_expression_recognition_mobilefacenet_2022july.onnx")) == mobilefacenet
    assert find_adapter(Path("B+E.onnx")) is None
    faces = np.full((2, 48, 48, 3), 100, np.uint8)
    prepared = ferplus.prepare(faces)  # grey levels as they are
    assert prepared.shape == (2, 1, 64, 64)
    np.testing.assert_allclose(prepared, 100, atol=1e-3)
    prepared = mobilefacenet.prepare(faces)  # [-1, 1]
    assert prepared.shape == (2, 3, 112, 112)
    np.testing.assert_allclose(prepared, (100 / 255 - 0.5) / 0.5, atol=1e-5)


@pytest.mark.parametrize("adapter", shipped_adapters(), ids=lambda adapter: adapter.name)
def test_every_label_is_reached(adapter) -> None:
    """Each of the seven is answered when the network names it, whatever order the file has."""
    found = set()
    for column in range(len(adapter.labels)):
        scores = np.zeros((1, len(adapter.labels)))
        scores[0, column] = 20
        probabilities = adapter.read(scores)
        assert probabilities.sum() == pytest.approx(1, abs=1e-6)
        if adapter.labels[column] != "-":
            found.add(EMOTIONS[int(probabilities.argmax())])
    assert found == set(EMOTIONS)


def test_a_dropped_answer_gives_its_share_to_the_others() -> None:
    adapter = parse_adapter(TEXT.replace('"logits"', '"probabilities"'), source="x")
    values = np.array([[0.1, 0.2, 0, 0, 0, 0, 0, 0.7], [0, 0, 0, 0, 0, 0, 0, 1.0]])
    first, second = adapter.read(values)
    assert first[EMOTIONS.index("happy")] == pytest.approx(2 / 3)
    assert first[EMOTIONS.index("neutral")] == pytest.approx(1 / 3)
    np.testing.assert_allclose(second, 1 / 7)  # contempt alone is no evidence for any of the seven


@pytest.mark.parametrize(("channels", "expected"), [("rgb", [0.0, 1.0, 2.0]), ("bgr", [2.0, 1.0, 0.0])])
def test_channels_and_layout(channels: str, expected: list[float]) -> None:
    text = TEXT.replace('"grey"', f'"{channels}"').replace("[64, 64]", "[48, 48]")
    face = np.zeros((1, 48, 48, 3), np.uint8)
    face[..., 1], face[..., 2] = 1, 2
    first = parse_adapter(text, source="x").prepare(face)
    assert first.shape == (1, 3, 48, 48)
    assert first[0, :, 0, 0].tolist() == expected
    last = parse_adapter(text.replace("nchw", "nhwc"), source="x").prepare(face)
    assert last.shape == (1, 48, 48, 3)
    assert last[0, 0, 0].tolist() == expected


def test_scaling_may_differ_by_channel() -> None:
    text = TEXT.replace('"grey"', '"rgb"').replace(
        "size = [64, 64]", "size = [48, 48]\nscale = 0.5\nmean = [1, 2, 3]\ndeviation = [1, 2, 4]"
    )
    values = parse_adapter(text, source="x").prepare(np.full((1, 48, 48, 3), 10, np.uint8))
    assert values[0, :, 0, 0].tolist() == [4.0, 1.5, 0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("kind", "sort"), "unknown key 'sort'"),
        (('layout = "nchw"\n', ""), "'layout' is missing"),
        (('"nchw"', '"chwn"'), "layout must be one of nchw, nhwc"),
        (('"fear"', '"bored"'), "'bored' is none of"),
        (("[64, 64]", "[64]"), "size must be"),
        (("[input]", "[input"), "not a valid adapter in TOML"),
        (('["theirs*.onnx"]', '"theirs*.onnx"'), "files must be a list of strings, got 'theirs"),
        (("[64, 64]", "48"), r"input.size must be \[height, width\], 1 to 1024, got 48"),
        (("[64, 64]", "[64, true]"), "input.size must be"),
        (("[64, 64]", "[64, 1000000]"), "input.size must be"),
        (("[64, 64]", '[64, 64]\nmean = "a"'), "input.mean must be a finite number, got 'a'"),
        (("[64, 64]", "[64, 64]\ndeviation = [1, true]"), "input.deviation must be a finite number"),
        (("[64, 64]", "[64, 64]\ndeviation = 0.0"), "input.deviation must not be 0"),
        (("[64, 64]", "[64, 64]\nmean = [1, 2]"), r"input.mean must be one number, got \[1, 2\]"),
        (("[64, 64]", "[64, 64]\nmean = []"), r"input.mean must be one number, got \[\]"),
        (("[64, 64]", "[64, 64]\nscale = nan"), "input.scale must be a finite number, got nan"),
        (("[64, 64]", f"[64, 64]\nscale = 1{'0' * 400}"), "input.scale must be a finite number"),
        (("[64, 64]", f"[64, 64]\nscale = 1{'0' * 5000}"), "not a valid adapter in TOML: Exceeds the limit"),
        (('"grey"\n', '"rgb"\ndeviation = [1, 2]\n'), "input.deviation must be one number, or 3, one a channel, got"),
        (("[64, 64]", '[64, 64]\nfixed_batch = "no"'), "input.fixed_batch must be true or false, got 'no'"),
        (('name = "theirs"', "name = 1"), "name must be a string, got 1"),
        (('name = "data"', "name = []"), r"input.name must be a string, got \[\]"),
        (('"-"]', "7]"), "labels must be a list of strings"),
    ],
)
def test_a_wrong_adapter_names_the_key(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "theirs.toml"
    path.write_text(TEXT.replace(*change))
    with pytest.raises(DataError, match=message) as error:
        load_adapter(path)
    assert "theirs.toml" in str(error.value)


def test_a_list_of_labels_or_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    labels = next(line for line in TEXT.splitlines() if line.startswith("labels"))
    with pytest.raises(DataError, match="x: labels must be a list of strings, got 7"):
        parse_adapter(TEXT.replace(labels, "labels = 7"), source="x")
    path = tmp_path / "theirs.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"theirs\.toml: not UTF-8 text"):
        load_adapter(path)


def test_a_foreign_file_is_scored_through_its_adapter(tmp_path: Path) -> None:
    (tmp_path / "theirs-1.onnx").write_bytes(foreign_model())
    adapter = parse_adapter(TEXT.replace("[64, 64]", "[64, 64]\nfixed_batch = true"), source="x")
    (subject,) = find_subjects([str(tmp_path / "theirs-1.onnx")], workspace=tmp_path, adapters=[adapter])
    assert (subject.name, subject.kind) == ("theirs", "foreign")
    session = open_session(subject, "ort-cpu", threads=1)
    faces = np.stack([np.full((48, 48), level, np.uint8) for level in (10, 200)])
    probabilities = score(session, faces)
    logits = np.array([[10], [200]]) * np.arange(1, 9) / 100
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    order = [4, 5, 6, 1, 3, 2, 0]
    np.testing.assert_allclose(probabilities, shares[:, order] / shares[:, order].sum(axis=1, keepdims=True), rtol=1e-3)


def test_an_adapter_that_does_not_fit_lists_the_files_names(tmp_path: Path) -> None:
    (tmp_path / "theirs.onnx").write_bytes(foreign_model(input_name="image"))
    adapter = parse_adapter(TEXT, source="x")
    (subject,) = find_subjects([str(tmp_path / "theirs.onnx")], workspace=tmp_path, adapters=[adapter])
    with pytest.raises(MeasurementError, match="no input 'data', only image"):
        open_session(subject, "ort-cpu", threads=1)


def test_a_file_of_ours_needs_no_adapter(tmp_path: Path) -> None:
    (tmp_path / "ours.onnx").write_bytes(tiny_model(name="ours"))
    (subject,) = find_subjects([str(tmp_path / "ours.onnx")], workspace=tmp_path)
    assert subject.kind == "file"
