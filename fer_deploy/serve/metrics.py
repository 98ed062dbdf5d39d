"""Counters for Prometheus. Each service has its own registry, so that two services in one process do not mix."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_FACES = (1, 2, 4, 8, 16, 32, 64, 128)

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""The media type of `Metrics.text`."""


class Metrics:
    """Counters and histograms, safe between threads; also the `Observer` of a `Batcher`.

    Args:
        model: the model's name, SHA-256 and precision: the labels of `ferdeploy_model_info`.
        waiting: returns the length of the queue; called whenever metrics are read.
        held_bytes: returns the bytes of bodies in memory.
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
            "Time from a request's head to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._under_way = Gauge("ferdeploy_requests_under_way", "Requests not answered yet.", registry=registry)
        self._refused = Counter("ferdeploy_refused", "Requests refused, by reason.", ["reason"], registry=registry)
        self._faces = Counter("ferdeploy_faces", "Faces read, by label.", ["label"], registry=registry)
        self._bad_pictures = Counter("ferdeploy_bad_pictures", "Pictures that could not be read.", registry=registry)
        self._batch = Histogram(
            "ferdeploy_batch_faces", "Faces per call of the model.", buckets=_FACES, registry=registry
        )
        self._queue_seconds = Histogram(
            "ferdeploy_queue_seconds", "Time of a face in the queue.", buckets=_SECONDS, registry=registry
        )
        self._decode_seconds = Histogram(
            "ferdeploy_decode_seconds", "Time to decode the pictures of a batch.", buckets=_SECONDS, registry=registry
        )
        self._model_seconds = Histogram(
            "ferdeploy_model_seconds", "Time of the model for a batch.", buckets=_SECONDS, registry=registry
        )
        Gauge("ferdeploy_queue_faces", "Faces in the queue.", registry=registry).set_function(waiting)
        Gauge("ferdeploy_held_bytes", "Bytes of request bodies in memory.", registry=registry).set_function(held_bytes)
        Gauge(
            "ferdeploy_model_info", "Always 1; the labels describe the model.", list(model), registry=registry
        ).labels(**model).set(1)

    def waited(self, seconds: float) -> None:
        """Count a face that left the queue after so many seconds."""
        self._queue_seconds.observe(seconds)

    def computed(self, faces: int, decode_seconds: float, model_seconds: float) -> None:
        """Count a batch, and the seconds that it took."""
        self._batch.observe(faces)
        self._decode_seconds.observe(decode_seconds)
        self._model_seconds.observe(model_seconds)

    def began(self) -> None:
        """Count a request whose head has arrived."""
        self._under_way.inc()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            method: one of HTTP's methods, or "other".
            route: the route's pattern, never the path of the request: clients could fill the memory with paths.
            status: the status of the answer.
            seconds: from the request's head to the end of its answer.
        """
        self._under_way.dec()
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a request that was refused, under a short fixed reason."""
        self._refused.labels(reason).inc()

    def read(self, label: str) -> None:
        """Count a face, by its label."""
        self._faces.labels(label).inc()

    def bad_picture(self) -> None:
        """Count a picture that could not be read."""
        self._bad_pictures.inc()

    def text(self) -> bytes:
        """All counters in Prometheus's text format."""
        return generate_latest(self.registry)
