"""Score models on one split: choose its faces, and put every model's answers in the order of the data's labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fer_deploy.bench.engines import EngineSession, rgb, score
from fer_deploy.bench.peers.process import PeerProcess
from fer_deploy.bench.quality import Quality, measure_quality
from fer_deploy.bench.report import LEFT_OUT, SIDE, Data, digits, label_list
from fer_deploy.bench.subjects import Subject
from fer_deploy.errors import MeasurementError
from fer_deploy.model.session import check_probabilities

if TYPE_CHECKING:
    from fer_deploy.faces.dataset import Dataset, Faces

SYNTHETIC_FACES = 256
"""Drawn faces to time on where the data has none of 48x48."""

TIMED_FACES = 256
"""The most faces of the data's own size to time on, spread evenly over the split."""


@dataclass(frozen=True, eq=False)
class ScoredFaces:
    """The faces to score.

    Attributes:
        data: what the report states about them.
        names: the names of the data's classes.
        faces: the pictures, labels, rows and votes.
        unseen: bool (n,), true for faces that occur in no other split.
    """

    data: Data
    names: tuple[str, ...]
    faces: Faces
    unseen: NDArray[np.bool_]

    @classmethod
    def choose(cls, dataset: Dataset, *, maximum: int | None, seed: int) -> ScoredFaces:
        """The test split, or `maximum` faces of it, drawn by the seed."""
        test = dataset.test
        chosen = np.arange(len(test))
        if maximum is not None and maximum < len(test):
            chosen = np.sort(np.random.default_rng(seed).choice(len(test), maximum, replace=False))
        faces = test.take(chosen)
        unseen = dataset.unseen_test[chosen]
        heights, widths = faces.pictures.sizes.T
        data = Data(
            name=dataset.name,
            sha256=dataset.sha256,
            split=dataset.split_names["test"],
            rows=len(faces),
            rows_in_split=len(test),
            rows_deduplicated=int(unseen.sum()),
            votes=faces.votes is not None,
            labels=digits(faces.labels, of=len(dataset.labels)),
            faces_sha256=faces.images_sha256,
            heights=(int(heights.min()), int(heights.max())),
            widths=(int(widths.min()), int(widths.max())),
        )
        return cls(data, dataset.labels, faces, unseen)

    @property
    def timed_at_own_size(self) -> NDArray[np.uint8] | None:
        """Faces, uint8 (n, h, w), of the data's own size; None where that is 48x48 or varies."""
        if self.faces.pictures.uniform in (None, (SIDE, SIDE)):
            return None
        step = -(-len(self.faces) // TIMED_FACES)
        return self.faces.take(slice(None, None, step)).images

    def check_labels(self, subject: Subject) -> None:
        """Make sure that a model has the data's labels, in any order.

        Raises:
            MeasurementError: it has others; the line begins with LEFT_OUT.
        """
        if set(subject.labels) != set(self.names):
            theirs, ours = label_list(subject.labels), label_list(self.names)
            only = {"peer": "other packages know", "foreign": "adapters know"}.get(subject.kind, "the model has")
            raise MeasurementError(f"{LEFT_OUT}{only} the labels {theirs}; the data has {ours}")

    def score(self, subject: Subject, session: EngineSession | PeerProcess) -> NDArray[np.float32]:
        """A model's probabilities of every face, float32 (n, classes), in the order of the data's labels.

        Every picture is given unchanged: the models resize it themselves, from the original.

        Raises:
            ModelFileError: the model does not return one probability distribution per face.
            MeasurementError: the file or package takes faces of one size only, and the data has others.
        """
        classes = len(self.names)
        probabilities = np.empty((len(self.faces), classes), np.float32)
        for indices, images in self.faces.by_shape():
            probabilities[indices] = score_images(session, images, classes=classes)
        return probabilities[:, [subject.labels.index(name) for name in self.names]]

    def quality(self, probabilities: NDArray[np.float32]) -> Quality:
        """Every measure of these answers, float32 (n, classes)."""
        return measure_quality(probabilities, self.faces.labels, unseen=self.unseen, votes=self.faces.votes)


def score_images(
    session: EngineSession | PeerProcess, images: NDArray[np.uint8], *, classes: int
) -> NDArray[np.float32]:
    """The probabilities of grey faces of one size, uint8 (n, h, w), as float32 (n, classes)."""
    height, width = images.shape[1:]
    if not session.axes.accept(height, width):
        what = "the file takes" if not isinstance(session, PeerProcess) else "other packages are measured on"
        raise MeasurementError(f"{LEFT_OUT}{what} faces of {session.axes.size} only, and the data has {height}x{width}")
    if not isinstance(session, PeerProcess):
        return score(session, images, classes=classes)
    return check_probabilities(session.score(rgb(images)), faces=len(images), classes=classes, source="the model")


def faces_to_time(scored: ScoredFaces | None) -> NDArray[np.uint8]:
    """Faces of 48x48, uint8 (n, 48, 48): the data's, else drawn ones."""
    if scored is not None and scored.faces.pictures.uniform == (SIDE, SIDE):
        return scored.faces.images
    from fer_deploy.faces.synthetic import synthetic_faces

    return synthetic_faces(SYNTHETIC_FACES, seed=0).images
