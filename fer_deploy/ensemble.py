"""Fusing the probabilities of several networks (averages, ranks, search for weights), and calibrating them.

Everything here computes on arrays. `fer_deploy.export.graph` builds the same two fusions into an ONNX file; the tests
compare the two.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fer_deploy.study import STUDY_ENSEMBLES

Fusion = Literal["wap", "rrf"]
"""`wap`: weighted average of probabilities. `rrf`: reciprocal rank fusion."""
FUSIONS: tuple[Fusion, ...] = ("wap", "rrf")
RANK_CONSTANT = 60
"""The k of reciprocal rank fusion, as in the study and in Cormack, Clarke and Büttcher, SIGIR 2009."""
MIRROR = "~mirror"
"""The end of a member's name if the run sees the mirrored face: `B~mirror`."""

CALIBRATION_BINS = 15
"""Equal-width confidence bins of the calibration error, as many as in Guo et al. 2017 (arXiv:1706.04599)."""

LEAST_PROBABILITY = 1e-30
"""Smaller probabilities are raised to this before their logarithm is taken."""
STUDY_SOURCE = "the study, searched on PrivateTest"
"""Where the study's weights come from: the study chose them on the same rows on which it reports its accuracy."""


@dataclass(frozen=True)
class Weights:
    """Each member's share in a fusion, and the source of the shares.

    >>> Weights.of([1, 3], source="given").values
    (0.25, 0.75)
    """

    values: tuple[float, ...]
    """One share per member, none negative; they sum to 1."""
    source: str
    """Where they come from, in words; an export writes it into the file."""
    accuracy: float | None = None
    """The accuracy with them on the data of their search, 0 to 1; None if there was no search."""

    def __post_init__(self) -> None:
        if not self.values or not all(math.isfinite(value) and value >= 0 for value in self.values):
            raise ValueError(f"weights must be finite and not negative, got {list(self.values)}")
        if abs(sum(self.values) - 1) > 1e-6:
            raise ValueError(f"weights must sum to 1, got {list(self.values)}: use Weights.of to scale them")

    @classmethod
    def of(cls, values: Sequence[float], *, source: str) -> Self:
        """Weights in the proportion of `values`, scaled to sum to 1. ValueError if they cannot be scaled."""
        try:
            total = math.fsum(values)
        except OverflowError:
            total = math.inf
        if not math.isfinite(total) or total <= 0 or min(values) < 0:
            raise ValueError(f"weights must be finite, not negative and not all zero, got {list(values)}")
        return cls(tuple(round(value / total, 12) for value in values), source)

    @classmethod
    def equal(cls, count: int) -> Self:
        """The same share for each of `count` members."""
        return cls((1 / count,) * count, "equal")


def split_member(name: str) -> tuple[str, bool]:
    """The run that a member's name refers to, and whether it sees the mirrored face.

    >>> split_member("B~mirror")
    ('B', True)
    """
    return name.removesuffix(MIRROR), name.endswith(MIRROR)


def member_runs(names: Iterable[str]) -> tuple[str, ...]:
    """The runs that members' names refer to, each once, in order.

    >>> member_runs(["B", "B~mirror", "E"])
    ('B', 'E')
    """
    return tuple(dict.fromkeys(split_member(name)[0] for name in names))


def ensemble_name(members: Sequence[str], *, fusion: Fusion = "wap") -> str:
    """The name of a fusion of these members: `B+E`, `B+E.rrf`.

    >>> ensemble_name(["B", "B~mirror"])
    'B+B~mirror'
    """
    return "+".join(members) + (".rrf" if fusion == "rrf" else "")


def default_weights(members: Sequence[str], *, fusion: Fusion = "wap") -> Weights:
    """The study's weights for the study's ensembles, in any order of the members, and equal weights for all others."""
    for study in STUDY_ENSEMBLES.values():
        if study.fusion == fusion and sorted(study.members) == sorted(members):
            share = dict(zip(study.members, study.weights, strict=True))
            return Weights.of([share[member] for member in members], source=STUDY_SOURCE)
    return Weights.equal(len(members))


