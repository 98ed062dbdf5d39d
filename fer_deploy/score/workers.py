"""The Ray side of a run: start Ray or connect to it, hand part numbers to workers, and pass their results on."""

from __future__ import annotations

import importlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from ipaddress import ip_address
from typing import Any

import numpy as np

from fer_deploy.errors import FerDeployError, UnavailableError, install, one_line
from fer_deploy.machine import available_cores
from fer_deploy.recognizer import Recognizer
from fer_deploy.score.options import WorkerOptions
from fer_deploy.score.part import PartResult, deadline, score_part
from fer_deploy.score.places import Place
from fer_deploy.score.plan import ScorePlan

_MOST_TASKS = 2000
"""Tasks that Ray Data gets at most. With more parts than this, a task takes several."""

_OBJECT_STORE_BYTES = 256 * 2**20
"""Shared memory that Ray reserves on this machine. Only part numbers and the model pass through it."""


_PRIVATE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # with it, Ray uses the machine's address in the network
    "RAY_AUTH_MODE": "token",
}
"""Settings of a Ray on this machine: it listens on 127.0.0.1, and every call needs a token."""

_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}


@contextmanager
def running_ray(options: WorkerOptions, message: Callable[[str], None]) -> Iterator[None]:
    """Start Ray on this machine, or connect to a cluster, for the block. A Ray that the caller started is used.

    Raises:
        UnavailableError: Ray is not installed or does not start, or there is no cluster at the address.
    """
    started_here = _start(options, message)
    try:
        yield
    finally:
        if started_here:
            import ray

            ray.shutdown()


