"""The accuracy check: what passes, and each kind of wrong file that fails."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from fer_deploy.errors import ExportError, ParityError
from fer_deploy.export import parity
from fer_deploy.export.graph import FaceClassifier
from fer_deploy.export.metadata import ExportedFile
from fer_deploy.export.parity import (
    PARITY_CASES,
    TOLERANCES,
    CaseResult,
    ParityCase,
    Reference,
    cases_for,
    check_flips,
    check_parity,
    compare_case,
    pictures_of,
)
from fer_deploy.export.plan import Plan
from fer_deploy.faces import Dataset


def test_the_cases_cover_the_contract() -> None:
    """Every face once, batches 1, 7 and 64 of 256 faces, odd and large pictures, colour."""
    assert PARITY_CASES[0].faces is None
    assert (PARITY_CASES[0].height, PARITY_CASES[0].width) == (48, 48)
    batches = {case.batch for case in PARITY_CASES if (case.height, case.width, case.faces) == (48, 48, 256)}
    assert batches == {1, 7, 64}
    sizes = {(case.height, case.width) for case in PARITY_CASES}
    assert {(1, 1), (224, 224), (2000, 1500)} <= sizes
    assert any(height % 2 and width % 2 for height, width in sizes)
    assert TOLERANCES == {"fp32": 1e-5, "fp16": 5e-3}


def test_every_export_passed_all_cases(exports: dict[str, ExportedFile], dataset: Dataset) -> None:
    for file in exports.values():
        parity = file.parity
        assert [result.case for result in parity.cases] == list(PARITY_CASES)
        assert parity.whole.faces == len(dataset.validation)
        assert 0 < parity.max_difference <= TOLERANCES[file.precision]
        assert parity.mean_difference <= parity.max_difference
        assert parity.faces_from == "validation"
    assert exports["B.onnx"].parity.max_difference < exports["B.fp16.onnx"].parity.max_difference
    assert exports["B.onnx"].parity.reference_accuracy == pytest.approx(exports["B.onnx"].parity.accuracy, abs=0.01)


def test_accuracy_is_the_files_own(exports: dict[str, ExportedFile], dataset: Dataset) -> None:
    file = exports["B.onnx"]
    session = __import__("onnxruntime").InferenceSession(str(file.path), providers=["CPUExecutionProvider"])

    def accuracy(split: str) -> float:
        faces = dataset.split(split)
        answers = session.run(None, {"faces": np.repeat(faces.images[..., None], 3, axis=3)})[0]
        return float((answers.argmax(axis=1) == faces.labels).mean())

    assert file.parity.accuracy == pytest.approx(accuracy("validation"))
    assert file.accuracy == pytest.approx(accuracy("test"))
    assert file.parity.accuracy > 0.3  # it learned something: chance is 1/7


def _nudge_a_weight(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "conv_0.weight")
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += 0.01
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _swap_two_labels(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "gemm_0.bias")
    values = numpy_helper.to_array(tensor).copy()
    values[[0, 1]] = values[[1, 0]]
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _green_is_red(model: onnx.ModelProto) -> None:
    """Wrong for colour alone: every grey face still agrees."""
    tensor = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [3, 1])
    values = numpy_helper.to_array(tensor)[[1, 0, 2]]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def _no_antialiasing(model: onnx.ModelProto) -> None:
    """Wrong for pictures larger than the network's input alone: the filter never widens."""
    node = next(node for node in model.graph.node if node.op_type == "Max")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "one"))
    for other in model.graph.node:
        for position, name in enumerate(other.input):
            if name == node.output[0]:
                other.input[position] = "one"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (_nudge_a_weight, "batch 256 at 48x48"),
        (_swap_two_labels, "batch 256 at 48x48"),
        (_green_is_red, "batch 64 at 48x48"),
        (_no_antialiasing, "at 97x1"),
    ],
)
def test_a_wrong_file_is_stopped_in_the_case_that_shows_it(
    model: onnx.ModelProto,
    classifier: FaceClassifier,
    dataset: Dataset,
    change: Callable[[onnx.ModelProto], None],
    where: str,
) -> None:
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    change(wrong)
    with pytest.raises(ParityError, match=where) as caught:
        check_parity(
            wrong.SerializeToString(), classifier, dataset.validation, faces_from="validation", precision="fp32"
        )
    assert "row " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_members_are_compared_where_the_fusion_hides_them(
    exports: dict[str, ExportedFile], ensemble: Plan, dataset: Dataset
) -> None:
    """A temperature changes no rank, so the fused ranks agree: the member's own probabilities do not."""
    wrong = onnx.load(exports["B+B~mirror+E.rrf.onnx"].path)
    division = next(
        tensor for tensor in wrong.graph.initializer if not tensor.dims and float(numpy_helper.to_array(tensor)) == 1.5
    )
    division.CopyFrom(numpy_helper.from_array(np.float32(1.6), division.name))
    with pytest.raises(ParityError, match="of member E"):
        check_parity(
            wrong.SerializeToString(),
            ensemble.classifier(),
            dataset.validation,
            faces_from="validation",
            precision="fp32",
        )