def weighted_average(probabilities: Sequence[ArrayLike], weights: Sequence[float]) -> NDArray[np.float32]:
    """The average of members' probabilities, each in proportion to its weight.

    Args:
        probabilities: one array (n, classes) per member, rows that sum to 1.
        weights: one per member, not negative, in any scale.

    Returns:
        float32 (n, classes), rows that sum to 1.

    Raises:
        ValueError: arrays of unequal shapes, or weights that do not fit them.
    """
    stacked, shares = _checked(probabilities, weights)
    fused: NDArray[np.float32] = np.einsum("m,mnc->nc", shares, stacked).astype(np.float32)
    return fused


def reciprocal_rank_fusion(
    probabilities: Sequence[ArrayLike], weights: Sequence[float], *, k: float = RANK_CONSTANT
) -> NDArray[np.float32]:
    """Fuse members by the ranks that they give to the classes: each class scores the sum of weight / (k + rank).

    A member's most probable class has rank 1; of two equally probable classes the earlier one ranks first. Arguments
    and errors are those of `weighted_average`. The result is float32 (n, classes): the scores divided by their sum, so
    that rows sum to 1. They order the classes, but do not measure confidence: with k = 60 all are near 1 / classes.

    Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods",
    SIGIR 2009.
    """
    stacked, shares = _checked(probabilities, weights)
    if not k > 0:
        raise ValueError(f"k must be above 0, got {k}")
    scores = np.einsum("m,mnc->nc", shares, 1 / (k + ranks(stacked)))
    fused: NDArray[np.float32] = (scores / scores.sum(axis=-1, keepdims=True)).astype(np.float32)
    return fused


def ranks(probabilities: ArrayLike) -> NDArray[np.int64]:
    """Each class's rank along the last axis: 1 for the most probable; ties go to the earlier class.

    >>> ranks([0.2, 0.5, 0.2, 0.1]).tolist()
    [2, 1, 3, 4]
    """
    order = np.argsort(-np.asarray(probabilities), axis=-1, kind="stable")
    places: NDArray[np.int64] = np.argsort(order, axis=-1, kind="stable") + 1
    return places


def fuse(
    probabilities: Sequence[ArrayLike], weights: Sequence[float], *, fusion: Fusion = "wap"
) -> NDArray[np.float32]:
    """`weighted_average` or `reciprocal_rank_fusion`, by name."""
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
    return (weighted_average if fusion == "wap" else reciprocal_rank_fusion)(probabilities, weights)


