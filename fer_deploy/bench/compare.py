"""Compare two reports: what got worse, by how much, and whether chance explains it.

Accuracy is compared face by face (McNemar's exact test), which needs the same faces. Times are compared only between
runs on the same kind of processor with the same number of threads: as the ratio of medians, with an interval from
resampled rounds. A change is a regression when it exceeds the limit *and* chance does not explain it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fer_deploy.bench.latency import Latency
from fer_deploy.bench.quality import mcnemar
from fer_deploy.bench.report import OK, Report, Row, label_list
from fer_deploy.errors import MeasurementError, printable

SIGNIFICANT = 0.01
"""The p-value below which chance does not explain a difference in accuracy."""

RESAMPLES = 2000
"""How often rounds are resampled for the interval of a ratio of times."""

Verdict = Literal["regression", "improvement", "no change", "lost"]


@dataclass(frozen=True)
class Limits:
    """How much worse a new report may be.

    Attributes:
        accuracy_loss: largest loss of accuracy, 0 to 1; 0.005 is half a percentage point.
        slowdown: largest ratio of the new median time to the old one.
    """

    accuracy_loss: float = 0.005
    slowdown: float = 1.1


@dataclass(frozen=True)
class Change:
    """One figure of one row in both reports.

    Attributes:
        label: the label of the row.
        figure: "accuracy" (0 to 1) or "p50 ms".
        old, new: the figures; None where one is missing.
        evidence: the p-value or the interval of the ratio, as text.
        verdict: "lost", also a regression, when the row had figures and has none now.
    """

    label: str
    figure: str
    old: float | None
    new: float | None
    evidence: str
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """All changes, and notes on what could not be compared."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """Changes that exceed a limit and that chance does not explain, and rows that lost their figures."""
        return tuple(change for change in self.changes if change.verdict in ("regression", "lost"))


def compare_reports(
    old: Report, new: Report, *, limits: Limits | None = None, engines: Collection[str] = ()
) -> Comparison:
    """Compare the rows that both reports have.

    Args:
        old: the earlier report.
        new: the later one.
        limits: how much worse it may be.
        engines: engines on which everything was measured again: a missing row on one of them is a loss, and on any
            other engine a note.

    Raises:
        MeasurementError: they scored different labels.
    """
    limits = limits or Limits()
    notes = []
    if new.data:
        check_same_labels(old, new.labels)
    same_faces = _same_faces(old, new)
    if not same_faces:
        notes.append("accuracy is not compared: the reports scored different faces")
    same_machine = (old.machine["processor"], old.machine["cores"]) == (new.machine["processor"], new.machine["cores"])
    same_threads = old.settings["threads"] == new.settings["threads"]
    if not same_machine or not same_threads:
        what = "machines" if not same_machine else "numbers of threads"
        notes.append(f"times are not compared: the reports come from different {what}")
    same_accelerators = old.machine["accelerators"] == new.machine["accelerators"]
    if not same_accelerators and any(row.device != "cpu" for row in old.rows):
        notes.append("times on GPUs are not compared: the reports come from different GPUs")
    changes: list[Change] = []
    for before in old.rows:
        if before.status != OK:
            continue
        after = new.row(before.label)
        if after is None:
            if before.engine in engines:
                changes.append(Change(before.label, "row", None, None, "missing from the new report", "lost"))
            else:
                notes.append(f"{before.label} is in the old report alone")
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
    """The median time of each round, ns: rounds are independent of each other, successive calls are not."""
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
            figures = "had figures, now has none"
        lines.append(f"{change.verdict}: {change.label}, {change.figure}: {figures} ({change.evidence})")
    return list(map(printable, (*lines, *comparison.notes)))


def check_same_labels(old: Report, labels: tuple[str, ...]) -> None:
    """Refuse to compare a report on data with other labels, or with the same ones in another order.

    Raises:
        MeasurementError: the old report scored other labels than these.
    """
    if old.data and old.labels != labels:
        raise MeasurementError(
            f"the earlier report has other labels, {label_list(old.labels)}, and the data has {label_list(labels)}: "
            "compare reports on the same data"
        )


def _same_faces(old: Report, new: Report) -> bool:
    if old.data is None or new.data is None:
        return False
    keys = ("sha256", "split", "rows", "labels")
    in_order = old.data.faces_sha256 == new.data.faces_sha256 or not (old.data.faces_sha256 and new.data.faces_sha256)
    return in_order and all(getattr(old.data, key) == getattr(new.data, key) for key in keys)


def _accuracy(before: Row, after: Row, new: Report, limits: Limits) -> list[Change]:
    first, second, labels = new.answers(before), new.answers(after), new.truth
    if first is None or second is None or before.quality is None or after.quality is None or labels is None:
        return []
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
        evidence += ", on a busy machine"
    return [Change(before.label, "p50 ms", before.latency.p50, after.latency.p50, evidence, verdict)]
