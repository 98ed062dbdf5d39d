"""Two reports side by side: what got worse, by how much, and whether chance explains it.

Accuracy is compared face by face (McNemar's exact test), which needs the same faces; times only between runs on the
same kind of processor with as many threads, by the ratio of medians with an interval from resampled rounds. A change
counts as a regression when it is larger than the limit allows *and* chance does not explain it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fer_deploy.bench.latency import Latency
from fer_deploy.bench.quality import mcnemar
from fer_deploy.bench.report import OK, Report, Row, classes

SIGNIFICANT = 0.01
"""The p-value below which a difference in accuracy is not put down to chance."""

RESAMPLES = 2000
"""Resamples of the rounds, for the interval of a ratio of times."""

Verdict = Literal["regression", "improvement", "no change", "lost"]


@dataclass(frozen=True)
class Limits:
    """What a new report may lose.

    Attributes:
        accuracy_loss: of accuracy, 0 to 1; 0.005 is half a point.
        slowdown: new median time over old.
    """

    accuracy_loss: float = 0.005
    slowdown: float = 1.1


@dataclass(frozen=True)
class Change:
    """One figure of one row in both reports.

    Attributes:
        label: the row's.
        figure: "accuracy" (0 to 1) or "p50 ms".
        old, new: None where the figure is gone.
        evidence: the p-value or the interval of the ratio, in words.
        verdict: "lost" when the row had figures and has none now, which is a regression too.
    """

    label: str
    figure: str
    old: float | None
    new: float | None
    evidence: str
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """All changes, and what could not be compared."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The changes for the worse that are past a limit and not chance, and rows that lost their figures."""
        return tuple(change for change in self.changes if change.verdict in ("regression", "lost"))


def compare_reports(
    old: Report, new: Report, *, limits: Limits | None = None, engines: Collection[str] = ()
) -> Comparison:
    """Compare the rows that both reports have.

    Args:
        old: the earlier report.
        new: the later one.
        limits: what it may lose.
        engines: those on which everything was to be measured again: a row on one that is gone is lost, and not only
            left out.
    """
    limits = limits or Limits()
    notes = []
    same_faces = _same_faces(old, new)
    if not same_faces:
        notes.append("accuracy is not compared: the two reports are not of the same faces")
    same_machine = (old.machine["processor"], old.machine["cores"]) == (new.machine["processor"], new.machine["cores"])
    same_threads = old.settings["threads"] == new.settings["threads"]
    if not same_machine or not same_threads:
        what = "machines" if not same_machine else "numbers of threads"
        notes.append(f"times are not compared: the two reports are of different {what}")
    same_accelerators = old.machine["accelerators"] == new.machine["accelerators"]
    if not same_accelerators and any(row.device != "cpu" for row in old.rows):
        notes.append("times on GPUs are not compared: the two reports are of different ones")
    changes: list[Change] = []
    for before in old.rows:
        if before.status != OK:
            continue
        after = new.row(before.label)
        if after is None:
            if before.engine in engines:
                changes.append(Change(before.label, "row", None, None, "it is not in the new report", "lost"))
            else:
                notes.append(f"{before.label} is in the old report only")
        elif after.status != OK:
            changes.append(Change(before.label, "row", None, None, after.status, "lost"))
        else:
            if same_faces:
                changes += _accuracy(before, after, new, limits)
            if same_machine and same_threads and (before.device == "cpu" or same_accelerators):
                changes += _latency(before, after, limits)
    return Comparison(tuple(changes), tuple(notes))


def ratio_interval(old: Latency, new: Latency, *, seed: int = 0) -> tuple[float, float, float]:
    """The ratio of new to old median time, and its 95 % interval by resampling whole rounds (Efron 1979)."""
    random = np.random.default_rng(seed)
    first, second = round_medians(old), round_medians(new)
    old_medians = np.median(random.choice(first, (RESAMPLES, len(first))), axis=1)
    new_medians = np.median(random.choice(second, (RESAMPLES, len(second))), axis=1)
    low, high = np.percentile(new_medians / old_medians, [2.5, 97.5])
    return float(np.median(second) / np.median(first)), float(low), float(high)


def round_medians(latency: Latency) -> NDArray[np.float64]:
    """The median time of each round, ns: rounds are what two runs vary by, single calls follow one another."""
    samples = np.asarray(latency.samples_ns, dtype=np.float64)
    medians: NDArray[np.float64] = np.median(samples.reshape(latency.rounds, -1), axis=1)
    return medians


def comparison_lines(comparison: Comparison) -> list[str]:
    """The comparison as plain lines, regressions first."""
    order: Sequence[Verdict] = ("lost", "regression", "improvement", "no change")
    lines = []
    for change in sorted(comparison.changes, key=lambda change: order.index(change.verdict)):
        if change.figure == "accuracy" and change.old is not None and change.new is not None:
            figures = f"{change.old * 100:.2f} % -> {change.new * 100:.2f} %"
        elif change.old is not None and change.new is not None:
            figures = f"{change.old:.3f} -> {change.new:.3f}"
        else:
            figures = "had figures, has none"
        lines.append(f"{change.verdict}: {change.label}, {change.figure}: {figures} ({change.evidence})")
    return [*lines, *comparison.notes]


def _same_faces(old: Report, new: Report) -> bool:
    if old.data is None or new.data is None:
        return False
    keys = ("sha256", "split", "rows", "labels")
    in_order = old.data.faces_sha256 == new.data.faces_sha256 or not (old.data.faces_sha256 and new.data.faces_sha256)
    return in_order and all(getattr(old.data, key) == getattr(new.data, key) for key in keys)


def _accuracy(before: Row, after: Row, new: Report, limits: Limits) -> list[Change]:
    first, second = before.answers, after.answers
    if first is None or second is None or before.quality is None or after.quality is None or new.data is None:
        return []
    labels = classes(new.data.labels)
    test = mcnemar(first == labels, second == labels)
    old_accuracy, new_accuracy = before.quality.accuracy.value, after.quality.accuracy.value
    certain = test.p_value < SIGNIFICANT
    verdict: Verdict = "no change"
    if certain and new_accuracy > old_accuracy:
        verdict = "improvement"
    elif certain and old_accuracy - new_accuracy > limits.accuracy_loss:
        verdict = "regression"
    evidence = f"{test.only_first} faces lost, {test.only_second} gained, p = {test.p_value:.2g}"
    return [Change(before.label, "accuracy", old_accuracy, new_accuracy, evidence, verdict)]


def _latency(before: Row, after: Row, limits: Limits) -> list[Change]:
    if before.latency is None or after.latency is None or before.latency.batch != after.latency.batch:
        return []
    ratio, low, high = ratio_interval(before.latency, after.latency)
    verdict: Verdict = "no change"
    if ratio > limits.slowdown and low > 1:
        verdict = "regression"
    elif ratio < 1 / limits.slowdown and high < 1:
        verdict = "improvement"
    evidence = f"ratio {ratio:.2f}, 95 % {low:.2f} to {high:.2f}"
    if before.latency.busy or after.latency.busy:
        evidence += ", a busy machine"
    return [Change(before.label, "p50 ms", before.latency.p50, after.latency.p50, evidence, verdict)]
