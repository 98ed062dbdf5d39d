"""ONNX files: the reader of protobuf, the contract, and what a contract says of its file."""

from __future__ import annotations

from harness import JSON_VALUES, changed_bytes, json_bytes, refuses_cleanly, search
from hypothesis import strategies as st
from tiny_model import tiny_model

from fer_deploy.errors import printable
from fer_deploy.model.contract import ModelContract, check_model_bytes
from fer_deploy.model.names import ModelName

METADATA = {
    "name": "B+E",
    "members": '["B", "E"]',
    "weights": "[0.5, 0.5]",
    "fusion": "wap",
    "precision": "fp32",
    "gflops": "0.04642",
    "accuracy": "0.69",
    "temperatures": "[1.1, 1.2]",
    "adaptive_temperature": "[1.0, 0.1]",
    "weights_sha256": '["aa", "bb"]',
}
PROPERTIES = [name for name, member in vars(ModelContract).items() if isinstance(member, property)]


def read_all(content: bytes) -> None:
    def read() -> None:
        contract = check_model_bytes(content, source="fuzzed.onnx")
        for name in PROPERTIES:
            refuses_cleanly(lambda name=name: getattr(contract, name))  # type: ignore[misc]
        assert contract.name == printable(contract.name)

    refuses_cleanly(read)


def test_changed_files() -> None:
    originals = [tiny_model(), tiny_model(metadata=METADATA), tiny_model(shape=(1, 48, 48, 3))]
    words = [b"faces", b"probabilities", b"external_data", b"location", b"ai.onnx.ml", b"If", b"\x0a\x00"]

    def check(content: bytes) -> None:
        read_all(content)

    search(check, content=changed_bytes(originals, words))


def test_changed_metadata() -> None:
    values = st.one_of(st.text(max_size=30), JSON_VALUES.map(lambda value: json_bytes(value).decode(errors="replace")))
    texts = values.map(lambda text: text.encode("utf-8", "replace").decode())

    def check(metadata: dict[str, str]) -> None:
        read_all(tiny_model(metadata=METADATA | metadata))

    search(check, metadata=st.dictionaries(st.sampled_from([*METADATA, "labels"]), texts, min_size=1, max_size=4))


def test_names() -> None:
    def check(name: str) -> None:
        refuses_cleanly(lambda: str(ModelName.parse(name)))

    parts = st.sampled_from(
        ["B", "+", "~mirror", ".fp16", ".int8", ".onnx", ".1x48x48", ".nx48x48", "x", ".", "/", "9" * 30]
    )
    search(check, name=st.one_of(st.text(max_size=30), st.lists(parts, max_size=8).map("".join)))
