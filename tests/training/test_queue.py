"""A queue trains runs after those that they depend on, in order or side by side, and reports what became of each."""

from __future__ import annotations

import dataclasses

import pytest

from fer_deploy.recipes import Distillation, load_recipe
from fer_deploy.training import queue
from fer_deploy.training.plan import PlannedRun
from fer_deploy.training.queue import End, QueueResult, ready, run_in_order, run_side_by_side, without_students


def planned(name: str, *teachers: str, start: str = "default") -> PlannedRun:
    distillation = Distillation(teachers=teachers) if teachers else None
    recipe = dataclasses.replace(load_recipe("plain"), name=name, distillation=distillation, initialisation=start)
    return PlannedRun(name, recipe, 0)


PLAN = [
    planned("teacher"),
    planned("student", "teacher~mirror"),
    planned("other"),
    planned("grandchild", "student", "other"),
    planned("heir", start="training/teacher/weights.safetensors"),
]


def names_of(result: QueueResult) -> tuple[list[str], ...]:
    return tuple([run.name for run in runs] for runs in (result.complete, result.failed, result.unfinished))


def test_a_run_is_ready_when_what_it_depends_on_is_neither_waiting_nor_running() -> None:
    assert ready(PLAN, []) is PLAN[0]
    assert ready(PLAN[1:], ["teacher"]) is PLAN[2]
    assert ready(PLAN[1:], []) is PLAN[1]
    assert ready([PLAN[3], PLAN[4]], ["teacher", "student"]) is None
    assert ready([], []) is None


def test_runs_that_name_each_other_do_not_wait_for_ever() -> None:
    circle = [planned("a", "b"), planned("b", "a")]
    assert ready(circle, []) is circle[0]


def test_students_of_an_unfinished_run_are_left_out_with_their_own() -> None:
    assert [run.name for run in without_students(PLAN[1:], "teacher")] == ["other"]
    assert without_students(PLAN, "nobody") == PLAN


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ({}, (["teacher", "student", "other", "grandchild", "heir"], [], [])),
        ({"teacher": "failed"}, (["other"], ["teacher"], ["student", "grandchild", "heir"])),
        ({"other": "failed"}, (["teacher", "student", "heir"], ["other"], ["grandchild"])),
        ({"student": "stopped"}, (["teacher"], [], ["student", "other", "grandchild", "heir"])),
    ],
)
def test_in_order(ends: dict[str, End], expected: tuple[list[str], ...]) -> None:
    result = run_in_order(PLAN, lambda run: ends.get(run.name, "complete"), may_start=lambda: True)
    assert names_of(result) == expected


def test_no_run_starts_when_the_time_is_up() -> None:
    started: list[str] = []

    def train_run(run: PlannedRun) -> End:
        started.append(run.name)
        return "complete"

    result = run_in_order(PLAN, train_run, may_start=lambda: len(started) < 2)
    assert started == ["teacher", "student"]
    assert names_of(result) == (["teacher", "student"], [], ["other", "grandchild", "heir"])


class FakeJob:
    """Ends at its second look, or when it is asked to stop."""

    def __init__(self, end: End) -> None:
        self.looks, self.how, self.asked = 0, end, 0

    def end(self) -> End | None:
        self.looks += 1
        return ("stopped" if self.asked else self.how) if self.looks > 1 or self.asked else None

    def ask_to_stop(self) -> None:
        self.asked += 1


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ({}, (["teacher", "student", "other", "grandchild", "heir"], [], [])),
        ({"teacher": "stopped"}, (["other"], [], ["teacher", "student", "grandchild", "heir"])),
        ({"teacher": "failed"}, (["other"], ["teacher"], ["student", "grandchild", "heir"])),
        ({"student": "failed"}, (["teacher", "other", "heir"], ["student"], ["grandchild"])),
    ],
)
def test_side_by_side(ends: dict[str, End], expected: tuple[list[str], ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more at once than allowed, and never before a teacher has ended."""
    monkeypatch.setattr(queue, "LOOK_SECONDS", 0)
    jobs: dict[str, FakeJob] = {}
    ended: set[str] = set()

    def start(run: PlannedRun) -> FakeJob:
        ended.update(name for name, job in jobs.items() if job.looks > 1)
        assert len(set(jobs) - ended) < 2
        assert set(run.depends_on()) <= ended
        jobs[run.name] = FakeJob(ends.get(run.name, "complete"))
        return jobs[run.name]

    result = run_side_by_side(PLAN, start, at_once=2, may_start=lambda: True, should_stop=lambda: False)
    assert names_of(result) == expected


def test_a_stop_asks_each_running_job_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "LOOK_SECONDS", 0)
    jobs: list[FakeJob] = []

    def start(run: PlannedRun) -> FakeJob:
        jobs.append(FakeJob("complete"))
        return jobs[-1]

    result = run_side_by_side(PLAN, start, at_once=2, may_start=lambda: True, should_stop=lambda: bool(jobs))
    assert [job.asked for job in jobs] == [1, 1]
    assert names_of(result) == ([], [], ["teacher", "student", "other", "grandchild", "heir"])
