"""A model file is refused for what its bytes say, before any engine is given them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tiny_model import tiny_model

from fer_deploy.emotions import EMOTIONS
from fer_deploy.ensemble import AdaptiveTemperature
from fer_deploy.errors import ModelFileError
from fer_deploy.model.contract import (
    MAXIMUM_IR_VERSION,
    ModelContract,
    check_model_bytes,
    check_model_file,
    read_model_file,
)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    made = tiny_model()
    return made if isinstance(made, onnx.ModelProto) else onnx.load_from_string(made)


def test_a_good_files_contract_agrees_with_the_onnx_package(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "B+E.rrf.onnx"
    helper.set_model_props(model, {"labels": json.dumps(EMOTIONS), "members": '["B", "E"]', "weights": "[0.25, 0.75]"})
    content = model.SerializeToString()
    path.write_bytes(content)
    read, contract = read_model_file(path)
    assert read == content
    assert contract.bytes == len(content)
    assert contract.labels == EMOTIONS
    assert contract.ir_version == model.ir_version
    assert contract.opset == model.opset_import[0].version
    assert sum(contract.operators.values()) == len(model.graph.node)
    assert set(contract.operators) == {node.op_type for node in model.graph.node}
    assert contract.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert contract.shape == (None, None, None)
    assert not contract.is_static
    assert contract.name == "B+E.rrf"  # what the file does not say, its name does
    assert contract.members == ("B", "E")
    assert contract.weights == (0.25, 0.75)
    assert check_model_bytes(content).sha256 == contract.sha256


def _external(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "hidden")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.graph.initializer.append(tensor)


def _external_in_attribute(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "hidden")
    tensor.external_data.add(key="location", value="../secret")
    model.graph.node.append(helper.make_node("Constant", [], ["hidden"], value=tensor))


def _custom_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Evil", ["faces"], ["x"], domain="com.example"))


def _contributed_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("QuickGelu", ["faces"], ["x"], domain="com.microsoft"))


def _custom_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _two_versions(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("ai.onnx", 18))


def _function(model: onnx.ModelProto) -> None:
    opsets = [helper.make_opsetid("", 18)]
    model.functions.append(
        helper.make_function("x", "F", ["a"], ["b"], [helper.make_node("Abs", ["a"], ["b"])], opsets)
    )


def _loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["x"], body=body))


def _hidden_graph(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Abs", ["faces"], ["x"], body=helper.make_graph([], "body", [], [])))


def _new_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 21


def _new_format(model: onnx.ModelProto) -> None:
    model.ir_version = MAXIMUM_IR_VERSION + 1


def _second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def _float_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def _channels_first(model: onnx.ModelProto) -> None:
    faces = helper.make_tensor_value_info("faces", TensorProto.UINT8, ["n", 3, "h", "w"])
    model.graph.input[0].CopyFrom(faces)


def _empty_axis(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("faces", TensorProto.UINT8, ["n", 0, 48, 3]))


def _huge_axis(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("faces", TensorProto.UINT8, [2**45, 48, 48, 3]))


def _negative_axis(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("faces", TensorProto.UINT8, [-1, 48, 48, 3]))


def _huge_weight(model: onnx.ModelProto) -> None:
    kept = {"labels": json.dumps(EMOTIONS), "members": '["B"]', "weights": f"[1{'0' * 400}]"}
    helper.set_model_props(model, kept)


def _name_for_a_terminal(model: onnx.ModelProto) -> None:
    helper.set_model_props(model, {"labels": json.dumps(EMOTIONS), "name": "B\x1b[2J"})


def _domain_for_a_terminal(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Evil", ["faces"], ["x"], domain="\x1b[2J"))


def _other_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "image"


def _other_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "logits"


def _eight_classes(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 8


def _any_classes(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"


def _two_outputs(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def _no_labels(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def _labels_twice(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="labels", value="[]")


def _strange_precision(model: onnx.ModelProto) -> None:
    helper.set_model_props(model, {"labels": json.dumps(EMOTIONS), "precision": "int3"})


def _weights_missing(model: onnx.ModelProto) -> None:
    helper.set_model_props(model, {"labels": json.dumps(EMOTIONS), "members": '["B", "E"]', "weights": "[1]"})


def _sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def _training(model: onnx.ModelProto) -> None:
    model.training_info.add()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_external, "external data"),
        (_external_in_attribute, "external data"),
        (_custom_operator, "custom operator 'com.example::Evil'"),
        (_contributed_operator, "custom operator 'com.microsoft::QuickGelu'"),
        (_custom_domain, "domain 'com.microsoft'"),
        (_two_versions, "must state one version"),
        (_function, "it defines functions"),
        (_loop, "control flow"),
        (_hidden_graph, "control flow"),
        (_new_opset, "operator set 21"),
        (_new_format, "IR version 10"),
        (_second_input, "one input 'faces'"),
        (_float_input, "uint8"),
        (_channels_first, "[any, 3, any, any]"),
        (_empty_axis, "axes of its input must be from 1"),
        (_huge_axis, "axes of its input must be from 1"),
        (_negative_axis, "axes of its input must be from 1"),
        (_huge_weight, "numbers from 0 to 1"),
        (_name_for_a_terminal, r"`name` holds control characters: 'B\x1b[2J'"),
        (_domain_for_a_terminal, r"'\x1b[2J::Evil'"),
        (_other_input, "'image'"),
        (_other_output, "'logits'"),
        (_eight_classes, "its output has 8 columns, and its metadata has 7 labels"),
        (_any_classes, "[any, any]"),
        (_two_outputs, "one output"),
        (_no_labels, "no `labels`"),
        (_labels_twice, "'labels' twice"),
        (_strange_precision, "'int3'"),
        (_weights_missing, "as many `weights`"),
        (_sparse, "sparse"),
        (_training, "training"),
    ],
)
def test_what_breaks_the_contract_is_refused(
    model: onnx.ModelProto, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    check_model_bytes(changed.SerializeToString())
    change(changed)
    with pytest.raises(ModelFileError, match="is refused") as caught:
        check_model_bytes(changed.SerializeToString(), source="their.onnx")
    assert message in str(caught.value)
    assert str(caught.value).startswith("their.onnx is refused: ")
    assert "\n" not in str(caught.value)


def test_two_graphs_are_refused_and_not_merged(model: onnx.ModelProto) -> None:
    """Protobuf merges a message that comes twice: the second could add to the first unseen."""
    second = onnx.ModelProto()
    second.graph.node.append(helper.make_node("Abs", ["faces"], ["x"]))
    with pytest.raises(ModelFileError, match="must have one graph, and has 2"):
        check_model_bytes(model.SerializeToString() + second.SerializeToString())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no graph"),
        (b"not a model", "damaged"),
        (b"\x08\x08", "no graph"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\xff" * 64, "damaged"),
    ],
)
def test_other_files_are_refused_with_a_reason(content: bytes, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        check_model_bytes(content)


def test_a_truncated_file_is_a_model_file_error(model: onnx.ModelProto) -> None:
    """But for the ends of metadata entries, where protobuf too sees a whole, shorter file."""
    content = model.SerializeToString()
    whole = []
    for length in range(len(content)):
        try:
            check_model_bytes(content[:length])
        except ModelFileError:
            continue
        whole.append(length)
    assert len(whole) <= len(model.metadata_props)
    for length in whole:
        assert onnx.load_from_string(content[:length]).graph == model.graph


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_changed_byte_gives_a_contract_or_a_model_file_error(data: st.DataObject) -> None:
    made = tiny_model()
    content = bytearray(made.SerializeToString() if isinstance(made, onnx.ModelProto) else made)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        contract = check_model_bytes(bytes(content))
    except ModelFileError:
        return
    assert contract.bytes == len(content)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_model_file_error(content: bytes) -> None:
    with pytest.raises(ModelFileError):
        check_model_bytes(content)


def test_size_is_checked_before_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that nobody could read into memory
    with pytest.raises(ModelFileError, match="more than the"):
        check_model_file(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        check_model_file(tmp_path / "none.onnx")
    with pytest.raises(
        ModelFileError, match=r"no such file: name an exported file, such as exports/B\.onnx: `ferdeploy"
    ):
        check_model_file("B")
    with pytest.raises(ModelFileError, match="a folder, not a model"):
        check_model_file(tmp_path)


def test_many_empty_fields_are_refused_quickly(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_deploy.model.contract.MAXIMUM_FIELDS", 1000)
    unknown = b"\x88\x7d\x00" * 2000  # field 2001, varint 0
    with pytest.raises(ModelFileError, match="more than 1,000 parts"):
        check_model_bytes(model.SerializeToString() + unknown)


def _calibration(kept: str | None) -> AdaptiveTemperature | None:
    model = onnx.load_from_string(tiny_model())
    entries = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, entries if kept is None else entries | {"adaptive_temperature": kept})
    return check_model_bytes(model.SerializeToString(), source="some.onnx").calibration


@pytest.mark.parametrize("kept", ["", "[1.0]", "[0, 0.1]", "[1, -1]", "[1, null]", "{}", "0.5"])
def test_a_damaged_adaptive_temperature_is_named(kept: str) -> None:
    with pytest.raises(ModelFileError, match=r"some.onnx: metadata adaptive_temperature must be \[base, slope\], got "):
        _calibration(kept)


def test_an_adaptive_temperature_is_read_and_none_is_none() -> None:
    assert _calibration(None) is None
    assert _calibration("[0.7, 0.1]") == AdaptiveTemperature(0.7, 0.1)


def _with(**metadata: str) -> ModelContract:
    model = onnx.load_from_string(tiny_model())
    kept = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, kept | metadata)
    return check_model_bytes(model.SerializeToString(), source="some.onnx")


@pytest.mark.parametrize("key", ["accuracy", "gflops"])
@pytest.mark.parametrize("text", ["nan", "inf", "-0.1", "1e400", "9" * 5000, "", "seventy", "0x1", "7.5e6", "[0.5]"])
def test_figures_of_another_type_or_range_are_named(key: str, text: str) -> None:
    contract = _with(**{key: text})
    with pytest.raises(ModelFileError, match=rf"some\.onnx: metadata {key} must be a number from 0 to "):
        getattr(contract, key)


def test_figures_are_read() -> None:
    assert _with().accuracy is None
    assert _with().gflops is None
    assert _with(accuracy="0.714").accuracy == 0.714
    assert _with(gflops="0.0004").gflops == 0.0004
    with pytest.raises(ModelFileError, match=r"from 0 to 1, got '7\.5'"):
        _ = _with(accuracy="7.5").accuracy


@pytest.mark.parametrize(
    "weights",
    ["[1e999]", "[NaN]", "[true]", "[-0.5]", '["1"]', "[[1]]", "[null]", "{}", "1", "[" * 100_000, "[0.5, 0.5]"],
)
def test_weights_are_numbers_from_0_to_1(weights: str) -> None:
    with pytest.raises(ModelFileError, match="as many `weights`, numbers from 0 to 1, as `members`"):
        _with(weights=weights)


@pytest.mark.parametrize("text", ["[1e999]", "[0]", "[-1]", '["1"]', "[true]", "[1, 1]", "{}", "[" * 100_000])
def test_damaged_temperatures_are_none(text: str) -> None:
    assert _with(temperatures=text).temperatures == ()


@pytest.mark.parametrize(
    "metadata",
    [
        {"name": "a\x1b[2J"},
        {"name": "a\u202egnp"},
        {"members": '["a\x1b[2J"]'},
        {"members": '["a\\u001b[2J"]'},  # JSON's own escape
        {"members": '["a\\n"]'},
        {"members": '["\\ud800"]'},
    ],
)
def test_names_with_control_characters_are_refused_however_they_are_encoded(metadata: dict[str, str]) -> None:
    with pytest.raises(ModelFileError, match=r"control characters|as many `weights`") as caught:
        _with(**metadata)
    assert str(caught.value).isprintable()


def test_texts_in_other_metadata_are_printable() -> None:
    assert _with(weights_sha256='["a\\u001b[2J", 7]').weights_sha256 == ("a\\x1b[2J",)
