"""One benchmark from beginning to end: open, score, time in turns, load, count, compare.

Data and names are checked before anything is loaded. A model that fails on an engine becomes a row with the reason, and
the run continues.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fer_deploy import __version__
from fer_deploy.bench.adapters import Adapter
from fer_deploy.bench.cost import ModelCost, count_cost, recorded_cost
from fer_deploy.bench.engines import (
    DEFAULT_ENGINES,
    EngineSession,
    applies,
    check_engine,
    open_session,
    rgb,
)
from fer_deploy.bench.latency import (
    Latency,
    LatencyPlan,
    Parts,
    SessionStream,
    Stream,
    Throughput,
    measure_latency,
    measure_throughput,
)
from fer_deploy.bench.machine import describe_machine
from fer_deploy.bench.peers import Peer, find_peer
from fer_deploy.bench.peers.environment import prepare
from fer_deploy.bench.peers.process import PeerProcess
from fer_deploy.bench.probe import run_probe
from fer_deploy.bench.quality import Quality, agreement, mcnemar
from fer_deploy.bench.report import OK, PEER, SIDE, Load, Pair, Report, Row, digits
from fer_deploy.bench.scoring import ScoredFaces, faces_to_time, score_images
from fer_deploy.bench.subjects import Subject, failure_text, find_subjects
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import MeasurementError, printable
from fer_deploy.export import Progress
from fer_deploy.machine import check_threads

if TYPE_CHECKING:
    from fer_deploy.faces.dataset import Dataset

QUICK_ROWS = 500
"""The most faces that a quick run scores; the run's seed draws them."""

BUSY_LOAD = 0.5
"""Load average per core at the start above which the machine counts as busy."""


@dataclass(frozen=True)
class BenchPlan:
    """What to measure and how much.

    Attributes:
        names: see subjects.find_subjects.
        engines: names of engines.
        threads: for every engine.
        latency: how much to time; None times nothing.
        dataset: the faces to score on; None scores nothing.
        max_rows: the most faces of the test split to score, drawn by the latency plan's seed; None scores all.
        probe: whether to load each row in a fresh process.
        workspace: the folder that holds exports/ and training/.
        adapters: the user's adapters for foreign files.
        peers: names of other packages, see peers.PEERS. Missing environments are created.
    """

    names: tuple[str, ...] = ()
    engines: tuple[str, ...] = DEFAULT_ENGINES
    threads: int = 1
    latency: LatencyPlan | None = field(default_factory=LatencyPlan)
    dataset: Dataset | None = None
    max_rows: int | None = None
    probe: bool = True
    workspace: Path = Path()
    adapters: tuple[Adapter, ...] = ()
    peers: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class BenchResult:
    """A report and what is behind it.

    Attributes:
        report: the report.
        probabilities: float32 (n, classes) for each scored row, by its label; the classes are the report's labels.
        rows: int64 (n,), the scored faces' rows in the data.
        labels: int64 (n,), their classes.
    """

    report: Report
    probabilities: Mapping[str, NDArray[np.float32]]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]


@dataclass(eq=False)
class _Entry:
    """A row while it is being measured."""

    subject: Subject
    engine: str
    peer: Peer | None = None
    session: EngineSession | PeerProcess | None = None
    status: str = OK
    quality: Quality | None = None
    probabilities: NDArray[np.float32] | None = None
    parts: Parts | None = None
    latency: Latency | None = None
    latency_own_size: Latency | None = None
    throughput: Throughput | None = None
    load: Load | None = None
    cost: ModelCost = field(default_factory=ModelCost)
    uncounted: str | None = None
    agreement: float | None = None
    agreement_with: str | None = None

    @property
    def label(self) -> str:
        return f"{self.subject.key} on {self.engine}"

    def fail(self, error: BaseException) -> None:
        """Turn this row into one that gives the reason why it has no figures."""
        self.status = failure_text(error)
        self.session = self.quality = self.probabilities = self.agreement = self.agreement_with = None
        self.latency = self.latency_own_size = self.throughput = self.load = self.parts = None


