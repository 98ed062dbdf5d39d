"""The page in a real Chromium, with a real photo and a camera that is a file."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from chromium import launch
from demo_visit import Visit, camera_arguments, serve_site
from PIL import Image
from tiny_model import write_tiny_model

from fer_deploy import EMOTIONS, Recognizer
from fer_deploy.demo.site import PHOTO_SIDE, Site, build_site
from fer_deploy.detection.box import Box
from fer_deploy.detection.framing import Framing, crop_face
from fer_deploy.errors import UnavailableError


@pytest.fixture(scope="module")
def browser(camera_file: Path) -> Iterator[Any]:
    with launch(*camera_arguments(camera_file)) as browser:
        yield browser


@pytest.fixture(scope="module")
def opened(browser: Any, site: Site) -> Iterator[Visit]:
    """One visit for the whole module: starting the engine takes seconds on a busy machine."""
    with serve_site(site) as address:
        visit = Visit(browser, address)
        yield visit
        visit.close()
        assert all(url.startswith(address) for url in visit.requests)


@pytest.fixture
def visit(opened: Visit) -> Iterator[Visit]:
    """The visit with the camera closed, which no test may leave with a complaint of the browser's."""
    opened.troubles.clear()
    yield opened
    opened.close_camera()  # it keeps a core busy
    assert not opened.troubles


