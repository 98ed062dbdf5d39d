"""Data sets of faces for training and evaluation: FER2013 in every common layout, FER+ votes, and drawn faces."""

from __future__ import annotations

from fer_deploy.faces.dataset import OFFICIAL_COUNTS, SPLITS, Dataset, Faces
from fer_deploy.faces.load import load_dataset

__all__ = ["OFFICIAL_COUNTS", "SPLITS", "Dataset", "Faces", "load_dataset"]