def run_bench(plan: BenchPlan, *, progress: Progress | None = None) -> BenchResult:
    """Measure everything in the plan.

    Raises:
        MeasurementError: there is nothing to measure, a name is unknown, or there are more threads than cores.
        UnavailableError: an engine or a peer is unknown.
    """
    step = progress or _silent
    # Threads without a core wait for each other: no time would mean anything, and runs would take minutes.
    check_threads(plan.threads, per_core=1, error=MeasurementError)
    for engine in plan.engines:
        check_engine(engine)
    peers = [find_peer(name) for name in plan.peers]
    subjects = find_subjects(plan.names, workspace=plan.workspace, adapters=plan.adapters)
    entries = [_Entry(subject, engine) for subject in subjects for engine in plan.engines if applies(subject, engine)]
    entries += [_Entry(Subject(peer.name, "peer", "as given"), PEER, peer=peer) for peer in peers]
    machine = describe_machine(gpu=any(engine.split("-")[1] != "cpu" for engine in plan.engines))
    scored = None
    if plan.dataset is not None:
        seed = plan.latency.seed if plan.latency else 0
        scored = ScoredFaces.choose(plan.dataset, maximum=plan.max_rows, seed=seed)
    with ExitStack() as processes:
        _leave_out(entries, scored)
        _open(entries, plan, processes, step)
        _score(entries, scored, step)
        _agree(entries)
        if plan.latency is not None:
            _time(entries, scored, plan, step)
        _load(entries, plan, step)
    _count(entries, step)
    rows = tuple(_row(entry) for entry in entries)
    report = Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        ferdeploy_version=__version__,
        machine=machine,
        settings=_settings(plan),
        data=scored.data if scored else None,
        rows=rows,
        pairs=_pairs(entries, scored),
        warnings=tuple(_warnings(rows, machine, scored)),
        labels=scored.names if scored else EMOTIONS,
    )
    return BenchResult(
        report=report,
        probabilities={entry.label: entry.probabilities for entry in entries if entry.probabilities is not None},
        rows=scored.faces.rows if scored else np.empty(0, np.int64),
        labels=scored.faces.labels if scored else np.empty(0, np.int64),
    )


def _silent(_what: str, _done: int, _total: int) -> None:
    """Ignore progress."""


def _leave_out(entries: Sequence[_Entry], scored: ScoredFaces | None) -> None:
    """Turn the rows of models with other labels than the data's into rows with the reason."""
    for entry in entries:
        try:
            if scored is not None and entry.subject.refusal is None:
                scored.check_labels(entry.subject)
        except MeasurementError as error:
            entry.fail(error)


def _open(entries: Sequence[_Entry], plan: BenchPlan, processes: ExitStack, step: Progress) -> None:
    for index, entry in enumerate(entries):
        if entry.status != OK:
            continue
        step(f"opening {entry.label}", index, len(entries))
        try:
            if entry.peer is None:
                entry.session = open_session(entry.subject, entry.engine, threads=plan.threads)
            else:
                command = prepare(entry.peer, tell=lambda what, at=index: step(what, at, len(entries)))  # type: ignore[misc]
                entry.session = processes.enter_context(PeerProcess(command, threads=plan.threads))
        except Exception as error:
            entry.fail(error)


def _score(entries: Sequence[_Entry], scored: ScoredFaces | None, step: Progress) -> None:
    """Score every entry; without data, only check that each gives one probability distribution per face."""
    random = np.random.default_rng(0)
    for index, entry in enumerate(entries):
        if entry.session is None:
            continue
        step(f"scoring {entry.label}", index, len(entries))
        try:
            if scored is None:
                axes = entry.session.axes
                noise = random.integers(0, 256, (3, axes.height or SIDE, axes.width or SIDE), np.uint8)
                score_images(entry.session, noise, classes=len(entry.subject.labels))
                continue
            entry.probabilities = scored.score(entry.subject, entry.session)
            if not entry.subject.learned_ferplus:
                entry.quality = scored.quality(entry.probabilities)
        except Exception as error:
            entry.fail(error)


def _agree(entries: Sequence[_Entry]) -> None:
    """Compare every row's answers with PyTorch's on the CPU or, without them, with the fp32 file's."""
    answered = [entry for entry in entries if entry.probabilities is not None]
    for entry in answered:
        same_model = [other for other in answered if other.subject.name == entry.subject.name and other is not entry]
        reference = next((other for other in same_model if other.engine == "torch-cpu"), None) or next(
            (other for other in same_model if other.subject.precision == "fp32" and other.engine == "ort-cpu"), None
        )
        if reference is None or entry.engine == "torch-cpu":
            continue
        assert entry.probabilities is not None
        assert reference.probabilities is not None
        entry.agreement = agreement(entry.probabilities.argmax(axis=1), reference.probabilities.argmax(axis=1))
        entry.agreement_with = reference.label