@pytest.fixture(scope="module")
def cut(portrait: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The portrait's face alone, so close that the square around it reaches outside the picture."""
    path = tmp_path_factory.mktemp("cut") / "cut.png"
    with Image.open(portrait) as photo:
        photo.crop((150, 130, 420, 330)).save(path)
    return path


ASK_THE_WORKER = """async ([photos, side]) => {
  const settings = await (await fetch("demo.json")).json();
  const worker = new Worker("reader.js", { type: "module" });
  const ask = (message, moved) => new Promise((resolve) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.postMessage(message, moved);
  });
  await ask({ kind: "start", id: 1, settings }, []);
  const answers = [];
  for (const photo of photos) {
    const bytes = Uint8Array.from(atob(photo), (letter) => letter.charCodeAt(0));
    const picture = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none" });
    answers.push(await ask({ kind: "read", id: 2, picture, side }, [picture]));
  }
  worker.terminate();
  return answers;
}"""


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as photo:
        return np.asarray(photo)


def square_of(face: dict[str, Any]) -> tuple[int, int, int]:
    return face["square"]["left"], face["square"]["top"], face["square"]["side"]


@pytest.fixture(scope="module")
def answers(opened: Visit, portrait: Path, cut: Path) -> dict[Path, list[dict[str, Any]]]:
    """The answers of the page's worker about the two photos, unrounded."""
    replies = opened.page.evaluate(ASK_THE_WORKER, [[encoded(portrait), encoded(cut)], PHOTO_SIDE])
    assert [answer["kind"] for answer in replies] == ["faces", "faces"], replies
    return {path: answer["faces"] for path, answer in zip((portrait, cut), replies, strict=True)}


def test_a_real_photo_is_read_as_python_reads_it(
    visit: Visit, answers: dict[Path, list[dict[str, Any]]], portrait: Path, tiny_file: Path
) -> None:
    (face,) = answers[portrait]
    left, top, side = square_of(face)
    crop = pixels_of(portrait)[top : top + side, left : left + side]
    assert crop.shape == (side, side, 3)
    expected = Recognizer(tiny_file, threads=1).probabilities(crop[np.newaxis])[0]
    np.testing.assert_allclose(face["probabilities"], expected, atol=1e-4)
    # and the page says so to people
    label = EMOTIONS[expected.argmax()]
    assert visit.choose(portrait) == f"1 face: {label}."
    assert visit.faces() == [f"Face 1: {label}, {round(float(expected.max()) * 100)} %"]
    assert re.fullmatch(r"faces found in \d+ ms · read in \d+ ms", visit.page.locator("#speed").inner_text())


def test_the_box_is_the_one_that_python_finds(answers: dict[Path, list[dict[str, Any]]], portrait: Path) -> None:
    from fer_deploy.detection.detector import FaceDetector

    try:
        detector = FaceDetector("centerface", side=PHOTO_SIDE)
    except UnavailableError as error:
        pytest.skip(str(error))
    (expected,) = detector.detect(pixels_of(portrait))
    (face,) = answers[portrait]
    box = Box(**face["box"])
    assert box.overlap(expected) > 0.98
    assert box.score == pytest.approx(expected.score, abs=0.01)
    assert np.abs(np.subtract(detector.framing.square(box), square_of(face))).max() <= 1  # halves round differently


def test_a_face_at_the_edge_is_cropped_as_in_python(
    answers: dict[Path, list[dict[str, Any]]], cut: Path, tiny_file: Path
) -> None:
    pixels, recognizer, outside = pixels_of(cut), Recognizer(tiny_file, threads=1), 0
    for face in answers[cut]:
        left, top, side = square_of(face)
        crop = crop_face(pixels, Box(left, top, left + side, top + side), Framing())
        outside += left < 0 or top < 0 or left + side > pixels.shape[1] or top + side > pixels.shape[0]
        np.testing.assert_allclose(face["probabilities"], recognizer.probabilities(crop[np.newaxis])[0], atol=1e-4)
    assert outside, "the picture must hold a face whose square reaches outside"


def test_a_photo_is_turned_by_its_exif_orientation(visit: Visit, portrait: Path, tmp_path: Path) -> None:
    upright = visit.choose(portrait), visit.faces()
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    assert visit.choose(tmp_path / "black.png") == "No face found."
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    with Image.open(portrait) as photo:
        photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert (visit.choose(tmp_path / "turned.png"), visit.faces()) == upright


def test_several_faces_are_numbered_from_left_to_right(visit: Visit, portrait: Path, tmp_path: Path) -> None:
    with Image.open(portrait) as photo:
        pair = Image.new("RGB", (photo.width * 2, photo.height))
        pair.paste(photo, (0, 0))
        pair.paste(photo.point(lambda value: value // 3), (photo.width, 0))  # darker: read as another label
        pair.save(tmp_path / "pair.png")
    words = visit.choose(tmp_path / "pair.png")
    assert words.startswith("2 faces: ")
    first, second = visit.faces()
    assert first.startswith("Face 1: ")
    assert second.startswith("Face 2: ")
    assert first.split(": ")[1] != second.split(": ")[1]


def test_a_picture_without_faces(visit: Visit, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "green").save(tmp_path / "green.png")
    assert visit.choose(tmp_path / "green.png") == "No face found."
    assert visit.faces() == []
    assert visit.page.get_by_text("None found.").is_visible()


DROP = """([encoded, name, kind]) => {
  const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: name.endsWith("png") ? "image/png" : "text/plain" }));
  const event = kind === "paste" ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true })
    : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.getElementById("frame").dispatchEvent(event);
}"""


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_dropping_and_pasting(visit: Visit, portrait: Path, tmp_path: Path, way: str) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    assert visit.choose(tmp_path / "black.png") == "No face found."
    visit.page.evaluate(DROP, [encoded(portrait), "face.png", way])
    assert visit.status(re.compile("face")).startswith("1 face: ")


def test_a_file_that_is_no_picture_is_reported_and_the_page_still_works(
    visit: Visit, portrait: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.jpg").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    alert = visit.page.get_by_role("alert")
    for name in ("notes.jpg", "empty.png"):
        visit.page.get_by_label("Choose a photo").set_input_files(tmp_path / name)
        alert.filter(has_text=f"{name} is not a picture that this browser can read.").wait_for()
    assert visit.choose(portrait).startswith("1 face: ")
    assert alert.inner_text() == ""


def test_the_camera(visit: Visit) -> None:
    visit.open_camera()
    assert visit.status(re.compile("face")).startswith("1 face: ")
    assert len(visit.faces()) == 1
    assert re.match(r"\d+\.\d frames a second · faces found in \d+ ms", visit.page.locator("#speed").inner_text())
    # The face is at the left of the camera's picture: mirrored, its frame is at the right of the page's.
    painted = visit.page.evaluate("""() => {
      const view = document.getElementById("view");
      const { data, width } = view.getContext("2d").getImageData(0, 0, view.width, view.height);
      const columns = new Set();
      for (let i = 3; i < data.length; i += 4) if (data[i]) columns.add(((i - 3) / 4) % width);
      return [Math.min(...columns) / width, Math.max(...columns) / width];
    }""")
    assert 0.5 < painted[0] < painted[1] < 0.85
    button = visit.page.get_by_role("button", name="Close the camera")
    assert button.get_attribute("aria-pressed") == "true"
    track = visit.page.evaluate_handle("() => document.getElementById('video').srcObject.getVideoTracks()[0]")
    assert track.evaluate("track => track.readyState") == "live"
    button.click()
    visit.status("The camera is closed.")
    assert track.evaluate("track => track.readyState") == "ended"
    assert visit.faces() == []
    assert visit.page.locator("#speed").inner_text() == ""


def test_a_photo_replaces_the_camera(visit: Visit, portrait: Path) -> None:
    visit.open_camera()
    assert visit.choose(portrait).startswith("1 face: ")
    assert visit.page.evaluate("() => document.getElementById('video').srcObject") is None
    assert visit.page.get_by_role("img", name="The photo").is_visible()


def test_a_missing_camera_is_reported(visit: Visit) -> None:
    visit.page.evaluate("""() => {
      navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("", "NotFoundError"); };
    }""")
    visit.page.get_by_role("button", name="Open the camera").click()
    visit.page.get_by_role("alert").filter(
        has_text="The camera could not be opened: this device has no camera."
    ).wait_for()
    visit.page.evaluate("() => { delete navigator.mediaDevices.getUserMedia; }")


def test_everything_by_keyboard(visit: Visit) -> None:
    page, reached = visit.page, []
    page.get_by_role("heading", level=1).click()  # the next Tab starts from there
    for _ in range(3):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id || document.activeElement.textContent"))
        outlined = page.evaluate("""() => {
          const seen = document.activeElement.closest("label") ?? document.activeElement;
          return getComputedStyle(seen).outlineStyle;
        }""")
        assert outlined == "solid", reached
    assert reached == ["file", "camera", "Licences"]
    with page.expect_file_chooser():
        page.locator("#file").focus()
        page.keyboard.press("Enter")
    page.locator("#camera").focus()
    page.keyboard.press("Enter")
    page.get_by_text("frames a second").wait_for()
    page.keyboard.press("Space")
    visit.status("The camera is closed.")


def test_accessibility_rules_hold(visit: Visit, portrait: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is absent")
    steps = {"nothing": lambda: None, "photo": lambda: visit.choose(portrait), "camera": visit.open_camera}
    for colours, shown in (("light", "nothing"), ("light", "photo"), ("dark", "photo"), ("light", "camera")):
        visit.page.emulate_media(color_scheme=colours)
        steps[shown]()
        found = axe.Axe().run(visit.page)
        assert found.violations_count == 0, (colours, shown, found.generate_report())


def test_the_page_fits_a_phone(visit: Visit, portrait: Path) -> None:
    before = visit.page.viewport_size
    visit.choose(portrait)
    for width in (320, 390):
        visit.page.set_viewport_size({"width": width, "height": 740})
        assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= width
        for control in (visit.page.locator("label.button"), visit.page.locator("button")):
            box = control.bounding_box()
            assert box["height"] >= 44  # CSS pixels, what a finger needs
            assert 0 <= box["x"] < box["x"] + box["width"] <= width
    visit.page.set_viewport_size(before)


def with_file(site: Site, name: str, content: bytes | None) -> Site:
    """The site with another content of one file, or without it."""
    files = {**site.files, name: content or b""}
    if content is None:
        del files[name]
    return replace(site, files=MappingProxyType(files))


def test_several_threads_give_the_same_answer(browser: Any, site: Site, visit: Visit, cut: Path) -> None:
    """On four cores the engine takes two threads, each a worker with the engine's script. Here there may be fewer."""
    cores = b"navigator.hardwareConcurrency"
    assert cores in site.files["reader.js"]
    four = with_file(site, "reader.js", site.files["reader.js"].replace(cores, b"4"))
    with serve_site(four) as address:
        other = Visit(browser, address)
        assert (other.choose(cut), other.faces()) == (visit.choose(cut), visit.faces())
        assert other.requests.count(f"{address}onnxruntime-web.js") == 2
        assert not other.troubles
        other.close()


def test_a_missing_model_is_reported(browser: Any, site: Site) -> None:
    with serve_site(with_file(site, "model.onnx", None)) as address:
        page = browser.new_page()
        page.goto(address)
        words = "The model could not be started: model.onnx could not be loaded (404)"
        page.get_by_role("alert").filter(has_text=words).wait_for()
        assert page.get_by_role("button", name="Open the camera").is_disabled()
        page.context.close()


LONG = "ein sehr langes Wort für ein Gesicht, das niemand so nennen würde, auch nicht hier"
MANY = ("سعيد", "מאושר", LONG, "快乐", "<b>")
LABELS = {"two": ("good", "bad"), "twenty": (*MANY, *(f"label {i}" for i in range(15)))}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_any_labels_have_their_words_and_bars(
    browser: Any, site: Site, portrait: Path, tmp_path: Path, labels: tuple[str, ...]
) -> None:
    """Words of any script, from right to left too; of many labels the most probable ones, in their order."""
    file = write_tiny_model(tmp_path / "own.onnx", labels=labels)
    with serve_site(build_site(file)) as address:
        visit = Visit(browser, address)
        visit.choose(portrait)
        page = visit.page
        bars = [
            (row.locator("dt").inner_text(), int(row.locator(".percent").inner_text().rstrip(" %")))
            for row in page.locator("#faces dl > div").all()
        ]
        page.set_viewport_size({"width": 320, "height": 740})
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 320
        assert all(bar.bounding_box()["width"] > 30 for bar in page.locator("#faces .bar").all())
        assert page.locator("#weak").is_hidden()
        title = page.locator("#faces h3").inner_text().replace("\u2068", "").replace("\u2069", "")
        visit.context.close()
    assert not visit.troubles
    words = [word for word, _ in bars]
    if len(labels) == 2:
        assert words == list(labels)
    else:
        assert len(words) == 12
        assert [share for _, share in bars] == sorted((share for _, share in bars), reverse=True)
        assert set(words) < set(labels)
    best, share = max(bars, key=lambda bar: bar[1])
    assert title == f"Face 1: {best}, {share} %"
