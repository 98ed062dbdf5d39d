"""Smaller precisions: what int8 files compute, what the search takes and refuses, why no processor can saturate."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from fer_deploy.errors import ParityError
from fer_deploy.export import parity, write
from fer_deploy.export.build import build_model
from fer_deploy.export.graph import FaceClassifier
from fer_deploy.export.int8 import exact, quantise, ranges, search
from fer_deploy.export.int8 import race as racing
from fer_deploy.export.int8.exact import compare_exactly, processor
from fer_deploy.export.int8.quantise import PAIR_LIMIT, to_int8, unsaturable_scales
from fer_deploy.export.int8.race import race
from fer_deploy.export.int8.ranges import Int8Settings, activation_ranges
from fer_deploy.export.int8.search import rank_layers, search_int8
from fer_deploy.export.parity import answers_of
from fer_deploy.export.plan import Plan
from fer_deploy.export.write import export_plan
from fer_deploy.faces import Dataset
from fer_deploy.faces.load import load_dataset

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=[True, False], ids=["per channel", "per tensor"])
def quantised(request: pytest.FixtureRequest, model: onnx.ModelProto, dataset: Dataset) -> onnx.ModelProto:
    settings = Int8Settings(per_channel=request.param)
    return to_int8(model, dataset.training.take(np.arange(64)), settings=settings)


@pytest.fixture
def forgiving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any loss of accuracy is allowed: what the hardly trained network loses differs from processor to processor."""
    monkeypatch.setattr(search, "INT8_TARGET", 1.0)
    monkeypatch.setattr(search, "INT8_LOSS", 1.0)
    monkeypatch.setattr(parity, "INT8_LOSS", 1.0)


def integer_weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The stored 8-bit weights, (outputs, inputs) each."""
    arrays = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.INT8 and tensor.name.endswith("_quantized")
    }
    return {name: values.reshape(len(values), -1) for name, values in arrays.items()}


def assert_no_pair_saturates(model: onnx.ModelProto) -> None:
    weights = integer_weights(model)
    assert weights
    for name, values in weights.items():
        ordered = np.sort(values.astype(np.int32), axis=1)
        assert np.abs(ordered).max() <= 127, name
        assert ordered[:, -2:].clip(min=0).sum(axis=1).max() <= PAIR_LIMIT, name
        assert (-ordered[:, :2].clip(max=0)).sum(axis=1).max() <= PAIR_LIMIT, name
    assert np.iinfo(np.int16).max >= 255 * PAIR_LIMIT


def test_no_two_weights_can_saturate_16_bits(quantised: onnx.ModelProto) -> None:
    assert_no_pair_saturates(quantised)


def test_scales_use_the_bits_that_a_lone_large_weight_leaves() -> None:
    """A folded skip is one weight of 1 among small ones: 7 bits give them steps of 1/64, ours of 1/121."""
    skip = np.full((1, 9), 0.05, np.float32)
    skip[0, 4] = 1.0
    assert unsaturable_scales(skip)[0] == pytest.approx(1.05 / 127)
    even = np.array([[0.5, -0.5, 0.5, -0.5]], np.float32)
    assert unsaturable_scales(even)[0] == pytest.approx(1 / 127)
    opposite = np.array([[0.5, -0.5]], np.float32)  # one product of each sign: they cancel in the sum of a pair
    assert unsaturable_scales(opposite)[0] == pytest.approx(0.5 / 127)
    assert unsaturable_scales(np.zeros((2, 3), np.float32)).min() > 0
    assert unsaturable_scales(np.array([[0.5], [-2.0]], np.float32)).tolist() == pytest.approx([0.5 / 127, 2 / 127])


def test_pairs_stay_within_the_limit_after_rounding() -> None:
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((4000, 18)).astype(np.float32) ** 3
    rounded = np.sort(np.rint(weight / unsaturable_scales(weight)[:, None]), axis=1)
    assert rounded[:, -2:].clip(min=0).sum(axis=1).max() <= PAIR_LIMIT
    assert (-rounded[:, :2].clip(max=0)).sum(axis=1).max() <= PAIR_LIMIT


def test_runtime_gives_the_exact_integer_answers(quantised: onnx.ModelProto, dataset: Dataset) -> None:
    found = compare_exactly(quantised, dataset.validation.take(np.arange(40)))
    assert found.faces == 40
    assert found.mean_difference < 5e-4
    assert found.processor == processor()


def test_saturated_products_would_be_detected(
    model: onnx.ModelProto, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 8-bit weights that use their whole range, as if large sums of a pair came out smaller."""
    monkeypatch.setattr(
        quantise,
        "unsaturable_scales",
        lambda weight: np.maximum(np.abs(weight).max(axis=1) / 127, 1e-12).astype(np.float32),
    )
    eight_bits = to_int8(model, dataset.training.take(np.arange(64)), settings=Int8Settings())
    with pytest.raises(AssertionError):
        assert_no_pair_saturates(eight_bits)
    faces = dataset.validation.take(np.arange(16))
    ours = compare_exactly(eight_bits, faces)
    clipped = onnx.ModelProto()
    clipped.CopyFrom(eight_bits)
    for tensor in clipped.graph.initializer:  # what saturation does to large sums, roughly: the largest weights shrink
        if tensor.name in integer_weights(eight_bits):
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values.clip(-64, 64), tensor.name))
    answers = answers_of(clipped.SerializeToString(), faces)
    expected = answers_of(eight_bits.SerializeToString(), faces)
    assert np.abs(answers - expected).mean() > 10 * ours.mean_difference
    saturating = exact.start_session(clipped.SerializeToString())
    monkeypatch.setattr(exact, "start_session", lambda *_, **__: saturating)
    assert compare_exactly(eight_bits, faces).mean_difference > 10 * ours.mean_difference


