"""Each step on a graph written by hand: what it changes, and the case in which it must change nothing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from fer_deploy.errors import ExportError
from fer_deploy.export.passes import PASSES, run_passes
from fer_deploy.export.passes.duplicates import merge_duplicates
from fer_deploy.export.passes.half import store_half
from fer_deploy.export.passes.members import hide_members, show_members
from fer_deploy.export.passes.metadata import strip_metadata
from fer_deploy.export.passes.names import plain_names
from fer_deploy.export.passes.pooling import pool_globally
from fer_deploy.export.passes.reshapes import reshape_by_constants
from fer_deploy.export.passes.unused import drop_unused
from fer_deploy.export.passes.versions import set_versions


def _model(text: str, *, opset: int = 18) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')


def _operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def _run(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    return ReferenceEvaluator(model).run(None, inputs)


def test_strip_metadata_leaves_the_graph_and_nothing_else() -> None:
    model = _model("g (float[n] x) => (float[n] y) { z = Abs(x) y = Neg(z) }")
    model.doc_string = model.producer_version = model.graph.doc_string = "/home/someone/train.py"
    model.graph.node[0].doc_string = "line 7"
    model.graph.node[0].metadata_props.add(key="stack_trace", value="/home/someone/train.py")
    model.graph.input[0].metadata_props.add(key="a", value="someone")
    model.graph.value_info.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["someone"]))
    model.metadata_props.add(key="pytorch", value="someone")
    stripped = strip_metadata(model)
    assert b"someone" not in stripped.SerializeToString()
    assert b"line 7" not in stripped.SerializeToString()
    assert _operators(stripped) == ["Abs", "Neg"]


FLATTEN = """g (float[n, h, w, 3] x) => (float[n, h, k] y)
<int64[1] three = {3}, int64[1] one = {-1}> {
  n_ = Shape <start = 0, end = 1> (x)
  h_ = Shape <start = 1, end = 2> (x)
  w_ = Shape <start = 2, end = 3> (x)
  k_ = Mul (w_, three)
  k2 = Reshape (k_, one)
  target = Concat <axis = 0> (n_, h_, k2)
  y = Reshape <allowzero = 1> (x, target)
}"""


def test_reshape_by_constants_reads_no_axis_at_run_time() -> None:
    model = _model(FLATTEN)
    pictures = np.random.default_rng(0).random((2, 4, 5, 3), np.float32)
    before = _run(model, x=pictures)[0]
    lean = drop_unused(reshape_by_constants(model))
    assert _operators(lean) == ["Reshape"]
    assert numpy_helper.to_array(lean.graph.initializer[0]).tolist() == [0, 0, -1]
    np.testing.assert_array_equal(_run(lean, x=pictures)[0], before)
    assert before.shape == (2, 4, 15)


def test_reshape_by_constants_leaves_reshapes_that_swap_axes() -> None:
    model = _model(FLATTEN.replace("(n_, h_, k2)", "(h_, n_, k2)"))
    before = model.SerializeToString()
    assert reshape_by_constants(model).SerializeToString() == before


@pytest.mark.parametrize("axes", ["2, 3", "-1, -2"])
def test_pool_globally_replaces_a_mean_over_height_and_width(axes: str) -> None:
    model = _model(
        f"g (float[n, 4, h, w] x) => (float[n, 4, 1, 1] y) <int64[2] axes = {{{axes}}}> {{ y = ReduceMean(x, axes) }}"
    )
    maps = np.random.default_rng(0).random((2, 4, 3, 5), np.float32)
    before = _run(model, x=maps)[0]
    assert _operators(pool_globally(model)) == ["GlobalAveragePool"]
    np.testing.assert_allclose(_run(model, x=maps)[0], before, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[n, 4, h, w] x) => (float[n, 1, h, 1] y) <int64[2] axes = {1, 3}> { y = ReduceMean(x, axes) }",
        "g (float[n, 4, h, w] x) => (float[n, 4] y) <int64[2] axes = {2, 3}> { y = ReduceMean<keepdims = 0>(x, axes) }",
        "g (float[a, n, 4, h, w] x) => (float[a, n, 1, 1, w] y) <int64[2] a = {2, 3}> { y = ReduceMean(x, a) }",
    ],
)
def test_pool_globally_leaves_other_means(text: str) -> None:
    model = _model(text)
    before = model.SerializeToString()
    assert pool_globally(model).SerializeToString() == before


def test_merge_duplicates_computes_and_stores_once() -> None:
    model = _model(
        """g (float[n] x) => (float[n] y, float[n] z) <float[1] a = {2.0}, float[1] b = {2.0}, float[1] c = {3.0}> {
          p = Mul(x, a)  q = Mul(x, b)  r = Mul(x, c)  s = Abs(p)  t = Abs(q)  y = Add(s, r)  z = Add(t, r)
        }"""
    )
    values = np.array([-1.0, 2.0], np.float32)
    before = _run(model, x=values)
    lean = merge_duplicates(model)
    assert _operators(lean) == ["Mul", "Mul", "Abs", "Add", "Add"]  # both outputs stay, whatever they share
    assert sorted(tensor.name for tensor in lean.graph.initializer) == ["a", "c"]
    np.testing.assert_array_equal(_run(lean, x=values), before)


def test_merge_duplicates_keeps_nodes_with_other_attributes_types_or_shapes() -> None:
    model = _model(
        """g (float[n, 2] x) => (float[n, 2] y) <float[1] a = {0.0}, int32[1] b = {0}, float[1, 1] c = {0.0}> {
          p = Softmax<axis = 0>(x)  q = Softmax<axis = 1>(x)  r = Add(p, q)  s = Add(r, a)  t = Add(s, c)
          u = Cast<to = 1>(b)  y = Add(t, u)
        }"""
    )
    before = model.SerializeToString()
    assert merge_duplicates(model).SerializeToString() == before


def test_drop_unused_keeps_just_what_outputs_need() -> None:
    model = _model(
        """g (float[n] x) => (float[n] y) <float[1] a = {1.0}, float[1] b = {1.0}> {
          p = Add(x, b)  q = Abs(p)  y = Add(x, a)
        }"""
    )
    lean = drop_unused(model)
    assert _operators(lean) == ["Add"]
    assert [tensor.name for tensor in lean.graph.initializer] == ["a"]


def test_plain_names_state_operator_and_role_and_change_no_result() -> None:
    model = _model(
        """g (float[1, 1, 4, 4] x) => (float[1, 2, 4, 4] y)
        <float[2, 1, 1, 1] p_stem_weight = {1.0, -2.0}, float[2] p_stem_bias = {0.5, 0.25}> {
          convolution_99 = Conv(x, p_stem_weight, p_stem_bias)
          relu_ = Relu(convolution_99)
          y = Relu(relu_)
        }"""
    )
    maps = np.random.default_rng(0).random((1, 1, 4, 4), np.float32)
    before = _run(model, x=maps)[0]
    named = plain_names(model)
    assert [node.name for node in named.graph.node] == ["conv_0", "relu_0", "relu_1"]
    assert [node.output[0] for node in named.graph.node] == ["conv_0", "relu_0", "y"]
    assert [tensor.name for tensor in named.graph.initializer] == ["conv_0.weight", "conv_0.bias"]
    np.testing.assert_array_equal(_run(named, x=maps)[0], before)


def test_members_are_hidden_and_shown_again() -> None:
    model = _model(
        """g (float[n, 7] x) => (float[n, 7] probabilities, float[n, 7] member_0, float[n, 7] member_1) {
          member_0 = Softmax(x)  member_1 = Abs(x)  probabilities = Add(member_0, member_1)
        }"""
    )
    hidden = hide_members(model)
    assert [value.name for value in hidden.graph.output] == ["probabilities"]
    shown = show_members(hidden)
    assert [value.name for value in shown.graph.output] == ["probabilities", "member_0", "member_1"]
    fused, first, second = _run(shown, x=np.eye(7, dtype=np.float32))
    np.testing.assert_array_equal(fused, first + second)


def test_a_graph_without_members_shows_none() -> None:
    model = _model("g (float[n, 7] x) => (float[n, 7] probabilities) { probabilities = Softmax(x) }")
    before = model.SerializeToString()
    assert show_members(model).SerializeToString() == before


def test_set_versions_writes_the_old_format() -> None:
    model = _model("g (float[n] x) => (float[n] y) { y = Abs(x) }")
    model.opset_import.append(helper.make_opsetid("pkg.onnxscript.torch_lib", 1))
    done = set_versions(model)
    assert done.ir_version == 8
    assert [(entry.domain, entry.version) for entry in done.opset_import] == [("", 18)]


def test_set_versions_refuses_another_opset_and_other_domains() -> None:
    with pytest.raises(ExportError, match="wrote operator set 20"):
        set_versions(_model("g (float[n] x) => (float[n] y) { y = Abs(x) }", opset=20))
    foreign = _model("g (float[n] x) => (float[n] y) { y = Abs(x) }")
    foreign.graph.node[0].domain = "com.microsoft"
    with pytest.raises(ExportError, match=r"com\.microsoft::Abs"):
        set_versions(foreign)


def test_store_half_halves_large_weights_and_leaves_the_rest() -> None:
    weights = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    model = _model("g (float[n, 64] x) => (float[n, 8] y) { p = MatMul(x, w) q = Add(p, b) y = Mul(q, big) }")
    for name, values in {"w": weights, "b": weights[0], "big": np.full((128, 8), 1e5, np.float32)[:1]}.items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    rows = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    before = _run(model, x=rows)[0]
    stored = store_half(model)
    onnx.checker.check_model(stored, full_check=True)
    kinds = {tensor.name: tensor.data_type for tensor in stored.graph.initializer}
    assert kinds == {"w.half": TensorProto.FLOAT16, "b": TensorProto.FLOAT, "big": TensorProto.FLOAT}
    exact = (rows @ weights.astype(np.float16).astype(np.float32) + weights[0]) * 1e5
    np.testing.assert_allclose(_run(stored, x=rows)[0], exact, rtol=1e-4)
    assert np.abs(_run(stored, x=rows)[0] - before).max() > 0


def test_weights_beyond_half_precision_stay_as_they_are() -> None:
    model = _model("g (float[n] x) => (float[n] y) { y = Mul(x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(np.full(100, 7e4, np.float32), "w"))
    before = model.SerializeToString()
    assert store_half(model).SerializeToString() == before


def test_a_step_that_fails_is_named() -> None:
    def broken_step(model: onnx.ModelProto) -> onnx.ModelProto:
        raise KeyError("weight")

    with pytest.raises(ExportError, match="the export step broken_step failed"):
        run_passes(_model("g (float[n] x) => (float[n] y) { y = Abs(x) }"), (broken_step,))


def test_every_module_of_a_step_is_in_use() -> None:
    used = {step.__module__.rsplit(".", 1)[1] for step in PASSES}
    assert used == {"metadata", "reshapes", "pooling", "duplicates", "names", "members", "unused", "versions"}
