"""Verifying files and manifests that somebody else made: each kind of damage fails, with or without torch and runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_model import tiny_model

from fer_deploy.emotions import EMOTIONS
from fer_deploy.export.golden import draw_golden_inputs
from fer_deploy.export.manifest import publish
from fer_deploy.export.verify import Verification, verify_file
from fer_deploy.recognizer import Recognizer


def _rewired(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> onnx.ModelProto:
    """The tiny model, its answer renamed `p`, and `nodes` that make `probabilities` of it."""
    model = onnx.load_from_string(tiny_model())
    model.graph.node[-1].output[0] = "p"
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


def _node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, outputs, **attributes)


FIRST = np.array([0], np.int64)
SEVENTH = np.full((1, 7), 1 / 7, np.float32)
HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "an operator that does not exist": (lambda: _rewired([_node("Divine", ["p"], ["probabilities"])]), "Divine"),
    "a cycle": (
        lambda: _rewired([_node("Add", ["p", "loop"], ["probabilities"]), _node("Neg", ["probabilities"], ["loop"])]),
        "ONNX Runtime can load",
    ),
    "an input that nothing computes": (lambda: _rewired([_node("Add", ["p", "q"], ["probabilities"])]), "can load"),
    "NaN": (
        lambda: _rewired(
            [_node("Log", ["minus"], ["nan"]), _node("Add", ["p", "nan"], ["probabilities"])], minus=-SEVENTH
        ),
        "not finite",
    ),
    "NaN for a black picture": (
        lambda: _rewired(
            [
                _node("Cast", ["faces"], ["samples"], to=TensorProto.FLOAT),
                _node("ReduceMax", ["samples", "each_face"], ["brightest"], keepdims=1),
                _node("Reshape", ["brightest", "column"], ["bright"]),
                _node("Div", ["bright", "bright"], ["one_or_nan"]),
                _node("Mul", ["p", "one_or_nan"], ["probabilities"]),
            ],
            each_face=np.array([1, 2, 3], np.int64),
            column=np.array([-1, 1], np.int64),
        ),
        "not finite",
    ),
    "one row for a batch": (
        lambda: _rewired([_node("ReduceMean", ["p", "first"], ["probabilities"], keepdims=1)]),
        "shape [1, 7] instead of",
    ),
    "the mean of the batch for each face": (
        lambda: _rewired(
            [
                _node("ReduceMean", ["p", "first"], ["mean"], keepdims=1),
                _node("Shape", ["p"], ["wanted"]),
                _node("Expand", ["mean", "wanted"], ["probabilities"]),
            ]
        ),
        "from those it gets alone",
    ),
    "the next face's row": (
        lambda: _rewired(
            [
                _node("Slice", ["p", "one", "end", "first"], ["later"]),
                _node("Slice", ["p", "first", "one", "first"], ["front"]),
                _node("Concat", ["later", "front"], ["probabilities"], axis=0),
            ],
            one=np.array([1], np.int64),
            end=np.array([1 << 30], np.int64),
        ),
        "from those it gets alone",
    ),
    "rows that sum to 50": (
        lambda: _rewired([_node("Mul", ["p", "fifty"], ["probabilities"])], fifty=np.array(50, np.float32)),
        "do not sum to 1",
    ),
    "negative probabilities": (
        lambda: _rewired(
            [_node("Mul", ["p", "twice"], ["d"]), _node("Sub", ["d", "seventh"], ["probabilities"])],
            twice=np.array(2, np.float32),
            seventh=SEVENTH,
        ),
        "negative",
    ),
    "five columns": (
        lambda: _rewired(
            [_node("Slice", ["p", "first", "five", "axis"], ["probabilities"])],
            five=np.array([5], np.int64),
            axis=np.array([1], np.int64),
        ),
        "",
    ),
    "the same answer for every picture": (
        lambda: _rewired(
            [
                _node("Mul", ["p", "none_of_it"], ["nothing"]),
                _node("Add", ["nothing", "seventh"], ["probabilities"]),
            ],
            none_of_it=np.array(0, np.float32),
            seventh=SEVENTH,
        ),
        "all 30 pictures get the same probabilities",
    ),
    "a failure at other sizes": (
        lambda: _rewired(
            [
                _node("Slice", ["faces", "first", "side", "height"], ["cut"]),
                _node("Cast", ["cut"], ["float_cut"], to=TensorProto.FLOAT),
                _node("Reshape", ["float_cut", "pixels"], ["flattened"]),
                _node("MatMul", ["flattened", "zeros"], ["nothing"]),
                _node("Add", ["p", "nothing"], ["probabilities"]),
            ],
            side=np.array([48], np.int64),
            height=np.array([1], np.int64),
            pixels=np.array([-1, 48 * 48 * 3], np.int64),
            zeros=np.zeros((48 * 48 * 3, 7), np.float32),
        ),
        "ONNX Runtime failed",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_without_manifest_and_runs_is_run_and_fails(kind: str, tmp_path: Path) -> None:
    build, message = HOSTILE[kind]
    path = tmp_path / "other.onnx"
    path.write_bytes(build().SerializeToString())
    found = verify_file(path)
    assert found.verdict == "failed"
    assert [check.name for check in found.failed] == ["answers"]
    assert message in found.failed[0].detail


@pytest.mark.parametrize("labels", [EMOTIONS[:6], (*EMOTIONS, "contempt"), "angry", [1] * 7, None])
def test_labels_that_do_not_match_the_output_fail_before_the_file_is_run(labels: object, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(tiny_model(metadata={"labels": json.dumps(labels)}))
    found = verify_file(path)
    assert [(check.name, check.status) for check in found.checks] == [("contract", "failed")]


def test_a_file_that_fixes_a_huge_input_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    path.write_bytes(tiny_model(shape=(4096, 4096, 4096, 3)))
    (failed,) = verify_file(path).failed
    assert "it fixes its input to 4096x4096x4096, more than the 50,000,000 pixels" in failed.detail


@pytest.mark.parametrize(
    "shape", [("n", "h", "w", 3), (1, 48, 48, 3), (4, 37, 53, 3), ("n", 48, 48, 3), (40, "h", "w", 3)]
)
def test_a_sound_file_without_manifest_and_runs_is_unproven(shape: tuple[int | str, ...], tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model(shape=shape))
    found = verify_file(path)
    assert found.verdict == "sound but unproven"
    assert [(check.name, check.status) for check in found.checks] == [
        ("contract", "ok"),
        ("answers", "ok"),
        ("sha256", "skipped"),
        ("golden vectors", "skipped"),
        ("parity with the runs", "skipped"),
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny model with a complete manifest."""
    content = tiny_model()
    recognizer = Recognizer(content, threads=1)
    outputs = {golden.file: recognizer.probabilities(golden.pictures).tolist() for golden in draw_golden_inputs()}
    entry = {
        "name": "tiny",
        "precision": "fp32",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "members": ["tiny"],
        "weights": [1.0],
        "weights_source": "equal",
        "fusion": "wap",
        "accuracy": 0.5,
        "accuracy_split": "PrivateTest",
        "parity": {"faces_from": "PublicTest", "accuracy": 0.5, "max_difference": 1e-7},
        "golden": {"tolerance": 1e-4, "outputs": outputs},
    }
    publish(tmp_path, "tiny.onnx", content, entry)
    return tmp_path


