"""The ONNX file against torch: every kind of classifier, every batch and size, and what must not be in it."""

from __future__ import annotations

import getpass
import socket
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from fer_deploy.errors import ExportError
from fer_deploy.export.build import build_model
from fer_deploy.export.graph import FaceClassifier, Member
from fer_deploy.export.metadata import ExportedFile
from fer_deploy.export.parity import run_session
from fer_deploy.export.passes.members import show_members
from fer_deploy.export.plan import Plan
from fer_deploy.faces.synthetic import colour_faces
from fer_deploy.model.contract import IR_VERSION, OPSET_VERSION
from fer_deploy.model.session import start_session

ROOT = Path(__file__).parents[2]
SHAPES = [(1, 48, 48), (7, 48, 48), (64, 48, 48), (1, 1, 1), (3, 37, 53), (2, 224, 224), (1, 1500, 2000)]


@pytest.mark.parametrize(("batch", "height", "width"), SHAPES)
def test_onnx_runtime_agrees_with_torch(
    model: onnx.ModelProto, classifier: FaceClassifier, batch: int, height: int, width: int
) -> None:
    pictures = colour_faces([face % 7 for face in range(batch)], height=height, width=width)
    (found,) = run_session(start_session(model.SerializeToString()), pictures)
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(pictures)).numpy()
    assert found.dtype == np.float32
    assert found.shape == (batch, 7)
    assert np.abs(found - expected).max() <= 1e-5
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    if batch == 7:
        assert np.ptp(found, axis=0).max() > 0.05  # a graph that says the same of every face would agree too


@pytest.mark.parametrize(("batch", "height", "width"), SHAPES[:6])
def test_every_member_of_an_ensemble_agrees_with_torch(
    exports: dict[str, ExportedFile], ensemble: Plan, batch: int, height: int, width: int
) -> None:
    pictures = colour_faces([face % 7 for face in range(batch)], height=height, width=width)
    shown = show_members(onnx.load(exports["B+B~mirror+E.rrf.onnx"].path))
    fused, *members = run_session(start_session(shown.SerializeToString()), pictures)
    classifier = ensemble.classifier()
    with torch.inference_mode():
        expected = classifier.member_probabilities(torch.from_numpy(pictures))
    assert len(members) == 3
    for found, own in zip(members, expected, strict=True):
        assert np.abs(found - own.numpy()).max() <= 1e-5
    assert (np.abs(members[0] - members[1]).max() > 1e-3) == (width > 1)  # the mirrored view is another view
    refused = classifier.fuse([torch.from_numpy(own) for own in members]).numpy()
    assert np.abs(fused - refused).max() <= 1e-6


def test_a_network_used_twice_is_stored_once(exports: dict[str, ExportedFile], model: onnx.ModelProto) -> None:
    def weights(graph: onnx.GraphProto) -> int:
        return sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)

    three = onnx.load(exports["B+B~mirror+E.rrf.onnx"].path).graph
    assert weights(three) < 2.1 * weights(model.graph)
    assert sum(node.op_type == "Conv" for node in three.node) == 2 * sum(n.op_type == "Conv" for n in model.graph.node)
    assert sum(node.op_type == "Range" for node in three.node) == 2  # one front for all members


def test_exporting_twice_gives_identical_bytes(model: onnx.ModelProto, classifier: FaceClassifier) -> None:
    again = build_model(classifier)
    assert again.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_the_file_holds_no_trace_of_the_machine(exports: dict[str, ExportedFile]) -> None:
    traces = {str(ROOT), str(Path.home()), str(Path(torch.__file__).parent), socket.gethostname(), ".py", "stack_trace"}
    traces |= {"pkg.torch", "pytorch", "forward", 'File "', "site-packages", "torch.nn", "fer_deploy/", "/tmp/"}
    user = getpass.getuser()
    for file in exports.values():
        content = file.path.read_bytes()
        for trace in sorted(trace for trace in traces if len(trace) > 2):
            assert trace.encode() not in content, trace
        assert f"/{user}/".encode() not in content