def _time(entries: Sequence[_Entry], scored: ScoredFaces | None, plan: BenchPlan, step: Progress) -> None:
    """Time every entry on faces of 48x48, and single calls also on faces of the data's own size."""
    assert plan.latency is not None
    faces = rgb(faces_to_time(scored))
    timed, streams = _streams(entries, faces)
    latencies = measure_latency(
        streams,
        threads=plan.threads,
        plan=plan.latency,
        parts=[entry.parts for entry in timed],
        progress=lambda done, total: step("timing single faces", done, total),
    )
    rates = measure_throughput(
        streams, plan=plan.latency, progress=lambda done, total: step("timing batches", done, total)
    )
    for entry, latency, rate in zip(timed, latencies, rates, strict=True):
        for result in (latency, rate):
            if isinstance(result, Exception):
                entry.fail(result)
        entry.latency = latency if isinstance(latency, Latency) else None
        entry.throughput = rate if isinstance(rate, Throughput) else None
    if scored is None or (own_size := scored.timed_at_own_size) is None:
        return
    timed, streams = _streams(entries, rgb(own_size))
    what = f"timing single faces of {scored.data.size}"
    latencies = measure_latency(
        streams, threads=plan.threads, plan=plan.latency, progress=lambda done, total: step(what, done, total)
    )
    for entry, latency in zip(timed, latencies, strict=True):
        if isinstance(latency, Exception):
            entry.fail(latency)
        else:
            entry.latency_own_size = latency


def _streams(entries: Sequence[_Entry], faces: NDArray[np.uint8]) -> tuple[list[_Entry], list[Stream]]:
    """The opened entries that take RGB faces of this size, and their streams; one that cannot be timed fails."""
    timed: list[_Entry] = []
    streams: list[Stream] = []
    for entry in entries:
        if entry.session is None or not entry.session.axes.accept(*faces.shape[1:3]):
            continue
        try:
            streams.append(_stream(entry, faces))
        except Exception as error:
            entry.fail(error)
            continue
        timed.append(entry)
    return timed, streams


def _stream(entry: _Entry, faces: NDArray[np.uint8]) -> Stream:
    """The stream to time for an opened entry; its clock is checked first."""
    if isinstance(entry.session, PeerProcess):
        entry.session.use_faces(faces)
        return entry.session
    assert entry.session is not None
    stream = SessionStream(entry.session, faces)
    parts = stream.check_clock()
    entry.parts = None if entry.session.host_memory else parts
    return stream


def _load(entries: Sequence[_Entry], plan: BenchPlan, step: Progress) -> None:
    if not plan.probe:
        return
    for index, entry in enumerate(entries):
        # the adapter may be a file that the user named: the probe's process does not know it
        if entry.session is None or entry.subject.adapter is not None:
            continue
        step(f"loading {entry.label} in a fresh process", index, len(entries))
        try:
            if isinstance(entry.session, PeerProcess):
                facts = entry.session.facts
                entry.load = Load(facts["load_ms"], facts["first_ms"], entry.session.peak_memory_bytes())
            else:
                entry.load = run_probe(entry.subject, entry.engine, threads=plan.threads, workspace=plan.workspace)
        except Exception as error:
            entry.fail(error)


def _count(entries: Sequence[_Entry], step: Progress) -> None:
    """Count every model once; a file whose runs cannot be counted keeps its figures and its recorded GFLOPs."""
    counted: dict[str, ModelCost | Exception] = {}
    for index, entry in enumerate(entries):
        step(f"counting {entry.label}", index, len(entries))
        if isinstance(entry.session, PeerProcess):
            facts = entry.session.facts
            entry.cost = ModelCost(params=facts.get("params"), bytes=facts.get("bytes"))
            continue
        key = f"{entry.subject.path} {entry.subject.key}"
        if key not in counted:
            try:
                counted[key] = count_cost(entry.subject)
            except Exception as error:
                counted[key] = error
        cost = counted[key]
        if isinstance(cost, ModelCost):
            entry.cost = cost
        elif entry.subject.path is not None:
            entry.cost = recorded_cost(entry.subject)
            entry.uncounted = failure_text(cost)
        elif entry.status == OK:
            entry.fail(cost)


