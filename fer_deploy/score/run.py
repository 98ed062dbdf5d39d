"""A run from its input to its summary: plan, start Ray, compute the parts that have no file yet, and count."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from fer_deploy.errors import DataError, ModelFileError
from fer_deploy.files import read_file, shown
from fer_deploy.model.contract import MAXIMUM_BYTES, ModelContract
from fer_deploy.model.names import default_model
from fer_deploy.model.session import open_model
from fer_deploy.score.options import ScoreJob
from fer_deploy.score.part import PartResult, read_result
from fer_deploy.score.places import Place
from fer_deploy.score.plan import (
    SUMMARY,
    ScorePlan,
    check_same,
    find_kind,
    make_plan,
    open_plan,
    part_name,
    remove_leftovers,
    remove_run,
)
from fer_deploy.score.watcher import ScoreWatcher
from fer_deploy.score.workers import running_ray, score_parts


@dataclass(frozen=True)
class ScoreSummary:
    """The outcome of a run.

    Attributes:
        parts: parts of the plan.
        parts_done: parts that have a file.
        rows: rows in these files.
        bad_rows: rows with an error.
        labels: how many of the other rows have each label, the most frequent first.
        rows_now: rows that this run computed; the others existed already.
        seconds: how long it took, without the start of Ray.
        problems: one line for each thing that keeps the output from being complete.
        first_error: the error of a bad row, as an example.
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
        """Whether every row of the input is in the output."""
        return self.parts_done == self.parts and not self.problems


def run(job: ScoreJob, *, watcher: ScoreWatcher | None = None) -> ScoreSummary:
    """Score a data set. Parts that an earlier run of the same job has finished are kept.

    Raises:
        DataError: the input cannot be read at all, or the output holds another run.
        ModelFileError: the model cannot be used.
        UnavailableError: there is no Ray, or no cluster at the address, or its workers cannot start.
    """
    watcher = watcher or ScoreWatcher()
    path = str(default_model() if job.model is None else job.model)
    model, contract = _read_model(path, job)
    plan = _open_or_make_plan(job, contract, model=os.path.basename(path))  # noqa: PTH119
    output = Place(plan.output)
    pending = [number for number, result in _results(output, plan) if result is None]
    watcher.planned(plan, done=plan.parts - len(pending))
    started = time.monotonic()
    failed: dict[int, str] = {}
    rows_now = 0
    if pending:
        with running_ray(job.workers, watcher.message):
            started = time.monotonic()
            for result in score_parts(plan, model, pending, options=job.workers, message=watcher.message):
                if result.problem:
                    failed[result.number] = result.problem
                elif result.seconds:
                    rows_now += result.rows
                watcher.part(result)
    summary = _summarise(plan, output, failed, rows_now=rows_now, seconds=time.monotonic() - started)
    _write_summary(output, plan, summary)
    return summary


def _read_model(path: str, job: ScoreJob) -> tuple[bytes, ModelContract]:
    """The model's bytes and contract. It is checked here once, so that a bad model stops the run before Ray starts."""
    model = read_file(path, maximum_bytes=MAXIMUM_BYTES, what="model", error=ModelFileError)
    # On a cluster, the providers are those of its machines, which this one need not have.
    providers = None if job.workers.address else list(job.workers.providers)
    return model, open_model(model, source=shown(path), threads=1, providers=providers).contract


def _open_or_make_plan(job: ScoreJob, contract: ModelContract, *, model: str) -> ScorePlan:
    """The plan in the output, if it is the plan of this job; else a new one."""
    source, output = Place.of(job.input), Place.of(job.output)
    if source.contains(output):
        raise DataError(f"{output} is inside the input: choose a folder beside it")
    if output.kind() in ("file", "other"):
        raise DataError(f"{output} is not a folder")
    if job.restart:
        remove_run(output)
    plan = open_plan(output)
    if plan is not None:
        wanted: dict[str, Any] = {"input": source.public_address, "model_sha256": contract.sha256}
        wanted |= {"options": job.options} | ({"kind": job.kind} if job.kind else {})
        check_same(plan, **wanted)
        remove_leftovers(output)
        return replace(plan, input=source.address)
    if output.names("part-"):
        raise DataError(f"{output} holds part- files but no plan: choose another folder, or start over with --restart")
    kind = find_kind(source, wanted=job.kind)
    return make_plan(
        source,
        output,
        kind=kind,
        options=job.options,
        model=model,
        model_sha256=contract.sha256,
        labels=contract.labels,
    )


def _results(output: Place, plan: ScorePlan) -> Iterator[tuple[int, PartResult | None]]:
    """The number of every part and what its file records; None without a file, or with a damaged one."""
    files = set(output.names("part-"))
    with ThreadPoolExecutor(8) as readers:
        yield from enumerate(
            readers.map(lambda n: read_result(output, plan, n) if part_name(n) in files else None, range(plan.parts))
        )


def _summarise(
    plan: ScorePlan, output: Place, failed: dict[int, str], *, rows_now: int, seconds: float
) -> ScoreSummary:
    """Count what is in the output, from the files themselves."""
    labels: Counter[str] = Counter()
    done = rows = bad_rows = 0
    first_error = ""
    missing: list[int] = []
    for number, result in _results(output, plan):
        if result is None:
            missing.append(number)
            continue
        done, rows, bad_rows = done + 1, rows + result.rows, bad_rows + result.bad_rows
        labels.update(result.labels or {})
        first_error = first_error or result.first_error
    problems = list(plan.problems)
    unfinished = "part {}: not completed: every worker that received it failed"
    problems += [failed.get(number, unfinished.format(number)) for number in missing]
    if not missing and plan.rows not in (-1, rows):
        problems.append(f"the plan has {plan.rows:,} rows and the output has {rows:,}: start over with --restart")
    return ScoreSummary(
        parts=plan.parts,
        parts_done=done,
        rows=rows,
        bad_rows=bad_rows,
        labels=dict(sorted(labels.items(), key=lambda item: -item[1])),
        rows_now=rows_now,
        seconds=seconds,
        problems=tuple(problems),
        first_error=first_error,
    )


def _write_summary(output: Place, plan: ScorePlan, summary: ScoreSummary) -> None:
    content = {
        "input": Place(plan.input).public_address,
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
    output.write(SUMMARY, text.encode(errors="backslashreplace"))  # bytes of a path that are not UTF-8, escaped
