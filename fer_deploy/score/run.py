"""Hand the parts of a plan to workers with Ray Data, here or on a cluster, until each has its file.

A worker is an actor with a `Recognizer` of its own. Pictures never pass through Ray: a worker is told a part's number,
reads the part itself, and writes the file itself. Ray Data starts the workers, gives them parts, and gives a part again
when its worker died; the driver only counts.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from fer_deploy.errors import DataError, FerDeployError, ModelFileError, UnavailableError, install
from fer_deploy.files import read_file, shown
from fer_deploy.model.contract import MAXIMUM_BYTES
from fer_deploy.model.names import default_model
from fer_deploy.model.session import open_model
from fer_deploy.recognizer import Recognizer
from fer_deploy.score.part import PartResult, read_result, score_part
from fer_deploy.score.places import Place
from fer_deploy.score.plan import (
    SUMMARY,
    Plan,
    check_same,
    find_kind,
    make_plan,
    open_plan,
    part_name,
    remove_leftovers,
    remove_run,
)  # fmt: skip
from fer_deploy.score.sources import Options

_MOST_TASKS = 2000
"""Ray Data's tasks; of more parts than this, a task takes several."""


@dataclass(frozen=True)
class Job:
    """What to score, and how.

    Attributes:
        input: a folder, a file or an address (`s3://...`).
        output: likewise; a folder.
        model: an ONNX file; None takes the default one.
        kind: `parquet`, `images` or `webdataset`; None finds it.
        options: how the input is read.
        workers: how many; 0 takes one for each `threads` cores of the machine or cluster.
        threads: of each worker.
        provider: where to compute; anything but `cpu` takes one GPU a worker.
        address: of a cluster; empty starts Ray on this machine for this run alone.
        restart: throw away what an earlier run left in the output.
    """

    input: str
    output: str
    model: str | None = None
    kind: str | None = None
    options: Options = field(default_factory=Options)
    workers: int = 0
    threads: int = 1
    provider: str = "cpu"
    address: str = ""
    restart: bool = False


@dataclass(frozen=True)
class Summary:
    """What became of a run.

    Attributes:
        parts: parts of the plan.
        parts_done: parts whose file is there.
        rows: rows in these files.
        bad_rows: of them, rows with an error.
        labels: label to count, of the others.
        rows_now: rows that this run scored; the others were there already.
        seconds: what it took, but for Ray's start.
        problems: a line for each thing that keeps the run from being whole.
        first_error: a bad row's error, as an example.
    """

    parts: int
    parts_done: int
    rows: int
    bad_rows: int
    labels: dict[str, int]
    rows_now: int
    seconds: float
    problems: tuple[str, ...]
    first_error: str

    @property
    def is_whole(self) -> bool:
        """Whether each row of the input is in the output."""
        return self.parts_done == self.parts and not self.problems


class Watcher(Protocol):
    """Is told how a run goes."""

    def planned(self, plan: Plan, *, done: int) -> None:
        """The plan stands; so many of its parts are done already."""

    def part(self, result: PartResult) -> None:
        """A part has its file, or a problem."""

    def message(self, text: str) -> None:
        """Something to show."""


class Silent:
    """A watcher that shows nothing."""

    def planned(self, plan: Plan, *, done: int) -> None:
        """Nothing."""

    def part(self, result: PartResult) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""


