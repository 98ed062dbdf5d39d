"""Each engine on a real file: the same answers everywhere, and no silent fallback."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from bench_files import tiny_model

from fer_deploy.bench.engines import ENGINES, FixedAxes, applies, check_engine, open_session, rgb, score
from fer_deploy.bench.engines.onnx_runtime import DeviceSession, check_provider
from fer_deploy.bench.subjects import Subject, find_subjects
from fer_deploy.errors import MeasurementError, UnavailableError

RANDOM = np.random.default_rng(0)
FACES = np.clip(RANDOM.normal(RANDOM.uniform(20, 235, (37, 1, 1)), 20, (37, 48, 48)), 0, 255).astype(np.uint8)


def subject(workspace: Path, name: str) -> Subject:
    (found,) = find_subjects([name], workspace=workspace)
    return found


def answers(workspace: Path, name: str, engine: str, **options: int) -> np.ndarray:
    return score(open_session(subject(workspace, name), engine, threads=1), FACES, **options)


def test_onnx_runtime_answers_the_file(workspace: Path) -> None:
    from fer_deploy import Recognizer

    probabilities = answers(workspace, "one", "ort-cpu", batch=8)
    expected = Recognizer(workspace / "exports" / "one.onnx").probabilities(rgb(FACES))
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert len(set(probabilities.argmax(axis=1))) > 1


def test_openvino_agrees_with_onnx_runtime(workspace: Path) -> None:
    pytest.importorskip("openvino")
    session = open_session(subject(workspace, "one"), "openvino-cpu", threads=1)
    assert session.provider == "openvino CPU"
    np.testing.assert_allclose(score(session, FACES), answers(workspace, "one", "ort-cpu"), atol=1e-5)


def test_torch_agrees_with_the_file(trained_workspace: Path) -> None:
    session = open_session(subject(trained_workspace, "small"), "torch-cpu", threads=1)
    assert session.provider == "torch cpu"
    torch_answers = score(session, FACES)
    np.testing.assert_allclose(torch_answers, answers(trained_workspace, "small", "ort-cpu"), atol=1e-5)
    assert len(set(torch_answers.argmax(axis=1))) > 1


def test_torch_refuses_runs_that_changed_since_the_export(trained_workspace: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained_workspace, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "exports" / "small.onnx"
    import onnx

    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.key == "weights_sha256":
            entry.value = f'["{"0" * 64}"]'
    onnx.save(model, path)
    with pytest.raises(MeasurementError, match=r"other weights than small\.onnx"):
        open_session(subject(tmp_path, "small"), "torch-cpu", threads=1)


def test_torch_needs_the_runs(workspace: Path) -> None:
    with pytest.raises(MeasurementError, match="training/ folder"):
        open_session(subject(workspace, "one"), "torch-cpu", threads=1)


def test_a_run_without_a_file_names_the_export_command(trained_workspace: Path) -> None:
    bare = Subject(name="small", kind="run", precision="fp32", runs=(trained_workspace / "training" / "small",))
    with pytest.raises(MeasurementError, match="ferdeploy export small"):
        open_session(bare, "ort-cpu", threads=1)
    assert score(open_session(bare, "torch-cpu", threads=1), FACES).shape == (37, 7)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_an_absent_device_is_an_error(trained_workspace: Path, device: str) -> None:
    import torch

    if (torch.cuda if device == "cuda" else torch.backends.mps).is_available():
        pytest.skip(f"{device} is here")
    with pytest.raises(UnavailableError, match="absent"):
        open_session(subject(trained_workspace, "small"), f"torch-{device}", threads=1)


def test_absent_packages_name_their_installation(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnavailableError, match=r"fer-deploy\[bench\]"):
        open_session(subject(workspace, "one"), "openvino-cpu", threads=1)
    with pytest.raises(UnavailableError, match=r"fer-deploy\[train\]"):
        open_session(subject(workspace, "one"), "torch-cpu", threads=1)


def test_an_absent_provider_is_an_error(workspace: Path) -> None:
    import onnxruntime

    if "QNNExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("QNN is here")
    with pytest.raises(UnavailableError, match="here has no qnn, only "):
        open_session(subject(workspace, "one"), "ort-qnn", threads=1)


def test_a_real_silent_fallback_is_an_error(workspace: Path) -> None:
    """ONNX Runtime's usual wheel offers a provider that computes nothing by itself: everything falls to the CPU."""
    import onnxruntime

    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no provider that falls back")
    with pytest.raises(MeasurementError, match="silent fallback"):
        open_session(subject(workspace, "one"), "ort-azure", threads=1)


