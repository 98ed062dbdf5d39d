"""Fusions against sums written out, and the search against trying everything."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fer_deploy.ensemble import (
    STUDY_SOURCE,
    AdaptiveTemperature,
    Weights,
    default_weights,
    ensemble_name,
    fit_adaptive_temperature,
    fit_temperature,
    fuse,
    ranks,
    reciprocal_rank_fusion,
    search_weights,
    weighted_average,
)
from fer_deploy.study import STUDY_ENSEMBLES


def _probabilities(members: int, rows: int, *, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.dirichlet(np.ones(7), rows).astype(np.float32) for _ in range(members)]


def test_weighted_average_is_the_sum_of_shares() -> None:
    first, second = _probabilities(2, 5)
    fused = weighted_average([first, second], [0.45, 0.55])
    assert fused.dtype == np.float32
    np.testing.assert_allclose(fused, 0.45 * first + 0.55 * second, atol=1e-7)
    np.testing.assert_allclose(fused.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(weighted_average([first, second], [9, 11]), fused)  # in proportion


def test_rrf_by_hand() -> None:
    """Two members, three classes: ranks 1, 2, 3 and 3, 1, 2."""
    fused = reciprocal_rank_fusion([[[0.5, 0.3, 0.2]], [[0.1, 0.6, 0.3]]], [0.25, 0.75])
    scores = np.array([0.25 / 61 + 0.75 / 63, 0.25 / 62 + 0.75 / 61, 0.25 / 63 + 0.75 / 62])
    np.testing.assert_allclose(fused[0], scores / scores.sum(), atol=1e-7)


def test_ties_go_to_the_earlier_class() -> None:
    assert ranks([0.2, 0.3, 0.2, 0.3]).tolist() == [3, 1, 4, 2]
    assert ranks(np.full((2, 7), 1 / 7)).tolist() == [[1, 2, 3, 4, 5, 6, 7]] * 2


def test_rrf_depends_on_ranks_alone() -> None:
    members = _probabilities(3, 20)
    sharpened = [member**3 / (member**3).sum(axis=1, keepdims=True) for member in members]
    np.testing.assert_array_equal(
        reciprocal_rank_fusion(members, [0.2, 0.3, 0.5]), reciprocal_rank_fusion(sharpened, [0.2, 0.3, 0.5])
    )


def test_a_smaller_k_trusts_the_first_rank_more() -> None:
    members = _probabilities(2, 20)
    near, far = (reciprocal_rank_fusion(members, [0.5, 0.5], k=k).max(axis=1) for k in (1, 60))
    assert (near > far).all()


@pytest.mark.parametrize("fusion", ["wap", "rrf"])
def test_search_finds_the_best_of_all_combinations(fusion: str) -> None:
    members = _probabilities(3, 60, seed=3)
    labels = members[1].argmax(axis=1)
    labels[::3] = members[2].argmax(axis=1)[::3]
    found = search_weights(members, labels, step=0.1, fusion=fusion)
    best = max(
        (fuse(members, np.array(shares) / 10, fusion=fusion).argmax(axis=1) == labels).mean()
        for shares in itertools.product(range(11), repeat=3)
        if sum(shares) == 10
    )
    assert found.accuracy == pytest.approx(best)
    assert (fuse(members, found.values, fusion=fusion).argmax(axis=1) == labels).mean() == pytest.approx(best)
    assert found.source == "searched on validation"


def test_of_equally_accurate_weights_the_most_even_are_chosen() -> None:
    (member,) = _probabilities(1, 10)
    found = search_weights([member, member], member.argmax(axis=1), step=0.25)
    assert found.values == (0.5, 0.5)
    assert found.accuracy == 1


def test_the_studys_ensembles_have_its_weights_and_their_source() -> None:
    assert default_weights(["B", "E"]) == Weights((0.45, 0.55), STUDY_SOURCE)
    assert default_weights(["E", "B"]).values == (0.55, 0.45)
    assert default_weights(["B", "E"], fusion="rrf").values == (0.55, 0.45)
    assert default_weights(list("ABCDE")).values == (0.1, 0.3, 0.1, 0.2, 0.3)
    assert default_weights(["A", "B"]) == Weights((0.5, 0.5), "equal")
    assert {name: ensemble_name(study.members, fusion=study.fusion) for name, study in STUDY_ENSEMBLES.items()} == {
        name: name for name in STUDY_ENSEMBLES
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Weights.of([0, 0], source=""), "not all zero"),
        (lambda: Weights.of([1, -1, 3], source=""), "not negative"),
        (lambda: Weights.of([1, float("nan")], source=""), "finite"),
        (lambda: Weights((0.5, 0.6), ""), "sum to 1"),
        (lambda: weighted_average(_probabilities(2, 3), [1]), "as many weights"),
        (lambda: weighted_average([], []), "one shape"),
        (lambda: weighted_average([np.ones((2, 7)), np.ones((3, 7))], [1, 1]), "one shape"),
        (lambda: reciprocal_rank_fusion(_probabilities(1, 2), [1], k=0), "above 0"),
        (lambda: fuse(_probabilities(1, 2), [1], fusion="mean"), "one of wap, rrf"),
        (lambda: search_weights(_probabilities(2, 3), [0, 1], step=0.5), "labels must be"),
        (lambda: search_weights(_probabilities(2, 3), [0, 1, 2], step=0.3), "1 divided by a whole number"),
        (lambda: search_weights(_probabilities(2, 3), [0, 1, 2], step=0), "1 divided by a whole number"),
    ],
)
def test_wrong_arguments_are_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _guessed_in_part(generator: np.random.Generator, best: np.ndarray) -> np.ndarray:
    """`best`, but a third of it are someone's guesses: no temperature makes every probability true."""
    return np.where(generator.random(len(best)) < 1 / 3, generator.integers(7, size=len(best)), best)