def _failed(found: Verification) -> dict[str, str]:
    assert found.verdict == "failed"
    return {check.name: check.detail for check in found.failed}


def test_the_manifest_of_the_following_tests_passes(folder: Path) -> None:
    assert [check.name for check in verify_file(folder / "tiny.onnx").skipped] == ["parity with the runs"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"null",
        b"7",
        b"\x00\xff\x80 binary",
        b"[" * 200_000,
        b'{"format": 99}',
        b'{"format": "1"}',
        b'{"format": 1}',
        b'{"format": 1, "files": {}, "golden": []}',
        b'{"format": 1, "files": [], "golden": []}',
        b'{"format": NaN}',
    ],
)
def test_a_damaged_manifest_is_a_failure(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    problem = _failed(verify_file(folder / "tiny.onnx"))["manifest"]
    assert "manifest.json" in problem
    assert "\n" not in problem


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_manifest_that_is_no_regular_file_is_a_failure(folder: Path) -> None:
    path = folder / "manifest.json"
    path.unlink()
    os.mkfifo(path)
    assert "a named pipe" in _failed(verify_file(folder / "tiny.onnx"))["manifest"]
    path.unlink()
    path.symlink_to("nowhere")
    assert "manifest" in _failed(verify_file(folder / "tiny.onnx"))
    path.unlink()
    path.mkdir()
    assert "a folder" in _failed(verify_file(folder / "tiny.onnx"))["manifest"]


@pytest.mark.parametrize("key", ["labels", "input", "output"])
def test_a_manifest_with_another_contract_is_a_failure(folder: Path, key: str) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: None}))
    assert f"its {key} differs" in _failed(verify_file(folder / "tiny.onnx"))["manifest"]