def search_weights(
    probabilities: Sequence[ArrayLike],
    labels: ArrayLike,
    *,
    step: float = 0.05,
    fusion: Fusion = "wap",
    source: str = "searched on validation",
) -> Weights:
    """Search a grid for the weights with which the fusion is most accurate.

    The grid has every combination of multiples of `step` that sums to 1. Of equally accurate combinations the one
    nearest to equal weights is chosen, since it is fitted least to these rows; of equally near ones the first.

    Use validation rows, never test rows: the accuracy is the best of many, so it is too high for the searched rows.

    Args:
        probabilities: one array (n, classes) per member.
        labels: int (n,).
        step: grid step, a unit fraction (1/20 by default), in (0, 1].
        fusion: `wap` or `rrf`.
        source: the `source` of the result.
    """
    stacked, _ = _checked(probabilities, [1.0] * len(probabilities))
    truth = _truth(labels, stacked.shape[1])
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
    parts = round(1 / step) if 0 < step <= 1 else 0
    if not parts or abs(parts * step - 1) > 1e-9:
        raise ValueError(f"step must be 1 divided by a whole number, got {step}")
    count = len(stacked)
    scored = stacked if fusion == "wap" else 1 / (RANK_CONSTANT + ranks(stacked))
    best: tuple[int, float] | None = None
    best_shares: tuple[int, ...] = ()
    for shares in _simplex(count, parts):
        fused = np.tensordot(np.asarray(shares, np.float64), scored, axes=1)
        correct = int((fused.argmax(axis=1) == truth).sum())
        distance = sum((share / parts - 1 / count) ** 2 for share in shares)
        if best is None or correct > best[0] or (correct == best[0] and distance < best[1] - 1e-12):
            best, best_shares = (correct, distance), shares
    assert best is not None
    return Weights(tuple(share / parts for share in best_shares), source, best[0] / len(truth))


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature at which a network's or fusion's mean confidence (largest probability) equals its accuracy.

    The usual choice, the temperature with the lowest cross-entropy (Guo et al., 2017), leaves networks that were
    trained on soft targets overconfident: on held-out halves of PublicTest, equal means had the lower expected
    calibration error for all six networks tried (training/LOG.md). A fusion needs its own temperature: the average of
    calibrated members is less confident than they are and more accurate.

    Args:
        logits: (n, classes), or logarithms of probabilities.
        labels: int (n,), of validation rows.

    Returns:
        The number to divide the logits by, rounded to four decimals: 0.05 to 20, and one of these two if no number
        between them makes the means equal.
    """
    (stacked,), _ = _checked([logits], [1.0])
    truth = _truth(labels, len(stacked))

    def excess(sharpness: float) -> float:
        """Mean confidence minus accuracy, with the logits multiplied by e to the power of `sharpness`."""
        answers = _softmax(stacked * math.exp(sharpness))
        return float(answers.max(axis=-1).mean() - (answers.argmax(axis=-1) == truth).mean())

    return round(math.exp(-_root(excess, math.log(0.05), math.log(20.0), within=1e-6)), 4)


@dataclass(frozen=True)
class AdaptiveTemperature:
    """A temperature that depends on an answer's confidence: the last step of a classifier.

    The logarithms of a face's probabilities are multiplied by `base + slope * (their largest - their mean)` before a
    softmax. With `slope` 0 this is one temperature, 1 / `base`. A slope above 0 makes confident answers more confident
    and unconfident ones less. The most probable class stays the same, since the factor is above 0. This is adaptive
    temperature scaling after Balanya, Maroñas and Ramos, 2022, with the spread of the logits instead of their entropy:
    the spread has no upper limit and needs no sum.

    >>> AdaptiveTemperature(1.0, 0.0).apply([[0.7, 0.2, 0.1]]).round(3).tolist()
    [[0.7, 0.2, 0.1]]
    """

    base: float
    slope: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.base) and self.base > 0 and math.isfinite(self.slope) and self.slope >= 0):
            raise ValueError(f"base must be above 0 and slope at least 0, got {self.base} and {self.slope}")

    def apply(self, probabilities: ArrayLike) -> NDArray[np.float64]:
        """Calibrate probabilities (n, classes); the result is float64 (n, classes), rows that sum to 1."""
        logarithms, spread = _logarithms(np.asarray(probabilities, np.float64))
        return _softmax(logarithms * (self.base + self.slope * spread))


def fit_adaptive_temperature(probabilities: ArrayLike, labels: ArrayLike) -> AdaptiveTemperature:
    """Fit the adaptive temperature that calibrates a classifier at low and at high confidence.

    Its two numbers are fitted to two conditions: mean confidence equals accuracy, and the remaining calibration error
    is uncorrelated with confidence. If confidence already rises faster than accuracy, the slope is 0.

    Args:
        probabilities: (n, classes), a classifier's or fusion's.
        labels: int (n,), of validation rows.

    Returns:
        `base` from 0.05 to 20 and `slope` from 0 to 1, rounded to four decimals; a limit of these ranges if no value
        inside meets the conditions.
    """
    (stacked,), _ = _checked([probabilities], [1.0])
    truth = _truth(labels, len(stacked))
    logarithms, spread = _logarithms(stacked)
    correct = logarithms.argmax(axis=-1) == truth
    confidence = stacked.max(axis=-1)
    centred = confidence - confidence.mean()

    def excess(base: float, slope: float) -> NDArray[np.float64]:
        """Each answer's confidence minus its correctness, 1 or 0."""
        difference: NDArray[np.float64] = _softmax(logarithms * (base + slope * spread)).max(axis=-1) - correct
        return difference

    def base_for(slope: float) -> float:
        return math.exp(_root(lambda base: float(excess(math.exp(base), slope).mean()), math.log(0.05), math.log(20.0)))

    def correlation(slope: float) -> float:
        return float((excess(base_for(slope), slope) * centred).mean())

    # The correlation rises with the slope: at 0 or above there is nothing to correct.
    slope = 0.0 if correlation(0.0) >= 0 else round(_root(correlation, 0.0, 1.0), 4)
    return AdaptiveTemperature(round(base_for(slope), 4), slope)