def test_a_known_temperature_is_recovered() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=2, size=(20000, 7))
    truth = (_softmax(logits).cumsum(axis=1) > generator.random((20000, 1))).argmax(axis=1)
    assert fit_temperature(logits * 1.7, truth) == pytest.approx(1.7, rel=0.03)


def test_the_temperature_makes_mean_confidence_equal_accuracy() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(scale=6, size=(5000, 7))
    truth = _guessed_in_part(generator, logits.argmax(axis=1))
    temperature = fit_temperature(logits, truth)
    sure = _softmax(logits / temperature).max(axis=1).mean()
    assert sure == pytest.approx((logits.argmax(axis=1) == truth).mean(), abs=1e-4)
    assert temperature > 1.1  # not the 1 that the logits came with


def test_a_fusion_of_overconfident_members_is_calibrated() -> None:
    generator = np.random.default_rng(2)
    common = generator.normal(scale=3, size=(5000, 7))
    truth = _guessed_in_part(generator, common.argmax(axis=1))
    members = [common + generator.normal(scale=3, size=common.shape) for _ in range(2)]
    members = [own / fit_temperature(own, truth) for own in members]
    fused = weighted_average([_softmax(own) for own in members], [0.7, 0.3])
    temperature = fit_temperature(np.log(fused), truth)

    def gap(factor: float) -> float:
        answers = _softmax(np.log(fused) / factor)
        return abs(float(answers.max(axis=1).mean() - (answers.argmax(axis=1) == truth).mean()))

    assert gap(temperature) < 5e-4
    assert gap(1.0) > 0.02
    assert temperature < 0.95


@pytest.mark.parametrize(("shift", "end"), [(0, 0.05), (1, 20.0)])
def test_a_network_that_is_always_or_never_right_has_a_temperature(shift: int, end: float) -> None:
    logits = np.tile(np.eye(7), (10, 1)) * 1e-3
    assert fit_temperature(logits, (logits.argmax(axis=1) + shift) % 7) == pytest.approx(end, rel=1e-3)


@pytest.mark.parametrize("labels", [[[0], [1]], 0, [0, 1, 2]])
def test_labels_of_another_shape_are_refused(labels: object) -> None:
    with pytest.raises(ValueError, match=r"labels must be \(2,\)"):
        fit_temperature(np.eye(7)[:2], labels)  # type: ignore[arg-type]


