"""ONNX Runtime on changed model files: the package answers with probabilities or with one line."""

from __future__ import annotations

from harness import KEPT, ROOT, changed_bytes, search
from runtime_process import RuntimeProcess
from tiny_model import tiny_model

OPERATORS = (
    b"MatMul",
    b"Concat",
    b"Resize",
    b"Reshape",
    b"Transpose",
    b"Slice",
    b"Softmax",
    b"Where",
    b"Loop",
    b"Gemm",
)
NAMES = (b"planes", b"target", b"logits", b"product", b"weights", b"sizes", b"probabilities", b"faces")


def test_changed_files_in_the_runtime() -> None:
    small = min((ROOT / "exports").glob("*.onnx"), key=lambda path: path.stat().st_size)
    originals = [tiny_model(), tiny_model(), tiny_model(shape=(1, 48, 48, 3)), small.read_bytes()]
    runtime = RuntimeProcess(KEPT / "runtime")

    def check(content: bytes) -> None:
        runtime.read(content)

    try:
        search(check, content=changed_bytes(originals, OPERATORS + NAMES))
    finally:
        runtime.close()
        print(", ".join(f"{count:,} {what}" for what, count in sorted(runtime.answers.items())))