def test_int8_that_loses_accuracy_fails(model: onnx.ModelProto, classifier: FaceClassifier, dataset: Dataset) -> None:
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    _swap_two_labels(wrong)
    for tensor in wrong.graph.initializer:
        if tensor.name == "gemm_0.weight":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), tensor.name))
    settings = {"faces_from": "validation", "precision": "int8"}
    with pytest.raises(ParityError, match=r"int8 loses .* points of accuracy"):
        check_parity(wrong.SerializeToString(), classifier, dataset.validation, **settings)
    passed = check_parity(model.SerializeToString(), classifier, dataset.validation, **settings)
    assert passed.tolerance is None


def _reverse_at_other_sizes(model: onnx.ModelProto) -> None:
    """The answers, backwards for every picture that is not 48 pixels wide."""
    model.graph.node[-1].output[0] = "answers"
    for name, value in (
        ("backwards", np.arange(7)[::-1].astype(np.int64)),
        ("side", np.array([48], np.int64)),
        ("third", np.array([2], np.int64)),
    ):
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    model.graph.node.extend(
        [
            onnx.helper.make_node("Gather", ["answers", "backwards"], ["reversed"], axis=1),
            onnx.helper.make_node("Shape", ["faces"], ["axes"]),
            onnx.helper.make_node("Gather", ["axes", "third"], ["width"]),
            onnx.helper.make_node("Equal", ["width", "side"], ["usual"]),
            onnx.helper.make_node("Where", ["usual", "answers", "reversed"], ["probabilities"]),
        ]
    )


@pytest.mark.parametrize("check_accuracy", [True, False])
def test_int8_is_also_checked_at_sizes_without_accuracy(
    model: onnx.ModelProto, classifier: FaceClassifier, dataset: Dataset, check_accuracy: bool
) -> None:
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    _reverse_at_other_sizes(wrong)
    with pytest.raises(ParityError, match=r"batch 7 at 1x1: int8's probabilities are 0\.\d+ from PyTorch's on average"):
        check_parity(
            wrong.SerializeToString(),
            classifier,
            dataset.validation,
            faces_from="validation",
            precision="int8",
            check_accuracy=check_accuracy,
        )


def _answers(case_faces: int, *, lead: float) -> NDArray[np.float32]:
    """Probabilities of a class that leads by so much, the same for each face."""
    row = np.full(7, (1 - lead) / 7)
    row[2] += lead
    return np.tile(row.astype(np.float32), (case_faces, 1))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_nan_is_reported_with_its_row(classifier: FaceClassifier, dataset: Dataset, precision: str) -> None:
    """A case asks the first faces of many: the row is one of its own."""
    expected, found = _answers(9, lead=0.5), _answers(9, lead=0.5)
    found[4, 1] = np.nan
    with pytest.raises(ParityError, match=rf"is not a number \(row {dataset.validation.rows[4]}\)"):
        compare_case(
            PARITY_CASES[1], [found], [expected], classifier, rows=dataset.validation.rows, precision=precision
        )


def test_a_changed_answer_fails_where_its_lead_exceeds_the_tolerance(
    classifier: FaceClassifier, dataset: Dataset
) -> None:
    """Each probability is .004 off, less than fp16 may be; the class that led by .006 does not lead any more."""
    expected = _answers(3, lead=0.006)
    found = expected.copy()
    found[1, 2] -= 0.004
    found[1, 5] += 0.004
    rows = dataset.validation.rows
    with pytest.raises(ParityError, match=rf"most probable class differs .*row {rows[1]}.* by more than 0\.005"):
        compare_case(PARITY_CASES[0], [found], [expected], classifier, rows=rows, precision="fp16")
    expected[:, 2] -= 0.002  # a lead of .004: rounding may take it
    assert compare_case(PARITY_CASES[0], [found], [expected], classifier, rows=rows, precision="fp16").flips == (
        rows[1],
    )