def _row(entry: _Entry) -> Row:
    subject, session = entry.subject, entry.session
    contract = subject.contract
    split = contract.metadata.get("accuracy_split") if contract else None
    if isinstance(session, PeerProcess):
        provider, note = session.facts["provider"], None
    else:
        provider, note = (session.provider, session.note) if session else (None, None)
    if subject.adapter is not None:
        note = f"adapter of {subject.adapter.source}"
    if subject.learned_ferplus:
        note = "trained on FER+ labels: not scored on FER2013's"
    if entry.peer is not None:
        note = f"{entry.peer.name} {entry.peer.version}: {entry.peer.call}"
    if session is not None and not session.axes.accept(SIDE, SIDE):
        note = "; ".join(filter(None, [note, f"not timed on faces of 48x48: it takes {session.axes.size} only"]))
    if entry.latency is not None and entry.latency.batch > 1:
        note = "; ".join(filter(None, [note, f"timed in calls of {entry.latency.batch} faces, the file's fixed batch"]))
    if entry.uncounted and entry.status == OK:
        note = "; ".join(filter(None, [note, f"GFLOPs not counted: {entry.uncounted}"]))
    answers = None if entry.probabilities is None else entry.probabilities.argmax(axis=1)
    return Row(
        name=subject.name,
        kind=subject.kind,
        precision=subject.precision,
        engine=entry.engine,
        provider=provider,
        status=entry.status,
        note=note,
        quality=entry.quality,
        agreement=entry.agreement,
        agreement_with=entry.agreement_with,
        cost=entry.cost,
        latency=entry.latency,
        latency_own_size=entry.latency_own_size,
        throughput=entry.throughput,
        load=entry.load,
        recorded_accuracy=contract.accuracy if contract and not subject.learned_ferplus else None,
        recorded_accuracy_split=None if split is None else printable(split),
        predictions=None if answers is None else digits(answers, of=len(subject.labels)),
    )


def _pairs(entries: Sequence[_Entry], scored: ScoredFaces | None) -> tuple[Pair, ...]:
    """McNemar's test between every two models, each on the first engine that has answers."""
    if scored is None:
        return ()
    first: dict[str, _Entry] = {}
    for entry in entries:
        if entry.quality is not None:
            first.setdefault(entry.subject.key, entry)
    correct = {
        entry.label: entry.probabilities.argmax(axis=1) == scored.faces.labels
        for entry in first.values()
        if entry.probabilities is not None
    }
    pairs = []
    for one, other in combinations(correct, 2):
        test = mcnemar(correct[one], correct[other])
        pairs.append(Pair(one, other, test.only_first, test.only_second, test.p_value))
    return tuple(pairs)


def _settings(plan: BenchPlan) -> dict[str, Any]:
    settings = {
        "engines": plan.engines,
        "peers": plan.peers,
        "threads": plan.threads,
        "latency": dataclasses.asdict(plan.latency) if plan.latency else None,
        "max_rows": plan.max_rows,
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _warnings(rows: Sequence[Row], machine: Mapping[str, Any], scored: ScoredFaces | None) -> list[str]:
    warnings = []
    load, cores = machine["load_at_start"], machine["cores"]
    timed = any(row.latency for row in rows)
    if timed and load is not None and load > BUSY_LOAD * cores:
        warnings.append(f"the machine was busy before the run began (load {load} on {cores} cores): times are too long")
    busy = [row.label for row in rows if row.latency and row.latency.busy]
    if busy:
        listed = ", ".join(busy[:3]) + (f" and {len(busy) - 3} more" if len(busy) > 3 else "")
        warnings.append(f"times varied between rounds, other programs were running: {listed}")
    if scored is not None and scored.data.rows < scored.data.rows_in_split:
        warnings.append(
            f"accuracy is measured on {scored.data.rows} faces drawn from {scored.data.rows_in_split}: a quick look"
        )
    if scored is not None and scored.data.name != "FER2013":
        warnings.append(f"the data is {scored.data.name}: these accuracies do not apply to FER2013")
    return warnings