class FakeSession:
    """What check_provider asks of a session."""

    def __init__(self, providers: list[str], nodes: dict[str, int] | None) -> None:
        self._providers = providers
        if nodes is not None:
            parts = [
                type("Part", (), {"ep_name": name, "get_nodes": lambda _, n=n: [0] * n})() for name, n in nodes.items()
            ]
            self.get_provider_graph_assignment_info = lambda: parts

    def get_providers(self) -> list[str]:
        return self._providers


@pytest.mark.parametrize(
    ("providers", "nodes", "outcome"),
    [
        (["CUDAExecutionProvider", "CPUExecutionProvider"], {"CUDAExecutionProvider": 5}, None),
        (
            ["CUDAExecutionProvider", "CPUExecutionProvider"],
            {"CUDAExecutionProvider": 95, "CPUExecutionProvider": 5},
            "5 of 100 nodes on the CPU",
        ),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], {"CPUExecutionProvider": 5}, MeasurementError),
        (["CPUExecutionProvider"], {"CPUExecutionProvider": 5}, MeasurementError),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], None, None),  # an onnxruntime that cannot tell
    ],
)
def test_fallback(providers: list[str], nodes: dict[str, int] | None, outcome: object) -> None:
    session = FakeSession(providers, nodes)
    if outcome is MeasurementError:
        with pytest.raises(MeasurementError, match="silent fallback"):
            check_provider(session, "CUDAExecutionProvider")
    else:
        assert check_provider(session, "CUDAExecutionProvider") == outcome


def test_device_memory_is_bound_not_copied_per_run(workspace: Path) -> None:
    """The path that devices use, on the one device that every ONNX Runtime has."""
    import onnxruntime

    path = workspace / "exports" / "one.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    bound = DeviceSession(session, "CPUExecutionProvider", note=None, axes=FixedAxes())
    np.testing.assert_allclose(score(bound, FACES), answers(workspace, "one", "ort-cpu"), atol=1e-6)
    bound.synchronise()


def test_a_fixed_batch_is_padded(workspace: Path) -> None:
    path = workspace / "exports" / "fixed.onnx"
    path.write_bytes(tiny_model(seed=1, name="fixed", batch=8))
    session = open_session(subject(workspace, "fixed"), "ort-cpu", threads=1)
    assert session.fixed_batch == 8
    np.testing.assert_allclose(score(session, FACES), answers(workspace, "one", "ort-cpu"), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "size", "accepted"),
    [
        ([None, None, None, 3], "any x any", True),
        ([None, 48, 48, 3], "48x48", True),
        ([1, 48, None, 3], "48 x any", True),
        ([1, 224, 224, 3], "224x224", False),
        ([1, None, 96, 3], "any x 96", False),
    ],
)
def test_the_sizes_that_a_file_takes(shape: list[int | None], size: str, accepted: bool) -> None:
    axes = FixedAxes.of(shape)
    assert (axes.batch, axes.size, axes.accept(48, 48)) == (shape[0], size, accepted)


def test_a_refused_file_keeps_its_reason(workspace: Path) -> None:
    (workspace / "exports" / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(MeasurementError, match=r"bad\.onnx"):
        open_session(subject(workspace, "bad"), "ort-cpu", threads=1)


def test_names_of_engines() -> None:
    for name in (*ENGINES, "ort-qnn"):
        check_engine(name)
    for name in ("pytorch", "", "ort-", "ort-\x1b", "ort-a b", "ort-" + "x" * 100, "peer"):
        with pytest.raises(UnavailableError, match="torch-cpu"):
            check_engine(name)


@pytest.mark.parametrize(
    ("kind", "precision", "engine", "expected"),
    [
        ("file", "fp32", "torch-cpu", True),
        ("file", "int8", "torch-cpu", False),
        ("file", "int8", "ort-cpu", True),
        ("foreign", "as given", "torch-cpu", False),
        ("run", "fp32", "torch-cuda", True),
    ],
)
def test_pairs_that_make_sense(kind: str, precision: str, engine: str, expected: bool) -> None:
    assert applies(Subject(name="x", kind=kind, precision=precision), engine) == expected
