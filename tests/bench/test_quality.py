"""Quality figures against hand-made cases, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from fer_deploy.bench.quality import (
    Accuracy,
    accuracy_by_unanimity,
    agreement,
    calibration_error,
    mcnemar,
    measure_quality,
    reliability,
    wilson_interval,
)
from fer_deploy.emotions import EMOTIONS


def answers(count: int, *, seed: int, skill: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Random probabilities that are right on about `skill` of the faces, and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 7, count)
    logits = random.normal(size=(count, 7))
    hit = random.random(count) < skill
    logits[np.flatnonzero(hit), labels[hit]] += 3
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), labels


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (5, 5), (1, 10), (2378, 3589), (1, 1)])
def test_wilson_is_scipys(hits: int, count: int) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    expected = scipy_stats.binomtest(hits, count).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("hits", "count"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_impossible_counts(hits: int, count: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= hits"):
        wilson_interval(hits, count)


def test_accuracy_counts_every_answer() -> None:
    accuracy = Accuracy.of(np.array([True, True, False, True]))
    assert (accuracy.value, accuracy.count) == (0.75, 4)
    assert accuracy.low < 0.75 < accuracy.high


def test_quality_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    probabilities, labels = answers(500, seed=1)
    quality = measure_quality(probabilities, labels)
    predicted = probabilities.argmax(axis=1)
    assert quality.accuracy.value == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert quality.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert quality.confusion == tuple(map(tuple, metrics.confusion_matrix(labels, predicted, labels=range(7)).tolist()))
    assert quality.recall == pytest.approx(tuple(metrics.recall_score(labels, predicted, average=None)))


def test_a_label_that_does_not_occur_has_no_recall() -> None:
    probabilities, labels = answers(200, seed=2)
    labels[labels == 1] = 0
    recall = measure_quality(probabilities, labels).recall
    assert recall[1] is None
    assert all(value is not None for index, value in enumerate(recall) if index != 1)


def test_deduplicated_accuracy_takes_only_unseen_faces() -> None:
    probabilities, labels = answers(300, seed=3)
    unseen = np.arange(300) % 3 > 0
    quality = measure_quality(probabilities, labels, unseen=unseen)
    right = probabilities.argmax(axis=1) == labels
    assert quality.deduplicated is not None
    assert quality.deduplicated.count == 200
    assert quality.deduplicated.value == pytest.approx(right[unseen].mean())


def test_calibration_error_by_hand() -> None:
    # two faces at .8 one of them correct, two at .6 both correct: |.8-.5|/2 + |.6-1|/2 = .35
    probabilities = np.full((4, 7), 0.0)
    probabilities[:2, 0], probabilities[:2, 1] = 0.8, 0.2
    probabilities[2:, 0], probabilities[2:, 1] = 0.6, 0.4
    bins = reliability(probabilities, np.array([0, 1, 0, 0]))
    assert calibration_error(bins) == pytest.approx(0.35)
    assert [group.count for group in bins if group.count] == [2, 2]


def test_confidence_of_exactly_one_is_in_the_last_bin() -> None:
    probabilities = np.eye(7)
    bins = reliability(probabilities, np.arange(7))
    assert bins[-1].count == 7
    assert calibration_error(bins) == 0


def test_unanimity_bands_partition_the_faces_with_votes() -> None:
    votes = np.zeros((5, 10), dtype=np.uint8)
    votes[0, 0] = 10  # all agree
    votes[1, :2] = 9, 1  # exactly .9
    votes[2, :3] = 6, 2, 2
    votes[3, :5] = 2  # .2
    bands = accuracy_by_unanimity(np.array([True, False, True, False, True]), votes)  # the fifth has no vote
    assert [band.count for band in bands] == [1, 1, 0, 2]
    assert [band.accuracy for band in bands] == [0.0, 1.0, None, 0.5]


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (3, 9), (20, 20), (140, 90), (2000, 1500)])
def test_mcnemar_is_scipys_exact_binomial(only_first: int, only_second: int) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    first = np.array([True] * only_first + [False] * only_second + [True, False])
    second = np.array([False] * only_first + [True] * only_second + [True, False])
    result = mcnemar(first, second)
    discordant = only_first + only_second
    expected = scipy_stats.binomtest(only_first, discordant).pvalue if discordant else 1.0
    assert (result.only_first, result.only_second) == (only_first, only_second)
    assert result.p_value == pytest.approx(expected, rel=1e-9)


def test_mcnemar_does_not_depend_on_the_order() -> None:
    first, second = np.array([True, True, True, False]), np.array([False, False, True, True])
    assert mcnemar(first, second).p_value == mcnemar(second, first).p_value


def test_agreement() -> None:
    assert agreement(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 0])) == 0.75
    with pytest.raises(ValueError, match="same faces"):
        agreement(np.array([1]), np.array([1, 2]))


def test_there_are_seven_columns_in_the_order_of_the_labels() -> None:
    quality = measure_quality(np.eye(7), np.arange(7))
    assert len(quality.recall) == len(EMOTIONS) == 7
    assert quality.accuracy.value == quality.macro_f1 == 1.0