def test_versions_are_old_enough_for_old_engines(exports: dict[str, ExportedFile]) -> None:
    """Opset 18 and IR 8: ONNX Runtime reads them from 1.14 on (docs: Versioning and Compatibility)."""
    for file in exports.values():
        loaded = onnx.load(file.path)
        assert loaded.ir_version == IR_VERSION == 8
        assert [(entry.domain, entry.version) for entry in loaded.opset_import] == [("", OPSET_VERSION)]
        assert {node.domain for node in loaded.graph.node} == {""}
        onnx.checker.check_model(loaded, full_check=True)


def test_the_graph_is_lean(model: onnx.ModelProto, classifier: FaceClassifier) -> None:
    """No batch norm, skip, identity or constant is left; less than torch's exporter leaves."""
    operators = [node.op_type for node in model.graph.node]
    assert not {"BatchNormalization", "Identity", "Constant", "Dropout", "ConstantOfShape", "ReduceMean"} & set(
        operators
    )
    assert operators.count("Conv") == 4
    assert operators.count("Relu") == 4 + 2  # each layer's, and the two triangle filters
    assert operators.count("Add") == 2  # no skip: two lengths of the resize
    raw = build_model(classifier, fold=False, passes=())
    assert len(operators) < len(raw.graph.node)


@pytest.mark.parametrize("shape", [(1, 0, 48, 3), (1, 48, 0, 3), (0, 48, 48, 3)])
def test_an_empty_picture_is_an_error(model: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    with pytest.raises(ExportError, match="can't run the file"):
        run_session(start_session(model.SerializeToString()), np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    "pictures",
    [
        np.zeros((1, 48, 48, 3), np.float32),
        np.zeros((1, 48, 48, 3), np.int8),
        np.zeros((48, 48, 3), np.uint8),
        np.zeros((1, 48, 48), np.uint8),
        np.zeros((1, 3, 48, 48), np.uint8),
        np.zeros((1, 48, 48, 4), np.uint8),
    ],
    ids=["float", "int8", "no batch", "no channels", "channels first", "alpha"],
)
def test_wrong_inputs_are_errors(model: onnx.ModelProto, pictures: np.ndarray) -> None:
    session = start_session(model.SerializeToString())
    with pytest.raises(Exception, match=r"(?i)type|rank|dimension"):
        session.run(None, {"faces": pictures})


def test_fixed_axes_make_the_resize_constant(classifier: FaceClassifier) -> None:
    fixed = build_model(classifier, shape=(1, 48, 48))
    assert [axis.dim_value for axis in fixed.graph.input[0].type.tensor_type.shape.dim] == [1, 48, 48, 3]
    assert not {"Range", "Shape", "Abs"} & {node.op_type for node in fixed.graph.node}
    picture = colour_faces([2])
    (found,) = run_session(start_session(fixed.SerializeToString()), picture)
    with torch.inference_mode():
        assert np.abs(found - classifier(torch.from_numpy(picture)).numpy()).max() <= 1e-5


def test_optimisation_levels_agree(model: onnx.ModelProto) -> None:
    """What an engine does to the graph is inside the tolerance, whatever level an app asks for."""
    pictures = colour_faces(range(7), height=60, width=60)
    answers = []
    for level in (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    ):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"faces": pictures})[0])
    assert np.abs(answers[0] - answers[1]).max() <= 1e-5


class _Unexportable(nn.Module):
    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return faces.flatten(1)[:, :7] * (
            2 if faces.sum() > 0 else 1
        )  # a number of Python's, unknown when it is traced


def test_a_failure_of_torchs_exporter_is_one_line() -> None:
    with pytest.raises(ExportError) as caught:
        build_model(FaceClassifier([Member("B", _Unexportable())]), fold=False)
    assert str(caught.value).startswith("torch's exporter failed: ")
    assert "\n" not in str(caught.value)