def score_parts(
    plan: ScorePlan, model: bytes, pending: Sequence[int], *, options: WorkerOptions, message: Callable[[str], None]
) -> Iterator[PartResult]:
    """Compute parts in worker processes. Ray must be running.

    Args:
        plan: what to score.
        model: the bytes of the ONNX file.
        pending: numbers of the parts to compute.
        options: how many workers, and what each reserves.
        message: is called with a line if Ray gives up.

    Yields:
        Results, as parts are finished; none for a part whose workers all died.

    Raises:
        UnavailableError: no machine has room for a worker, or the workers cannot start.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.exceptions import RayError

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # importing it sets it to INFO
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # a part that fails must not stop the others
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    workers, takes_gpu = plan_workers(options, [node["Resources"] for node in nodes if node["Alive"]], len(pending))
    rows = [{"number": number} for number in pending]
    try:
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_TASKS)).map_batches(
            _Scorer,
            batch_size=1,
            compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_cpus=options.threads,
            num_gpus=1 if takes_gpu else 0,
            fn_constructor_kwargs={"plan": plan, "model": ray.put(model), "options": options},
        )
        for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"):
            for text in batch["result"]:
                yield PartResult(**json.loads(str(text)))
    except RayError as error:
        message(f"Ray stopped: {_last_line(error)}")
    except Exception as error:
        raise UnavailableError(f"the workers cannot start: {_last_line(error)}") from error


def plan_workers(options: WorkerOptions, machines: Sequence[Mapping[str, float]], parts: int) -> tuple[int, bool]:
    """How many workers to start, and whether each reserves a GPU.

    Never more workers than fit: Ray would wait for a machine that has room for the others to join.

    Args:
        options: the number that is wanted, and what each worker reserves.
        machines: for each machine its resources as Ray counts them, such as `{"CPU": 8.0, "GPU": 1.0}`.
        parts: parts to compute; more workers than parts would idle.

    Raises:
        UnavailableError: no machine has room for a single worker.
    """
    # On this machine, a provider that needs no GPU of Ray's counting (CoreML, for example) reserves none.
    takes_gpu = options.providers[0] != "cpu" and (
        bool(options.address) or any(machine.get("GPU") for machine in machines)
    )
    room = 0
    for machine in machines:
        by_cores = int(machine.get("CPU", 0)) // options.threads
        room += min(by_cores, int(machine.get("GPU", 0))) if takes_gpu else by_cores
    if not room:
        needs = f"{options.threads} core{'s' * (options.threads > 1)}" + " and a GPU" * takes_gpu
        raise UnavailableError(f"a worker needs {needs}, and Ray has no such machine: see --threads and --provider")
    return min(options.workers or room, room, parts), takes_gpu


class _Scorer:
    """A worker: a Ray actor that lives as long as the run."""

    def __init__(self, plan: ScorePlan, model: Any, options: WorkerOptions) -> None:
        import ray

        content: bytes = ray.get(model) if isinstance(model, ray.ObjectRef) else model
        self._plan = plan
        self._parts = plan.list_parts()
        self._source = plan.source()
        self._output = Place(plan.output)
        self._seconds = 60 * options.part_minutes
        self._recognizer = Recognizer(
            content, threads=options.threads, providers=list(options.providers), source=plan.model
        )

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[str]]:
        """Score the parts with these numbers; one result each, as JSON."""
        return {"result": [json.dumps(asdict(self._score(int(number)))) for number in batch["number"]]}

    def _score(self, number: int) -> PartResult:
        part = self._parts[number]
        try:
            with deadline(self._output, number, seconds=self._seconds):
                return score_part(self._recognizer, self._plan, self._source, part, number=number, output=self._output)
        except FerDeployError as error:
            return PartResult(number, problem=str(error))
        except Exception as error:  # a problem of this part: the others are still computed
            return PartResult(number, problem=f"part {number}: {type(error).__name__}: {one_line(error, limit=300)}")


def _start(options: WorkerOptions, message: Callable[[str], None]) -> bool:
    """Start Ray or connect to a cluster; False if the caller's program has done so already."""
    environment = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    for name, value in (environment | {"RAY_USAGE_STATS_ENABLED": "0"}).items():
        os.environ.setdefault(name, value)
    if not options.address:
        os.environ.update(_PRIVATE)  # Ray reads some of it while it is imported
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UnavailableError(f"{error.name} is not installed: {install('score')}") from error
    if ray.is_initialized():
        return False
    if [int(number) for number in ray.__version__.split(".")[:2]] < [2, 60]:
        raise UnavailableError(f"Ray {ray.__version__} is too old: pip install 'ray[data]>=2.60'")
    logging.getLogger("ray").setLevel(logging.ERROR)
    address = options.address
    message(f"connecting to Ray at {address}" if address else "starting Ray on this machine")
    try:
        with _silenced_stderr():
            if address:
                ray.init(address=address, **_QUIET)
            else:
                _start_here(options)
    except UnavailableError:
        raise
    except Exception as error:  # Ray raises any class of error here
        if not address:
            raise UnavailableError(f"Ray does not start: {_last_line(error)}") from error
        remedy = "check that it runs, and that RAY_AUTH_MODE and the token here are the cluster's"
        raise UnavailableError(f"no Ray cluster at {address}: {_last_line(error)}: {remedy}") from error
    return True


def _start_here(options: WorkerOptions) -> None:
    """Start a Ray that listens on the loopback interface only and requires a token that only this run knows.

    Anyone who can send tasks to Ray can run any program as this user.
    """
    import ray

    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    with suppress(ImportError, AttributeError):
        loader: Any = importlib.import_module("ray._raylet").AuthenticationTokenLoader
        loader.instance().reset_cache()  # it may hold the token of an earlier run
    ray.init(
        address="local",  # even if RAY_ADDRESS names a cluster
        num_cpus=max((options.workers or 1) * options.threads, available_cores()),
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        **_QUIET,
    )
    host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    if not ip_address(host).is_loopback:
        ray.shutdown()
        raise UnavailableError(
            f"Ray listens on {host}, where other machines can reach it: import ray after fer_deploy.score, or start "
            "Ray yourself"
        )


@contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Keep Ray's C++ start-up messages off the terminal. They bypass Python; Ray's log files have them too."""
    try:
        kept = os.dup(2)
    except OSError:  # stderr is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _last_line(error: BaseException) -> str:
    """The last line of Ray's message, which is the error itself; the lines before are a traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1] if lines else error, limit=300)
