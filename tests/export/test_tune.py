"""Fine-tuning for int8: what it moves, what it leaves, and that rounding then changes less."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fer_deploy.export.build import build_model, folded
from fer_deploy.export.graph import FaceClassifier
from fer_deploy.export.int8 import quantise, search, tune
from fer_deploy.export.int8.quantise import to_int8
from fer_deploy.export.int8.ranges import Int8Settings
from fer_deploy.export.int8.search import search_int8
from fer_deploy.export.int8.tune import tune_for_int8
from fer_deploy.export.parity import answers_of
from fer_deploy.faces import Dataset


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of about four bits, so that rounding hurts a network as small as the tests'."""

    def scales(weight: np.ndarray) -> np.ndarray:
        return np.maximum(np.abs(weight).max(axis=1) / 5, 1e-12).astype(np.float32)

    monkeypatch.setattr(quantise, "unsaturable_scales", scales)
    monkeypatch.setattr(tune, "unsaturable_scales", scales)


def test_rounding_changes_less_afterwards(
    model: onnx.ModelProto, classifier: FaceClassifier, dataset: Dataset, coarse: None
) -> None:
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    told: list[tuple[int, int]] = []
    tuned = tune_for_int8(
        classifier, dataset.training, epochs=8, progress=lambda _, done, total: told.append((done, total))
    )
    assert told[-1][0] == told[-1][1] == len(told)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    expected = answers_of(model.SerializeToString(), dataset.validation)
    few = dataset.training.take(np.arange(128))

    def difference(float_model: onnx.ModelProto) -> float:
        quantised = to_int8(float_model, few, settings=Int8Settings())
        return float(np.abs(answers_of(quantised.SerializeToString(), dataset.validation) - expected).mean())

    assert difference(build_model(tuned, fold=False)) < 0.8 * difference(model)


def test_tuning_leaves_no_hooks_in_the_network(classifier: FaceClassifier, dataset: Dataset) -> None:
    tuned = tune_for_int8(classifier, dataset.training.take(np.arange(64)), epochs=1)
    assert set(tuned.state_dict()) == set(folded(classifier).state_dict())
    assert not any(module._forward_hooks for module in tuned.modules())
    assert any(isinstance(module, nn.ReLU) for module in tuned.modules())
    again = tune_for_int8(classifier, dataset.training.take(np.arange(64)), epochs=1)
    for first, second in zip(tuned.parameters(), again.parameters(), strict=True):
        assert torch.equal(first, second)


def test_the_search_quantises_the_tuned_weights_and_compares_them_with_the_original_ones(
    model: onnx.ModelProto, classifier: FaceClassifier, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "INT8_LOSS", 1.0)  # one of so few faces is more than half a point
    other = build_model(tune_for_int8(classifier, dataset.training.take(np.arange(256)), epochs=1), fold=False)
    plain = search_int8(model, calibration=dataset.training, validation=dataset.validation)
    found = search_int8(model, calibration=dataset.training, validation=dataset.validation, tuned=other)
    assert found.float_accuracy == plain.float_accuracy
    assert found.model.SerializeToString(deterministic=True) != plain.model.SerializeToString(deterministic=True)
