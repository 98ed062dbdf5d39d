from __future__ import annotations

import doctest

import pytest

from fer_deploy.model import names
from fer_deploy.model.names import ModelName, in_precision, parse_shape

FILES = {
    "B.onnx": ModelName("B"),
    "B.fp16.onnx": ModelName("B", precision="fp16"),
    "B+E.rrf.int8.onnx": ModelName("B+E.rrf", precision="int8"),
    "B+B~mirror+E.rrf.fp16.onnx": ModelName("B+B~mirror+E.rrf", precision="fp16"),
    "B.1x48x48.onnx": ModelName("B", (1, 48, 48)),
    "B.nx48x48.fp16.onnx": ModelName("B", (None, 48, 48), "fp16"),
    "int8.onnx": ModelName("int8"),  # a precision only after a dot
    "a.0x48x48.onnx": ModelName("a.0x48x48"),  # no shape: an axis of 0
}


@pytest.mark.parametrize("file", FILES)
def test_names_are_built_and_parsed(file: str) -> None:
    model = FILES[file]
    assert ModelName.parse(f"exports/{file}") == model
    assert model.file_name == file


def test_the_files_of_one_model_share_a_stem() -> None:
    assert ModelName("B+E", (1, 48, 48), "int8").stem == ModelName("B+E", (1, 48, 48)).stem == "B+E.1x48x48"


@pytest.mark.parametrize("text", ["", "48x48", "1x48x48x3", "0x48x48", "-1x48x48", "axbxc", "1x48x48 "])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write 1x48x48 or nx48x48"):
        parse_shape(text)


def test_a_precision_is_named_unless_it_is_full_or_unknown() -> None:
    assert [in_precision("B", precision) for precision in ("fp32", "fp16", "int8", "as given")] == [
        "B", "B.fp16", "B.int8", "B",
    ]  # fmt: skip


def test_the_examples_run() -> None:
    assert doctest.testmod(names).failed == 0
