"""What runs, exports and benchmarks record: run.json, weights, manifest.json, report.json, and recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import ROOT, changed_bytes, changed_json, json_bytes, refuses_cleanly, search
from hypothesis import strategies as st
from safetensors.torch import save

from fer_deploy.bench.report import load_report
from fer_deploy.export.manifest import read_manifest
from fer_deploy.recipes import apply_settings, load_recipe, parse_recipe, recipe_from_dict, recipe_to_dict
from fer_deploy.recipes.write import recipe_to_toml
from fer_deploy.training.record import read_record
from fer_deploy.training.run import Run, load_half_precision

RUNS = [json.loads((ROOT / "training" / name / "run.json").read_text()) for name in ("lite-mini-taught", "B", "plain")]
RECIPES = [load_recipe(name) for name in ("B", "lite-mini-taught", "plain")]


def test_run_records(tmp_path: Path) -> None:
    folder = tmp_path / "training" / "run"
    folder.mkdir(parents=True)

    def check(record: Any) -> None:
        (folder / "run.json").write_bytes(json_bytes(record))
        refuses_cleanly(lambda: read_record(folder / "run.json"))

        def open_run() -> None:
            run = Run.open(folder, partial=True)
            assert isinstance(run.weights_sha256, str)
            assert 0 < run.temperature < 1e6
            assert 0 <= run.validation_accuracy <= 1

        refuses_cleanly(open_run)

    search(check, record=changed_json(RUNS))


def test_run_records_as_text(tmp_path: Path) -> None:
    path = tmp_path / "run.json"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        refuses_cleanly(lambda: read_record(path))

    search(check, content=changed_bytes([json.dumps(run).encode() for run in RUNS], [b"NaN", b"[" * 5000, b"1e999"]))


def test_weights(tmp_path: Path) -> None:
    original = save({"a": torch.zeros(3, 2, dtype=torch.float16), "b": torch.ones(4, dtype=torch.float16)})
    path = tmp_path / "weights.safetensors"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        refuses_cleanly(lambda: load_half_precision(path))

    search(check, content=changed_bytes([original], [b'"F16"', b'"F64"', b"18446744073709551615"]))


@pytest.mark.parametrize("as_text", [False, True], ids=["values", "text"])
def test_manifests(tmp_path: Path, as_text: bool) -> None:
    manifest = json.loads((ROOT / "exports" / "manifest.json").read_text())
    path = tmp_path / "manifest.json"

    def check(content: Any) -> None:
        path.write_bytes(content if as_text else json_bytes(content))
        refuses_cleanly(lambda: read_manifest(tmp_path))

    search(check, content=changed_bytes([json_bytes(manifest)[:5000]]) if as_text else changed_json([manifest]))


def test_reports(tmp_path: Path) -> None:
    report = json.loads((ROOT / "benchmarks" / "report.json").read_text())
    report["rows"] = report["rows"][:2]
    path = tmp_path / "report.json"

    def check(document: Any) -> None:
        path.write_bytes(json_bytes(document))
        refuses_cleanly(lambda: load_report(path))

    search(check, document=changed_json([report]))


def test_recipes() -> None:
    def check(content: Any) -> None:
        def read() -> None:
            recipe = recipe_from_dict(content, source="fuzzed.toml")
            assert recipe_from_dict(recipe_to_dict(recipe), source="again") == recipe
            assert parse_recipe(recipe_to_toml(recipe), source="again") == recipe

        refuses_cleanly(read)

    search(check, content=changed_json([recipe_to_dict(recipe) for recipe in RECIPES]))


def test_recipes_as_text() -> None:
    def check(content: bytes) -> None:
        Path("my.toml").write_bytes(content)
        refuses_cleanly(lambda: load_recipe("my.toml"))

    words = [b"[[stage]]\n", b"\xff\xfe", b"nan", b"=", b"[" * 900, b'"""', b"1979-05-27"]
    search(check, content=changed_bytes([recipe_to_toml(recipe).encode() for recipe in RECIPES], words))


def test_settings() -> None:
    keys = ["stage", "0", "*", "9", "optimiser", "lr", "network", "options", "distillation", "teachers", "name"]
    values = [".", "=", "1e-3", "nan", "[", "{", '"', "\n", "-1", "9" * 5000]
    words = st.sampled_from(keys + values)
    texts = st.one_of(st.text(max_size=30), st.lists(words, max_size=10).map("".join))

    def check(changes: list[str]) -> None:
        refuses_cleanly(lambda: apply_settings(RECIPES[0], changes))

    search(check, changes=st.lists(texts, min_size=1, max_size=2))