def run(job: Job, *, watcher: Watcher | None = None) -> Summary:
    """Score a data set; what an earlier run of the same job has done is kept.

    Raises:
        DataError: the input cannot be read at all, or the output holds another run.
        ModelFileError: the model cannot be used.
        UnavailableError: there is no Ray, or no cluster at the address, or its workers cannot start.
    """
    watcher = watcher or Silent()
    model_path = str(default_model() if job.model is None else job.model)
    content = read_file(model_path, maximum_bytes=MAXIMUM_BYTES, what="model", error=ModelFileError)
    # What breaks the contract is refused here, once; and a provider that is not there, where this machine computes.
    providers = None if job.address else [job.provider]
    contract = open_model(content, source=shown(model_path), threads=1, providers=providers).contract
    plan = _plan(job, model=os.path.basename(model_path), model_sha256=contract.sha256)  # noqa: PTH119
    output = Place(plan.output)
    pending = [number for number, result in _results(output, plan) if result is None]
    watcher.planned(plan, done=plan.parts - len(pending))
    started, failed, rows_now = time.monotonic(), {}, 0
    if pending:
        is_ours = _start_ray(job, watcher)
        try:
            started = time.monotonic()
            for result in _scored(job, plan, content, pending, watcher):
                if result.problem:
                    failed[result.number] = result.problem
                elif result.seconds:
                    rows_now += result.rows
                watcher.part(result)
        finally:
            if is_ours:
                import ray

                ray.shutdown()
    summary = _summarise(plan, output, failed, rows_now=rows_now, seconds=time.monotonic() - started)
    _write_summary(output, plan, summary)
    return summary


def _plan(job: Job, *, model: str, model_sha256: str) -> Plan:
    input_place, output = Place.of(job.input), Place.of(job.output)
    if input_place.contains(output):
        raise DataError(f"{output} is inside the input: choose a folder beside it")
    if output.kind() in ("file", "other"):
        raise DataError(f"{output} is not a folder")
    if job.restart:
        remove_run(output)
    plan = open_plan(output)
    if plan is not None:
        wanted: dict[str, Any] = {"input": input_place.address, "model_sha256": model_sha256, "options": job.options}
        check_same(plan, **wanted | ({"kind": job.kind} if job.kind else {}))
        remove_leftovers(output)
        return plan
    if output.names("part-"):
        raise DataError(f"{output} holds part- files and no plan: choose another folder, or begin anew with --restart")
    kind = find_kind(input_place, asked=job.kind)
    return make_plan(input_place, output, kind=kind, options=job.options, model=model, model_sha256=model_sha256)


class _Scorer:
    """A worker: an actor of Ray's that lives as long as the run."""

    def __init__(self, plan: Plan, model: Any, threads: int, provider: str) -> None:
        import ray

        content: bytes = ray.get(model) if isinstance(model, ray.ObjectRef) else model
        self._plan = plan
        self._parts = plan.list_parts()
        self._source = plan.source()
        self._output = Place(plan.output)
        self._recognizer = Recognizer(content, threads=threads, providers=[provider])

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[str]]:
        """Score the parts of these numbers; a result each, as JSON."""
        return {"result": [json.dumps(asdict(self._score(int(number)))) for number in batch["number"]]}

    def _score(self, number: int) -> PartResult:
        try:
            return score_part(
                self._recognizer, self._plan, self._source, self._parts[number], number=number, output=self._output
            )
        except FerDeployError as error:
            return PartResult(number, problem=str(error))
        except Exception as error:  # told as a problem of this part: the others go on
            line = " ".join(str(error).split())[:300]
            return PartResult(number, problem=f"part {number}: {type(error).__name__}: {line}")


