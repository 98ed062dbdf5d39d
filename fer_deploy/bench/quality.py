"""The accuracy of a classifier with its uncertainty, and the calibration of its probabilities.

Functions take NumPy arrays and return frozen values, whichever engine computed the probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fer_deploy.ensemble import CALIBRATION_BINS as CALIBRATION_BINS
from fer_deploy.ensemble import CalibrationBin as CalibrationBin
from fer_deploy.ensemble import calibration_error as calibration_error
from fer_deploy.ensemble import reliability as reliability
from fer_deploy.errors import DataError

Z_95 = 1.959963984540054
"""The 97.5 % point of the standard normal distribution, for a two-sided 95 % interval."""

UNANIMITY_BANDS: tuple[tuple[float, float], ...] = ((0.0, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 1.0))
"""Bands [low, high) of the share of FER+ annotators who chose the most frequent answer; the last includes 1."""


@dataclass(frozen=True)
class Accuracy:
    """A share of correct answers with its interval.

    Attributes:
        value: correct answers divided by `count`, 0 to 1.
        low, high: the Wilson 95 % interval.
        count: the number of answers.
    """

    value: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, correct: NDArray[np.bool_]) -> Accuracy:
        """From one boolean per answer; ValueError without answers."""
        count = len(correct)
        if count == 0:
            raise ValueError("an accuracy needs at least one answer")
        hits = int(np.count_nonzero(correct))
        low, high = wilson_interval(hits, count)
        return cls(value=hits / count, low=low, high=high, count=count)


@dataclass(frozen=True)
class UnanimityBand:
    """Accuracy on faces on which a given share of FER+ annotators agreed; None for an empty band."""

    low: float
    high: float
    count: int
    accuracy: float | None


@dataclass(frozen=True)
class Quality:
    """Every measure of one classifier's answers on one split.

    Attributes:
        accuracy: on every face of the split.
        deduplicated: on the faces that occur in no other split; None where that is unknown.
        macro_f1: the mean of the F1 scores of the classes that occur, 0 to 1.
        recall: one figure per class, in the order of the labels; None for a class that does not occur.
        confusion: counts, one row per label, one column per answer.
        calibration_error: expected calibration error over the bins, 0 to 1.
        reliability: the bins themselves.
        unanimity: accuracy by FER+ unanimity; None when there are no votes.
    """

    accuracy: Accuracy
    deduplicated: Accuracy | None
    macro_f1: float
    recall: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration_error: float
    reliability: tuple[CalibrationBin, ...]
    unanimity: tuple[UnanimityBand, ...] | None


@dataclass(frozen=True)
class McNemar:
    """The exact McNemar test of two classifiers on the same faces.

    Attributes:
        only_first, only_second: faces that only the first, or only the second, classified correctly.
        p_value: two-sided, exact binomial; 1.0 when both are correct on the same faces.
    """

    only_first: int
    only_second: int
    p_value: float


def measure_quality(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    unseen: NDArray[np.bool_] | None = None,
    votes: NDArray[np.integer] | None = None,
) -> Quality:
    """Measure one classifier on one split.

    Args:
        probabilities: (n, classes), as `model.session.check_probabilities` accepts them.
        labels: (n,) classes, from 0, the columns of `probabilities`.
        unseen: (n,) true for faces that occur in no other split.
        votes: (n, 10) FER+ votes.

    Raises:
        DataError: the number of votes is not the number of faces.
    """
    predicted = probabilities.argmax(axis=1)
    correct = predicted == labels
    confusion = confusion_matrix(predicted, labels, classes=probabilities.shape[1])
    return Quality(
        accuracy=Accuracy.of(correct),
        deduplicated=None if unseen is None or not unseen.any() else Accuracy.of(correct[unseen]),
        macro_f1=macro_f1(confusion),
        recall=class_recall(confusion),
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
        calibration_error=calibration_error(bins := reliability(probabilities, labels)),
        reliability=bins,
        unanimity=None if votes is None else accuracy_by_unanimity(correct, votes),
    )


def wilson_interval(hits: int, count: int, *, z: float = Z_95) -> tuple[float, float]:
    """The Wilson score interval of `hits` out of `count` (Wilson 1927), within [0, 1]."""
    if not 0 <= hits <= count or count == 0:
        raise ValueError(f"expected 0 <= hits <= count and count > 0, got {hits} of {count}")
    share = hits / count
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def confusion_matrix(predicted: NDArray[np.integer], labels: NDArray[np.integer], *, classes: int) -> NDArray[np.int64]:
    """Counts, int64 (classes, classes): row = the label, column = the answer."""
    cells = labels.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def class_recall(confusion: NDArray[np.int64]) -> tuple[float | None, ...]:
    """The share of each label's faces that were classified correctly; None where a label does not occur."""
    totals = confusion.sum(axis=1)
    return tuple(
        float(hits) / float(total) if total else None for hits, total in zip(confusion.diagonal(), totals, strict=True)
    )


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """The unweighted mean of the F1 scores of the classes that occur as a label or as an answer (scikit-learn's)."""
    hits = confusion.diagonal().astype(np.float64)
    total = confusion.sum(axis=0) + confusion.sum(axis=1)
    met = total > 0
    return float(np.mean(2 * hits[met] / total[met]))


def accuracy_by_unanimity(correct: NDArray[np.bool_], votes: NDArray[np.integer]) -> tuple[UnanimityBand, ...]:
    """Accuracy in bands of FER+ unanimity: the most frequent answer's share of a face's votes (n, 10).

    Votes for "unknown" and "no face" count as answers; a face without votes is in no band.
    """
    if votes.shape[0] != len(correct):
        raise DataError(f"expected votes for {len(correct)} faces, got {votes.shape[0]}")
    total = votes.sum(axis=1)
    share = np.where(total > 0, votes.max(axis=1) / np.maximum(total, 1), np.nan)
    bands = []
    for low, high in UNANIMITY_BANDS:
        inside = (share >= low) & ((share < high) | (high == 1.0))
        count = int(np.count_nonzero(inside))
        bands.append(
            UnanimityBand(low=low, high=high, count=count, accuracy=float(correct[inside].mean()) if count else None)
        )
    return tuple(bands)


def mcnemar(first_correct: NDArray[np.bool_], second_correct: NDArray[np.bool_]) -> McNemar:
    """Compare which answers of two classifiers are correct, each bool (n,) on the same faces: exact binomial test.

    Source: McNemar 1947, in the exact form: under the null hypothesis each discordant face is a fair coin.
    """
    if first_correct.shape != second_correct.shape:
        raise ValueError(f"expected the same faces, got {first_correct.shape} and {second_correct.shape}")
    only_first = int(np.count_nonzero(first_correct & ~second_correct))
    only_second = int(np.count_nonzero(~first_correct & second_correct))
    return McNemar(only_first, only_second, _fair_coin(min(only_first, only_second), only_first + only_second))


def _fair_coin(heads: int, tosses: int) -> float:
    """Two-sided p of at most `heads` heads in `tosses` fair tosses, in exact integers: floats would underflow."""
    tail = 0
    term = 1
    for index in range(heads + 1):
        tail += term
        term = term * (tosses - index) // (index + 1)
    return min(1.0, 2 * tail / (1 << tosses))


def agreement(first: NDArray[np.integer], second: NDArray[np.integer]) -> float:
    """The share of faces on which two classifiers give the same class."""
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"expected answers to the same faces, got {len(first)} and {len(second)}")
    return float(np.mean(first == second))