@pytest.mark.real
@pytest.mark.parametrize("precision_name", ["int8"])
def test_released_files_give_the_exact_answers_on_real_faces(precision_name: str) -> None:
    files = sorted((ROOT / "exports").glob(f"*.{precision_name}.onnx"))
    source = os.environ.get("FERDEPLOY_DATA") or ROOT / "data"
    if not files or not Path(source).exists():
        pytest.skip("no int8 file among the exports, or no FER2013: $FERDEPLOY_DATA names it")
    faces = load_dataset(str(source)).validation
    for file in files:
        model = onnx.load(file)
        assert_no_pair_saturates(model)
        found = compare_exactly(model, faces.take(np.arange(0, len(faces), 56)))
        # two deep networks differ by .0013 on a processor without VNNI, as the file released before them did
        assert found.mean_difference < 2e-3, file.name


def test_the_network_computes_in_integers_and_the_rest_in_float(quantised: onnx.ModelProto, tmp_path: Path) -> None:
    """What the engine makes of the graph: one integer convolution a layer but the first, and no float one more."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(quantised.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert operators.count("QLinearConv") == 3
    assert operators.count("QGemm") == 1
    assert operators.count("QLinearGlobalAveragePool") == 1
    assert operators.count("Conv") + operators.count("FusedConv") == 1
    assert operators.count("QuantizeLinear") == operators.count("DequantizeLinear") == 1
    assert "Softmax" in operators


def test_a_first_convolution_of_few_products_stays_in_float(quantised: onnx.ModelProto) -> None:
    assert "conv_0.weight" in {tensor.name for tensor in quantised.graph.initializer}
    assert "conv_1.weight" not in {tensor.name for tensor in quantised.graph.initializer}


def test_float_layers_stay_in_float(model: onnx.ModelProto, dataset: Dataset) -> None:
    settings = Int8Settings(float_layers=("conv_2",))
    part = to_int8(model, dataset.training.take(np.arange(16)), settings=settings)
    names = {tensor.name for tensor in part.graph.initializer}
    assert {"conv_2.weight", "conv_1.weight_quantized"} <= names


def test_ranges_are_those_of_the_faces_or_narrower(model: onnx.ModelProto, dataset: Dataset) -> None:
    few = dataset.training.take(np.arange(24))
    seen = activation_ranges(model, few, settings=Int8Settings(clipping=False))
    clipped = activation_ranges(model, few, settings=Int8Settings())
    assert seen.keys() == clipped.keys()
    for name, (low, high) in clipped.items():
        assert seen[name][0] <= low <= 0 <= high <= seen[name][1]
    assert any(clipped[name] != seen[name] for name in seen)


def test_layers_are_ranked_by_their_noise(model: onnx.ModelProto, dataset: Dataset) -> None:
    """A layer with one weight far above the others is the most sensitive one."""
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(model)
    tensor = next(tensor for tensor in spoilt.graph.initializer if tensor.name == "conv_2.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[:, 0, 0, 0] = 20 * np.abs(values).max()
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    few = dataset.training.take(np.arange(32))
    quantised = to_int8(spoilt, few, settings=Int8Settings())
    ranked = rank_layers(spoilt, quantised, few)
    assert set(ranked) <= {"conv_0", "conv_1", "conv_2", "conv_3", "gemm_0"}
    assert ranked[0] == "conv_2"


@pytest.mark.usefixtures("forgiving")
def test_the_search_chooses_the_smallest_difference(model: onnx.ModelProto, dataset: Dataset) -> None:
    told: list[tuple[int, int]] = []
    found = search_int8(
        model,
        calibration=dataset.training,
        validation=dataset.validation,
        progress=lambda _, done, total: told.append((done, total)),
    )
    assert {attempt.settings.per_channel for attempt in found.tried} == {True, False}
    content = [attempt for attempt in found.tried if found.float_accuracy - attempt.accuracy <= search.INT8_TARGET]
    assert found.chosen == min(content, key=lambda attempt: attempt.difference)
    assert found.exact.faces == search.EXACT_FACES
    assert told[:2] == [(0, 6), (1, 6)]
    again = search_int8(model, calibration=dataset.training, validation=dataset.validation)
    assert again.model.SerializeToString(deterministic=True) == found.model.SerializeToString(deterministic=True)


def test_layers_go_back_to_float_where_integers_lose_too_much(
    model: onnx.ModelProto, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "INT8_TARGET", -1.0)  # nothing is good enough
    monkeypatch.setattr(search, "INT8_LOSS", 1.0)
    found = search_int8(model, calibration=dataset.training, validation=dataset.validation)
    assert [len(attempt.settings.float_layers) for attempt in found.tried[:4]] == [0, 0, 1, 2]
    assert found.chosen.accuracy == max(attempt.accuracy for attempt in found.tried)
    monkeypatch.setattr(search, "INT8_LOSS", -1.0)
    with pytest.raises(ParityError, match=r"int8 loses .* points of validation accuracy at best"):
        search_int8(model, calibration=dataset.training, validation=dataset.validation)


@pytest.mark.usefixtures("forgiving")
def test_a_processor_that_computes_inexactly_is_refused(
    model: onnx.ModelProto, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "EXACT_SHARE", -1.0)
    with pytest.raises(ParityError, match=r"from the exact ones on average, where quantising itself made"):
        search_int8(model, calibration=dataset.training, validation=dataset.validation)


@pytest.mark.usefixtures("forgiving")
def test_a_slower_file_is_not_written(
    plan: Plan, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: onnx.ModelProto
) -> None:
    monkeypatch.setattr(write, "build_model", lambda *_, **__: model)
    monkeypatch.setattr(write, "race", lambda *_, **__: {"fp32": 0.2, "int8": 0.21})
    with pytest.raises(ParityError, match=r"^B\.int8\.onnx is not written: int8 takes 0\.210 ms and fp32 0\.200 ms"):
        export_plan(plan, folder=tmp_path, precisions=("int8",), data=dataset)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("forgiving")
def test_the_manifest_states_how_an_int8_file_was_made(
    plan: Plan, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: onnx.ModelProto
) -> None:
    monkeypatch.setattr(write, "build_model", lambda *_, **__: model)
    monkeypatch.setattr(write, "race", lambda *_, **__: {"fp32": 0.2, "int8": 0.1})
    (file,) = export_plan(plan, folder=tmp_path, precisions=("int8",), data=dataset)
    assert file.path.name == "B.int8.onnx"
    assert "2.00 x as fast as fp32" in file.note
    assert processor() in file.note
    entry = precision_entry(tmp_path)
    assert entry["batch_1_ms"] == {"fp32": 0.2, "int8": 0.1}
    assert entry["exact"]["faces"] == search.EXACT_FACES
    assert {attempt["per_channel"] for attempt in entry["tried"]} == {True, False}
    assert_no_pair_saturates(onnx.load(file.path))


def precision_entry(folder: Path, name: str = "B.int8.onnx") -> dict:
    import json

    return json.loads((folder / "manifest.json").read_text())["files"][name]["int8"]


@pytest.mark.parametrize("batch", [1, 40])
def test_a_fixed_batch_is_filled_with_faces(
    batch: int, model: onnx.ModelProto, classifier: FaceClassifier, dataset: Dataset
) -> None:
    """Ranges, ranks and exact answers of a model that takes one batch size are those of one that takes any."""
    fixed = build_model(classifier, shape=(batch, 48, 48))
    few = dataset.training.take(np.arange(33))
    everything = Int8Settings(clipping=False)
    free, own = (activation_ranges(graph, few, settings=everything) for graph in (model, fixed))
    np.testing.assert_allclose(list(own.values()), list(free.values()), rtol=1e-4)
    quantised = [to_int8(graph, few, settings=everything) for graph in (model, fixed)]
    assert rank_layers(fixed, quantised[1], few) == rank_layers(model, quantised[0], few)
    found = compare_exactly(quantised[1], few)
    assert found.faces == 33
    assert found.mean_difference < 5e-4


def test_the_number_of_samples_does_not_depend_on_the_batch(
    model: onnx.ModelProto, classifier: FaceClassifier, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    monkeypatch.setattr(ranges, "_least_error", lambda values, *_: counts.append(len(values)))
    faces = dataset.training.take(np.arange(64))
    for graph in (model, build_model(classifier, shape=(1, 48, 48))):
        activation_ranges(graph, faces, settings=Int8Settings())
        assert max(counts) == 64 * ranges.SAMPLES
        counts.clear()


def test_an_int8_file_of_one_face_at_a_time_is_written(
    plan: Plan, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "INT8_TARGET", -1.0)  # layers are ranked and put back into float as well
    monkeypatch.setattr(search, "INT8_LOSS", 1.0)
    monkeypatch.setattr(parity, "INT8_LOSS", 1.0)
    monkeypatch.setattr(write, "race", lambda *_, **__: {"fp32": 0.2, "int8": 0.1})
    (file,) = export_plan(plan, folder=tmp_path, precisions=("int8",), data=dataset, shape=(1, 48, 48))
    assert file.path.name == "B.1x48x48.int8.onnx"
    assert file.parity.whole.faces == len(dataset.validation)
    entry = precision_entry(tmp_path, file.path.name)
    assert entry["exact"]["faces"] == search.EXACT_FACES
    assert len(entry["tried"]) > 2
    assert_no_pair_saturates(onnx.load(file.path))


@pytest.mark.usefixtures("forgiving")
def test_a_race_states_its_batch(plan: Plan, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "race", lambda *_, batch, size: {"fp32": 0.2, "int8": 0.1 * batch / size[0] * 1.2})
    (file,) = export_plan(plan, folder=tmp_path, precisions=("int8",), data=dataset, shape=(40, 48, 48))
    assert "batch 40, 1 thread" in file.note
    assert precision_entry(tmp_path, file.path.name)["batch_40_ms"] == {"fp32": 0.2, "int8": 0.1}


def test_files_race_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a load that comes and goes meets all alike; the first 20 turns do not count."""
    turns: list[str] = []
    now = [0.0]

    class Session:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, _outputs: None, shown: dict[str, np.ndarray]) -> None:
            assert next(iter(shown.values())).shape == (3, 48, 48, 3)
            turns.append(self.name)
            slow = 100.0 if len(turns) <= 40 else 1.0
            now[0] += slow * {"one": 0.002, "other": 0.005}[self.name]

    monkeypatch.setattr(racing, "start_session", lambda content, **_: Session(content.decode()))
    monkeypatch.setattr(racing.time, "perf_counter", lambda: now[0])
    taken = race({"one": b"one", "other": b"other"}, batch=3, rounds=5)
    assert turns == ["one", "other"] * 25
    assert taken == {"one": pytest.approx(2.0), "other": pytest.approx(5.0)}