def test_no_faces_are_refused() -> None:
    with pytest.raises(ValueError, match="not empty"):
        fit_temperature(np.empty((0, 7)), [])


def test_a_search_refuses_an_unknown_fusion() -> None:
    with pytest.raises(ValueError, match="fusion must be one of wap, rrf, got 'mean'"):
        search_weights([np.eye(7)], range(7), fusion="mean")  # type: ignore[arg-type]


def test_weights_too_large_to_add_are_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Weights.of([1e308, 1e308], source="given")


def test_adaptive_temperature_by_hand() -> None:
    """Log-odds 2 to 1: the spread is 1/2 of ln 2, and the factor 1 + 2 * that."""
    factor = 1 + 2 * math.log(2) / 2
    answer = AdaptiveTemperature(1.0, 2.0).apply([[2 / 3, 1 / 3]])
    np.testing.assert_allclose(answer, [[2**factor / (2**factor + 1), 1 / (2**factor + 1)]])


def test_a_known_adaptive_temperature_is_recovered() -> None:
    """Truth drawn from the probabilities of one makes the fit undo the other way round."""
    generator = np.random.default_rng(3)
    given = _softmax(generator.normal(scale=1.5, size=(40000, 7)))
    how = AdaptiveTemperature(0.6, 0.2)
    actual = how.apply(given)
    truth = (actual.cumsum(axis=1) > generator.random((40000, 1))).argmax(axis=1)
    found = fit_adaptive_temperature(given, truth)
    assert found.base == pytest.approx(how.base, abs=0.06)
    assert found.slope == pytest.approx(how.slope, abs=0.03)


def test_adaptive_temperature_calibrates_low_and_high_confidence() -> None:
    generator = np.random.default_rng(4)
    given = _softmax(generator.normal(scale=1.5, size=(20000, 7)))
    actual = AdaptiveTemperature(0.4, 0.3).apply(given)
    truth = (actual.cumsum(axis=1) > generator.random((20000, 1))).argmax(axis=1)
    answer = fit_adaptive_temperature(given, truth).apply(given)
    np.testing.assert_array_equal(answer.argmax(axis=1), given.argmax(axis=1))

    def gap(probabilities: np.ndarray, which: np.ndarray) -> float:
        right = given[which].argmax(axis=1) == truth[which]
        return abs(float(probabilities[which].max(axis=1).mean() - right.mean()))

    plain = _softmax(np.log(given) / fit_temperature(np.log(given), truth))
    confidence = given.max(axis=1)
    assert gap(answer, confidence > 0) < 1e-3
    for part in (confidence > 0.7, confidence < 0.4):
        assert gap(answer, part) < 0.015 < 0.03 < gap(plain, part)


def test_confidence_that_already_rises_too_fast_gets_one_temperature() -> None:
    generator = np.random.default_rng(5)
    given = _softmax(generator.normal(scale=2, size=(5000, 7)))
    truth = (_softmax(np.log(given) / 2).cumsum(axis=1) > generator.random((5000, 1))).argmax(axis=1)
    found = fit_adaptive_temperature(AdaptiveTemperature(1.0, 0.3).apply(given), truth)
    assert found.slope == 0
    assert found.base < 0.6


@pytest.mark.parametrize(("shift", "end"), [(0, 20.0), (1, 0.05)])
def test_a_classifier_that_is_always_or_never_right_has_an_adaptive_temperature(shift: int, end: float) -> None:
    given = _softmax(np.tile(np.eye(7), (10, 1)) * 1e-3)
    assert fit_adaptive_temperature(given, (given.argmax(axis=1) + shift) % 7).base == pytest.approx(end, rel=1e-3)


@pytest.mark.parametrize(("base", "slope"), [(0.0, 0.1), (-1.0, 0.0), (1.0, -0.1), (math.nan, 0.0), (1.0, math.inf)])
def test_an_adaptive_temperature_never_changes_an_answer(base: float, slope: float) -> None:
    with pytest.raises(ValueError, match="base must be above 0 and slope at least 0"):
        AdaptiveTemperature(base, slope)