def test_fp16_may_change_one_answer_but_not_four() -> None:
    def changed(flips: int, faces: int) -> CaseResult:
        return CaseResult(PARITY_CASES[0], faces, 0.004, 0.001, tuple(range(flips)))

    check_flips(changed(1, 70), "validation")
    check_flips(changed(3, 3_589), "validation")
    for flips, faces, allowed in ((4, 70, 1), (4, 3_589, 3)):
        with pytest.raises(
            ParityError, match=rf"^fp16 changes .* of 4 of .* faces \(validation\); {allowed} are allowed"
        ):
            check_flips(changed(flips, faces), "validation")


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_flips_are_limited_in_fp16_alone(
    model: onnx.ModelProto,
    classifier: FaceClassifier,
    dataset: Dataset,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Answers that all lie within the tolerance, with the first two classes exchanged in four faces."""
    close = _answers(len(dataset.validation), lead=0.004)
    changed = close.copy()
    changed[:4, [2, 5]] = close[:4][:, [5, 2]]
    monkeypatch.setattr(parity, "TOLERANCES", {"fp16": 5e-3, "fp32": 5e-3})
    monkeypatch.setattr(parity, "run_session", lambda _session, _pictures: [changed])
    monkeypatch.setattr(parity, "PARITY_CASES", [ParityCase(batch=len(close), faces=None)])
    monkeypatch.setattr(Reference, "members", lambda _self, _case: [close])
    monkeypatch.setattr(classifier, "fuse", lambda members: members[0])
    settings = {"faces_from": "validation", "precision": precision}
    if precision == "fp32":
        assert len(check_parity(model.SerializeToString(), classifier, dataset.validation, **settings).whole.flips) == 4
        return
    with pytest.raises(ParityError, match="fp16 changes"):
        check_parity(model.SerializeToString(), classifier, dataset.validation, **settings)


def test_pictures_are_the_same_whatever_the_batch(dataset: Dataset) -> None:
    case = ParityCase(batch=7, height=31, width=20, faces=30, colour=True)
    whole = np.concatenate(list(pictures_of(dataset.validation.images, case)))
    assert whole.shape == (30, 31, 20, 3)
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(whole, np.concatenate(list(pictures_of(dataset.validation.images, case, batch=64))))
    assert (whole[1] != whole[1, ..., :1]).any()
    grey = next(pictures_of(dataset.validation.images, PARITY_CASES[0]))
    np.testing.assert_array_equal(grey[..., 0], dataset.validation.images[:256])


def test_the_reference_bypasses_the_resize_as_training_does(classifier: FaceClassifier, dataset: Dataset) -> None:
    few = dataset.validation.take(np.arange(20))
    reference = Reference(classifier, few)
    expected = reference.members(PARITY_CASES[0])[0]
    network = classifier.members[0].network
    import torch

    with torch.inference_mode():
        planes = torch.from_numpy(few.images).float()[:, None] / 127.5 - 1
        np.testing.assert_allclose(expected, network(planes).softmax(1).numpy(), atol=1e-6)


def test_static_files_run_in_their_own_shape() -> None:
    assert cases_for((None, None, None)) == PARITY_CASES
    assert {(case.batch, case.height, case.width) for case in cases_for((1, 48, 48))} == {(1, 48, 48)}
    assert {case.height for case in cases_for((None, 48, None))} == {48}


def test_a_file_that_gives_every_face_the_same_answer_fails(
    model: onnx.ModelProto, classifier: FaceClassifier, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if PyTorch agrees."""
    uniform = np.full((len(dataset.validation), 7), 1 / 7, np.float32)
    monkeypatch.setattr(parity, "PARITY_CASES", [ParityCase(batch=len(uniform), faces=None)])
    monkeypatch.setattr(parity, "run_session", lambda _session, _pictures: [uniform])
    monkeypatch.setattr(Reference, "members", lambda _self, _case: [uniform])
    monkeypatch.setattr(classifier, "fuse", lambda members: members[0])
    with pytest.raises(ParityError, match=r"all \d+ faces \(validation\) get the same probabilities"):
        check_parity(
            model.SerializeToString(), classifier, dataset.validation, faces_from="validation", precision="fp32"
        )


def test_no_face_is_an_error(model: onnx.ModelProto, classifier: FaceClassifier, dataset: Dataset) -> None:
    none = dataset.validation.take(np.arange(0))
    with pytest.raises(ExportError, match="no face"):
        check_parity(model.SerializeToString(), classifier, none, faces_from="validation", precision="fp32")
