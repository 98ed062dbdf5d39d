from __future__ import annotations

from contextlib import suppress

import numpy as np
import onnx
import onnxruntime
import pytest
from demo_parts import require_parts
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fer_deploy.demo.parts import DETECTOR, read_part
from fer_deploy.demo.weights import free_sizes


def fixed_model(*, weights_as_inputs: bool) -> onnx.ModelProto:
    """Doubles pictures of 10x3x32x32, as the file says, although its one operator takes any."""
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [10, 3, 32, 32])
    factor = helper.make_tensor_value_info("factor", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node("Mul", ["picture", "factor"], ["double"])],
        "double",
        [factor, picture] if weights_as_inputs else [picture],
        [helper.make_tensor_value_info("double", TensorProto.FLOAT, [10, 3, 32, 32])],
        [numpy_helper.from_array(np.array([2], np.float32), "factor")],
        doc_string="x" * 300,  # a length of two bytes
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {"kept": "yes"})
    return model


@pytest.mark.parametrize("weights_as_inputs", [True, False])
def test_sizes_are_freed_and_the_rest_is_unchanged(weights_as_inputs: bool) -> None:
    before = fixed_model(weights_as_inputs=weights_as_inputs)
    content = free_sizes(before.SerializeToString())
    after = onnx.load_from_string(content)
    assert [value.name for value in after.graph.input] == ["picture"]
    expected = onnx.ModelProto()
    expected.CopyFrom(before)
    del expected.graph.input[:]
    expected.graph.input.extend(value for value in before.graph.input if value.name == "picture")
    for value in [*expected.graph.input, *expected.graph.output]:
        value.type.tensor_type.ClearField("shape")
    assert after == expected
    picture = np.random.default_rng(0).random((1, 3, 5, 9), np.float32)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"picture": picture})[0], picture * 2)


def test_a_second_edit_changes_nothing() -> None:
    once = free_sizes(fixed_model(weights_as_inputs=True).SerializeToString())
    assert free_sizes(once) == once


@given(st.binary(max_size=60))
def test_other_bytes_are_refused_or_pass(content: bytes) -> None:
    with suppress(ValueError):  # and nothing else
        assert isinstance(free_sizes(content), bytes)


def test_cut_files_are_refused() -> None:
    whole = fixed_model(weights_as_inputs=True).SerializeToString()
    with pytest.raises(ValueError, match="middle of a field"):
        free_sizes(whole[:-1])


def test_the_detector_gives_the_same_output_as_before() -> None:
    require_parts()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    before, after = (
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        for content in (read_part(DETECTOR), free_sizes(read_part(DETECTOR)))
    )
    pictures = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32)).astype(np.float32)
    for one, other in zip(before.run(None, {"input.1": pictures}), after.run(None, {"input.1": pictures}), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert after.run(None, {"input.1": pictures[:1, :, :, :].repeat(2, axis=3)})[0].shape == (1, 1, 8, 16)