@dataclass(frozen=True)
class CalibrationBin:
    """Answers whose confidence lies in (low, high]: their number, mean confidence and accuracy (None if empty)."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


def reliability(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], *, bins: int = CALIBRATION_BINS
) -> tuple[CalibrationBin, ...]:
    """Group answers by the largest probability into `bins` bins (low, high] of equal width."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    groups = []
    for index in range(bins):
        inside = place == index
        count = int(np.count_nonzero(inside))
        groups.append(
            CalibrationBin(
                low=index / bins,
                high=(index + 1) / bins,
                count=count,
                confidence=float(confidence[inside].mean()) if count else None,
                accuracy=float(correct[inside].mean()) if count else None,
            )
        )
    return tuple(groups)


def calibration_error(bins: tuple[CalibrationBin, ...]) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy, weighted by the bins' counts."""
    total = sum(group.count for group in bins)
    return (
        sum(
            group.count * abs(group.confidence - group.accuracy)
            for group in bins
            if group.confidence is not None and group.accuracy is not None
        )
        / total
    )


def _logarithms(probabilities: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The logarithms (n, classes) of probabilities, and each row's largest minus its mean, (n, 1)."""
    logarithms = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    return logarithms, logarithms.max(axis=-1, keepdims=True) - logarithms.mean(axis=-1, keepdims=True)


def _root(function: Callable[[float], float], low: float, high: float, *, within: float = 1e-5) -> float:
    """Where a rising function is 0, by bisection; the nearer limit if it is 0 nowhere between the limits."""
    while high - low > within:
        middle = (low + high) / 2
        low, high = (low, middle) if function(middle) > 0 else (middle, high)
    return (low + high) / 2


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    quotient: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return quotient


def _simplex(count: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to split `parts` into `count` whole numbers from 0 on, in lexicographic order."""
    # Each way is one choice of where to put `count - 1` bars between `parts` stars.
    for bars in itertools.combinations(range(parts + count - 1), count - 1):
        edges = (-1, *bars, parts + count - 1)
        yield tuple(right - left - 1 for left, right in itertools.pairwise(edges))


def _truth(labels: ArrayLike, count: int) -> NDArray[Any]:
    truth = np.asarray(labels)
    if truth.shape != (count,) or not count:
        raise ValueError(f"labels must be ({count},) and not empty, got {truth.shape}")
    return truth


def _checked(
    probabilities: Sequence[ArrayLike], weights: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    arrays = [np.asarray(array, np.float64) for array in probabilities]
    if not arrays or any(array.ndim != 2 or array.shape != arrays[0].shape for array in arrays):
        raise ValueError(f"members must have probabilities of one shape (n, classes), got {[a.shape for a in arrays]}")
    if len(weights) != len(arrays):
        raise ValueError(f"{len(arrays)} members need as many weights, got {len(weights)}")
    return np.stack(arrays), np.asarray(Weights.of(weights, source="given").values, np.float64)