@pytest.mark.parametrize(
    ("key", "value"), [("bytes", -1), ("members", None), ("accuracy", 1e308), ("parity", None), ("weights", [1, 2])]
)
def test_a_damaged_value_that_only_a_card_states_is_a_failure(folder: Path, key: str, value: object) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["tiny.onnx"][key] = value
    path.write_text(json.dumps(manifest))
    assert key in _failed(verify_file(folder / "tiny.onnx"))["manifest"]


def _set(value: Any, *keys: str | int) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def _drop(*keys: str | int) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return change


ENTRY = ("files", "tiny.onnx")
FIRST_OUTPUT = (*ENTRY, "golden", "outputs", "golden/grey-48x48.bin")


@pytest.mark.parametrize(
    "change",
    [
        _set([], "golden"),
        _set({}, "golden"),
        _set([7], "golden"),
        _drop("golden"),
        _drop("golden", 0, "shape"),
        _set([1, 48, 48], "golden", 0, "shape"),
        _set([1 << 40, 48, 48, 3], "golden", 0, "shape"),
        _set([16_384, 16_384, 16_384, 3], "golden", 0, "shape"),
        _set([True, 48, 48, 3], "golden", 0, "shape"),
        _set("x", "golden", 0, "sha256"),
        _set(7, "golden", 0, "file"),
        _drop("files"),
        _set([], *ENTRY),
        _set(7, *ENTRY),
        _set(None, *ENTRY, "sha256"),
        _drop(*ENTRY, "sha256"),
        _set("fp8", *ENTRY, "precision"),
        _set(["fp32"], *ENTRY, "precision"),
        _drop(*ENTRY, "golden"),
        _drop(*ENTRY, "golden", "outputs"),
        _set([], *ENTRY, "golden", "outputs"),
        _set(1e9, *ENTRY, "golden", "tolerance"),
        _set(0, *ENTRY, "golden", "tolerance"),
        _set(-1, *ENTRY, "golden", "tolerance"),
        _set("1e-4", *ENTRY, "golden", "tolerance"),
        _set(True, *ENTRY, "golden", "tolerance"),
        _set(int("9" * 400), *ENTRY, "golden", "tolerance"),
        _set(None, *FIRST_OUTPUT),
        _set([], *FIRST_OUTPUT),
        _set([[1.0]], *FIRST_OUTPUT),
        _set([[2.0, 0, 0, 0, 0, 0, 0]] * 2, *FIRST_OUTPUT),
        _set([["1", 0, 0, 0, 0, 0, 0]] * 2, *FIRST_OUTPUT),
    ],
)
def test_a_manifest_with_a_wrong_value_is_a_failure(change: Callable[[dict[str, Any]], None], folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    problem = _failed(verify_file(folder / "tiny.onnx"))["manifest"]
    assert "damaged" in problem
    assert "export again" in problem


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set({}, *ENTRY, "golden", "outputs"), "no recorded output"),
        (_drop(*FIRST_OUTPUT), "no recorded output"),
        (_set([[1.0, 0, 0, 0, 0, 0, 0]], *FIRST_OUTPUT), "expected (1, 7) probabilities, got (2, 7)"),
        (_set([[1.0, 0, 0, 0, 0, 0, 0]] * 2, *FIRST_OUTPUT), "from the recorded one"),
        (_set("0" * 64, "golden", 0, "sha256"), "is not the one that the manifest records"),
        (_set("../../etc/passwd", "golden", 0, "file"), "outside its own folder"),
        (_set("golden/absent.bin", "golden", 0, "file"), "no such file"),
        (_set("golden", "golden", 0, "file"), "a folder, not a golden input"),
    ],
)
def test_wrong_golden_vectors_are_a_failure(
    change: Callable[[dict[str, Any]], None], message: str, folder: Path
) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    assert message in _failed(verify_file(folder / "tiny.onnx"))["golden vectors"]


def test_a_file_that_the_manifest_does_not_list_is_unproven(folder: Path) -> None:
    (folder / "other.onnx").write_bytes(tiny_model())
    found = verify_file(folder / "other.onnx")
    assert found.verdict == "sound but unproven"
    assert "has no entry of it" in found.skipped[0].detail


def test_a_member_whose_name_no_folder_can_have_is_a_missing_run(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "exports").mkdir()
    path = tmp_path / "exports" / "odd.onnx"
    model = onnx.load_from_string(tiny_model())
    (entry,) = (entry for entry in model.metadata_props if entry.key == "members")
    entry.value = json.dumps(["x" * 300])
    onnx.save(model, path)
    (parity,) = (check for check in verify_file(path).checks if check.name == "parity with the runs")
    assert parity.status == "skipped"
    assert "has no run xxx" in parity.detail
