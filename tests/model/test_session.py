from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tiny_model import expected_probabilities, tiny_model, write_tiny_model

from fer_deploy.errors import ModelFileError, UnavailableError
from fer_deploy.model.session import open_model, pad_batch, provider_names, start_session


def test_a_model_opens_from_its_path_or_its_bytes(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "a.onnx")
    faces = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3)).astype(np.uint8)
    for model in (open_model(path, threads=1), open_model(path.read_bytes(), threads=1)):
        np.testing.assert_allclose(model(faces), expected_probabilities(faces), atol=1e-4)
        assert model.providers == ("CPUExecutionProvider",)


@pytest.mark.parametrize("source", ["their.onnx", "s3://bucket/their.onnx"])
def test_errors_name_the_source_of_bytes(source: str) -> None:
    with pytest.raises(ModelFileError, match=f"^{source} is not an ONNX file"):
        open_model(b"junk", source=source)
    content = bytearray(tiny_model())
    content[content.index(b"Softmax") : content.index(b"Softmax") + 7] = b"Softmux"
    with pytest.raises(ModelFileError, match=f"^{source}: not an ONNX model that ONNX Runtime can load: "):
        open_model(bytes(content), source=source)


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.onnx")
    with pytest.raises(ModelFileError, match=r"a\.onnx: a named pipe, not a model"):
        open_model(tmp_path / "a.onnx")


def test_a_fixed_batch_is_filled_and_its_padding_is_dropped() -> None:
    model = open_model(tiny_model(shape=(4, 48, 48, 3)), threads=1)
    faces = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3)).astype(np.uint8)
    np.testing.assert_allclose(model(faces), expected_probabilities(faces), atol=1e-4)


def test_padding_repeats_the_last_face() -> None:
    faces = np.arange(3)[:, None]
    assert pad_batch(faces, 5)[:, 0].tolist() == [0, 1, 2, 2, 2]
    assert pad_batch(faces, 3) is faces
    assert pad_batch(faces, None) is faces


def test_providers_go_by_short_long_and_shortened_names(monkeypatch: pytest.MonkeyPatch) -> None:
    available = ["CUDAExecutionProvider", "QNNExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    assert provider_names(["cuda", "QNN", "cpuexecutionprovider"]) == available
    assert provider_names("cuda") == ["CUDAExecutionProvider"]
    assert provider_names(None) == ["CPUExecutionProvider"]
    with pytest.raises(UnavailableError, match="here has no VitisAIExecutionProvider, only CUDA"):
        provider_names(["VitisAIExecutionProvider"])
    with pytest.raises(UnavailableError, match="no provider named"):
        provider_names([])


def test_settings_reach_the_session() -> None:
    session = start_session(tiny_model(), settings={"session.disable_prepacking": "1"})
    assert session.get_session_options().get_session_config_entry("session.disable_prepacking") == "1"
