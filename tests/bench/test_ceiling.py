"""The page on what limits accuracy: votes are counted correctly, and its tables agree with its record."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fer_deploy.emotions import EMOTIONS
from fer_deploy.faces import Faces
from fer_deploy.faces.dataset import VOTE_NAMES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ceiling() -> ModuleType:
    specification = importlib.util.spec_from_file_location("ceiling", ROOT / "benchmarks" / "ceiling.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def voted_faces(labels: list[str], votes: list[dict[str, int]]) -> Faces:
    counted = np.array([[each.get(name, 0) for name in VOTE_NAMES] for each in votes], np.uint8)
    numbers = np.array([EMOTIONS.index(label) for label in labels], np.int64)
    return Faces(np.zeros((len(labels), 48, 48), np.uint8), numbers, np.arange(len(labels)), counted)


def test_labels_votes_and_model_are_compared_by_the_voters_agreement(ceiling: ModuleType) -> None:
    faces = voted_faces(
        ["happy", "happy", "sad", "fear", "angry"],
        [
            {"happiness": 10},
            {"neutral": 9, "happiness": 1},
            {"sadness": 6, "neutral": 4},
            {"contempt": 8, "fear": 2},  # none of the seven: no label and no answer agrees with it
            {"anger": 4, "sadness": 3, "fear": 3},
        ],
    )
    probabilities = np.eye(7, dtype=np.float32)[
        [EMOTIONS.index(name) for name in ("happy", "neutral", "sad", "fear", "sad")]
    ]
    rows = ceiling.noise_rows(faces, probabilities)
    assert [row["votes"] for row in rows] == ["90% or more", "70% to 90%", "50% to 70%", "under 50%"]
    assert [row["faces"] for row in rows] == [2, 1, 1, 1]
    assert [row["label_is_vote"] for row in rows] == [0.5, 0, 1, 1]
    assert [row["model_is_label"] for row in rows] == [0.5, 1, 1, 0]
    assert [row["model_is_vote"] for row in rows] == [1, 0, 1, 0]


def test_near_copies_are_found_whatever_their_brightness_and_side(ceiling: ModuleType) -> None:
    learned = np.random.default_rng(0).integers(40, 200, (6, 48, 48), dtype=np.uint8)
    faces = np.stack(
        [
            learned[3],
            learned[1][:, ::-1],  # mirrored
            (learned[4] // 2 + 20).astype(np.uint8),  # paler
            np.random.default_rng(1).integers(40, 200, (48, 48), dtype=np.uint8),  # similar to no other
        ]
    )
    alike, which = ceiling.likeness(faces, learned)
    assert which[:3].tolist() == [3, 1, 4]
    assert alike[:2] == pytest.approx(1, abs=1e-5)
    assert 0.99 < alike[2] < 1
    assert alike[3] < 0.3

    known = Faces(learned, np.array([0, 1, 2, 3, 4, 5], np.int64), np.arange(6))
    validation = Faces(faces, np.array([3, 6, 4, 0], np.int64), np.arange(4))
    probabilities = np.eye(7, dtype=np.float32)[[3, 6, 1, 0]]
    assert ceiling.copy_rows(validation, known, probabilities) == [
        {
            "likeness": "0.95 or more",
            "faces": 3,
            "copy_is_label": pytest.approx(2 / 3),
            "model_is_label": pytest.approx(2 / 3),
        },
        {"likeness": "under 0.8", "faces": 1, "copy_is_label": 0.0, "model_is_label": 1.0},
    ]


def test_the_page_shows_what_was_measured(ceiling: ModuleType, tmp_path: Path) -> None:
    page = ROOT / "training" / "ceiling.md"
    result = json.loads((ROOT / "training" / "ceiling.json").read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8")
    assert ceiling.filled_page(text, result) == text
    assert ceiling.filled_page(text.replace("%", ""), result).count("%") > 30
    assert sum(row["faces"] for row in result["noise"]) == 3589
    assert sum(row["faces"] for row in result["copies"]) == 3589
    assert {row["run"] for row in result["capacity"]} <= {path.parent.name for path in ROOT.glob("training/*/run.json")}
    ceiling.draw(result, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes()[:8] == (ROOT / "training" / "ceiling.png").read_bytes()[:8]
