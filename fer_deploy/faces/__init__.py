"""Data sets of faces with any labels: readers of every common layout, splits, FER+ votes, and synthetic faces."""

from __future__ import annotations

from fer_deploy.faces.dataset import OFFICIAL_COUNTS, SPLITS, Dataset, Faces
from fer_deploy.faces.load import load_dataset
from fer_deploy.faces.request import DataRequest, SplitRequest
from fer_deploy.faces.store import Pictures

__all__ = ["OFFICIAL_COUNTS", "SPLITS", "DataRequest", "Dataset", "Faces", "Pictures", "SplitRequest", "load_dataset"]