def _scored(job: Job, plan: Plan, model: bytes, pending: Sequence[int], watcher: Watcher) -> Iterator[PartResult]:
    """Results, as parts are done; none for a part whose workers all died."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.exceptions import RayError

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # importing it sets it to INFO
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # a part that cannot be done does not stop the others
    room, takes_gpu = _room(job)
    workers = min(job.workers or room, room, len(pending))
    rows = [{"number": number} for number in pending]
    try:
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_TASKS)).map_batches(
            _Scorer,
            batch_size=1,
            compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_cpus=job.threads,
            num_gpus=1 if takes_gpu else 0,
            fn_constructor_kwargs={
                "plan": plan,
                "model": ray.put(model),
                "threads": job.threads,
                "provider": job.provider,
            },
        )
        for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"):
            for text in batch["result"]:
                yield PartResult(**json.loads(str(text)))
    except RayError as error:
        watcher.message(f"Ray gave up: {_cause(error)}")
    except Exception as error:
        raise UnavailableError(f"the workers cannot work: {_cause(error)}") from error


def _room(job: Job) -> tuple[int, bool]:
    """How many workers fit on Ray's machines, and whether each takes a GPU.

    Ray counts the GPUs that it knows; a provider of this machine that computes elsewhere (CoreML, say) needs none.

    Raises:
        UnavailableError: not one fits. Ray would wait for such a machine to join, for ever.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    takes_gpu = job.provider != "cpu" and (bool(job.address) or any(machine.get("GPU") for machine in machines))
    room = sum(
        min(int(machine.get("CPU", 0)) // job.threads, int(machine.get("GPU", 0)) if takes_gpu else 1 << 30)
        for machine in machines
    )
    if not room:
        needs = f"{job.threads} core{'s' * (job.threads > 1)}" + " and a GPU" * takes_gpu
        raise UnavailableError(f"a worker needs {needs}, and Ray has no such machine: see --threads and --provider")
    return room, takes_gpu


def _start_ray(job: Job, watcher: Watcher) -> bool:
    """Start Ray or connect to a cluster; False where the caller's program has done so already."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of this machine
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UnavailableError(f"{error.name} is not installed: {install('score')}") from error
    if ray.is_initialized():  # a program that has its own Ray, and calls us
        return False
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    watcher.message(f"connecting to Ray at {job.address}" if job.address else "starting Ray on this machine")
    try:
        with _quiet():
            if job.address:
                ray.init(address=job.address, **quiet)
            else:
                cores = max((job.workers or 1) * job.threads, os.cpu_count() or 1)
                ray.init(num_cpus=cores, include_dashboard=False, object_store_memory=256 * 2**20, **quiet)
    except Exception as error:  # Ray raises whatever it meets
        if not job.address:
            raise UnavailableError(f"Ray cannot be started: {_cause(error)}") from error
        remedy = "see that it runs, and that RAY_AUTH_MODE and the token here are the cluster's"
        raise UnavailableError(f"no Ray cluster at {job.address}: {_cause(error)}: {remedy}") from error
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the terminal what Ray's C++ writes there by itself while it starts; its own log files have it."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _results(output: Place, plan: Plan) -> Iterator[tuple[int, PartResult | None]]:
    """Every part's number and what its file tells; None where there is none, or one that is damaged."""
    there = set(output.names("part-"))
    with ThreadPoolExecutor(8) as readers:
        yield from enumerate(
            readers.map(lambda n: read_result(output, plan, n) if part_name(n) in there else None, range(plan.parts))
        )


def _summarise(plan: Plan, output: Place, failed: dict[int, str], *, rows_now: int, seconds: float) -> Summary:
    """Count what is in the output, from the files themselves."""
    labels: Counter[str] = Counter()
    done = rows = bad_rows = 0
    first_error = ""
    missing: list[int] = []
    for number, found in _results(output, plan):
        if found is None:
            missing.append(number)
            continue
        done, rows, bad_rows = done + 1, rows + found.rows, bad_rows + found.bad_rows
        labels.update(found.labels or {})
        first_error = first_error or found.first_error
    problems = list(plan.problems)
    problems += [failed.get(number, f"part {number}: Ray gave it to no worker that ended it") for number in missing]
    if not missing and plan.rows not in (-1, rows):
        problems.append(f"{plan.rows:,} rows were planned and {rows:,} are there: begin anew with --restart")
    order = sorted(labels.items(), key=lambda item: -item[1])
    return Summary(plan.parts, done, rows, bad_rows, dict(order), rows_now, seconds, tuple(problems), first_error)


def _write_summary(output: Place, plan: Plan, summary: Summary) -> None:
    content = {
        "input": plan.input,
        "model": plan.model,
        "model_sha256": plan.model_sha256,
        "whole": summary.is_whole,
        "parts": summary.parts,
        "parts_done": summary.parts_done,
        "rows": summary.rows,
        "bad_rows": summary.bad_rows,
        "labels": summary.labels,
        "problems": list(summary.problems),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    output.write(SUMMARY, text.encode(errors="backslashreplace"))  # what of a path is no UTF-8, as JSON escapes it


def _cause(error: BaseException) -> str:
    """The last line of what Ray says, which is the error itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
