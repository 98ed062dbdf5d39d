"""What the service tells Prometheus. Each service has a registry of its own, so that two in one process do not mix."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_FACES = (1, 2, 4, 8, 16, 32, 64, 128)

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""The text format that `Metrics.text` is in."""


class Metrics:
    """Counters and histograms, safe between threads; also the `Observer` of a `Batcher`.

    Args:
        model: the model's name, SHA-256 and precision, told as labels of `ferdeploy_model_info`.
        waiting: gives the length of the queue, asked when metrics are read.
        held_bytes: gives the bytes of bodies that are held.
    """

    def __init__(self, model: dict[str, str], *, waiting: Callable[[], float], held_bytes: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        registry = self.registry
        self._requests = Counter(
            "ferdeploy_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "ferdeploy_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._under_way = Gauge("ferdeploy_requests_under_way", "Requests not answered yet.", registry=registry)
        self._refused = Counter(
            "ferdeploy_refused", "Requests that were refused, by reason.", ["reason"], registry=registry
        )
        self._faces = Counter("ferdeploy_faces", "Faces read, by label.", ["label"], registry=registry)
        self._bad_pictures = Counter("ferdeploy_bad_pictures", "Pictures that could not be read.", registry=registry)
        self._batch = Histogram(
            "ferdeploy_batch_faces", "Faces to a call of the model.", buckets=_FACES, registry=registry
        )
        self._queue_seconds = Histogram(
            "ferdeploy_queue_seconds", "A face's wait in the queue.", buckets=_SECONDS, registry=registry
        )
        self._decode_seconds = Histogram(
            "ferdeploy_decode_seconds", "Decoding a batch's pictures.", buckets=_SECONDS, registry=registry
        )
        self._model_seconds = Histogram(
            "ferdeploy_model_seconds", "The model's time for a batch.", buckets=_SECONDS, registry=registry
        )
        Gauge("ferdeploy_queue_faces", "Faces that wait.", registry=registry).set_function(waiting)
        Gauge("ferdeploy_held_bytes", "Bytes of bodies held.", registry=registry).set_function(held_bytes)
        Gauge("ferdeploy_model_info", "1; its labels tell the model.", list(model), registry=registry).labels(
            **model
        ).set(1)

    def waited(self, seconds: float) -> None:
        """A face left the queue."""
        self._queue_seconds.observe(seconds)

    def computed(self, faces: int, decode_seconds: float, model_seconds: float) -> None:
        """A batch is done."""
        self._batch.observe(faces)
        self._decode_seconds.observe(decode_seconds)
        self._model_seconds.observe(model_seconds)

    def began(self) -> None:
        """A request's head is there."""
        self._under_way.inc()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered.

        Args:
            method: one of HTTP's methods; another should be told as "other".
            route: the route's pattern, never the path that was asked for, or anybody could fill the memory.
            status: the answer's.
            seconds: from its head to the end of its answer.
        """
        self._under_way.dec()
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """A request was refused: the queue is full, too large, too late."""
        self._refused.labels(reason).inc()

    def read(self, label: str) -> None:
        """A face was read."""
        self._faces.labels(label).inc()

    def bad_picture(self) -> None:
        """A picture could not be read."""
        self._bad_pictures.inc()

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)
