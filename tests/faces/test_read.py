"""A listing becomes a data set in one place: sizes are kept, faults are reported together, and the cache is used."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fer_deploy.errors import DataError
from fer_deploy.faces import cache, decode, load
from fer_deploy.faces.dataset import SPLITS, Dataset, Faces
from fer_deploy.faces.decode import resize
from fer_deploy.faces.listing import Found, Listing, PictureSource
from fer_deploy.faces.load import load_dataset
from fer_deploy.faces.read import read_listing
from fer_deploy.faces.request import SplitRequest
from fer_deploy.faces.synthetic import colour_faces
from fer_deploy.folders import LeftOut
from fer_deploy.labels import LabelMap

SIZES = ((60, 60), (48, 48), (90, 70), (33, 41))


def encoded(pixels: np.ndarray[Any, Any], kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray[Any, Any]]:
    """24 coloured faces of four sizes."""
    return [
        colour_faces([number % 3], height=height, width=width, seed=number)[0]
        for number in range(24)
        for height, width in [SIZES[number % 4]]
    ]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FERDEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "faces"


WORDS = ("low", "middle", "high")


def listing(contents: Sequence[bytes | DataError], **changes: Any) -> Listing:
    """Three classes in turn; of each eight pictures, six are for training and one for each other split."""

    def read(number: int) -> bytes:
        content = contents[number]
        if isinstance(content, DataError):
            raise content
        return content

    count = len(contents)
    values = {
        "labels": [WORDS[number % 3] for number in range(count)],
        "splits": [{3: "validation", 7: "test"}.get(number // 3, "training") for number in range(count)],
        "places": [f"a/{number:02}.png" for number in range(count)],
        "rows": np.arange(count),
        "pictures": PictureSource.encoded(count, read),
    }
    return Listing("own", **(values | changes))


def use(monkeypatch: pytest.MonkeyPatch, source: Listing, key: Callable[[], str] | None = None) -> list[int]:
    """Make the listing what is found everywhere; returns a list that grows by each read of it."""
    reads: list[int] = []

    def read() -> Listing:
        reads.append(1)
        return source

    monkeypatch.setattr(load, "find", lambda _path: Found("own", read, key))
    return reads


def grey(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return decode.decode(encoded(pixels), "").grey


@pytest.mark.parametrize("in_memory", [0, cache.IN_MEMORY])
@pytest.mark.parametrize("key", [None, lambda: "a key"])
def test_pictures_keep_their_sizes_and_their_order(
    pictures: list[np.ndarray[Any, Any]], monkeypatch: pytest.MonkeyPatch, in_memory: int, key: Any
) -> None:
    monkeypatch.setattr(cache, "IN_MEMORY", in_memory)
    reads = use(monkeypatch, listing([encoded(pixels) for pixels in pictures]), key)
    first, second = load_dataset("own"), load_dataset("own")
    assert len(reads) == (2 if key is None else 1)
    assert first.sha256 == second.sha256
    assert (first.labels, first.colour) == (("high", "low", "middle"), 24)
    for dataset in (first, second):
        for split in SPLITS:
            faces = dataset.split(split)
            for place, row in enumerate(faces.rows):
                assert np.array_equal(faces.pictures[place], grey(pictures[row]))
                assert dataset.labels[faces.labels[place]] == WORDS[row % 3]
    assert [len(first.split(split)) for split in SPLITS] == [18, 3, 3]


def test_faces_at_a_size_are_resized_once_from_the_originals(
    pictures: list[np.ndarray[Any, Any]], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(cache, "IN_MEMORY", 0)
    use(monkeypatch, listing([encoded(pixels) for pixels in pictures]))
    seen: list[tuple[str, int, int]] = []
    faces = load_dataset("own").training
    for _ in range(2):
        resized = faces.at(40, progress=lambda *step: seen.append(step))
        assert resized.shape == (18, 40, 40)
        assert isinstance(resized, np.memmap)
        for place, row in enumerate(faces.rows):
            assert np.array_equal(resized[place], resize(grey(pictures[row]), 40, 40))
    assert seen[-1] == ("resizing pictures to 40 pixels", 18, 18)
    assert [done for _, done, _ in seen].count(0) == 1  # the second time they come from the cache
    assert len(list(folder.glob("*.faces"))) == 2


def squares(side: int, count: int = 24) -> list[bytes]:
    return [encoded(colour_faces([number % 3], height=side, width=side, seed=number)[0]) for number in range(count)]


@pytest.mark.parametrize("in_memory", [0, cache.IN_MEMORY])
def test_small_squares_of_one_size_stay_as_they_are(monkeypatch: pytest.MonkeyPatch, in_memory: int) -> None:
    monkeypatch.setattr(cache, "IN_MEMORY", in_memory)
    use(monkeypatch, listing(squares(50)))
    faces = load_dataset("own").training
    assert faces.pictures.uniform == (50, 50)
    for size, side in ((96, 50), (50, 50), (49, 49)):
        at_size = faces.at(size)
        assert at_size.shape == (18, side, side)
    assert np.array_equal(faces.at(96), faces.images)
    with pytest.raises(ValueError, match="must be 1 or more"):
        faces.at(0)


def test_unchanged_pictures_come_by_their_shape(
    pictures: list[np.ndarray[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, listing([encoded(pixels) for pixels in pictures]))
    faces = load_dataset("own").training
    seen = {
        place: picture
        for places, batch in faces.by_shape()
        for place, picture in zip(places.tolist(), batch, strict=True)
    }
    assert sorted(seen) == list(range(18))
    assert all(np.array_equal(seen[place], faces.pictures[place]) for place in seen)
    with pytest.raises(ValueError, match=r"several sizes: use at\(input_size\) or by_shape"):
        _ = faces.images


def test_all_unreadable_pictures_are_reported_at_once(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    contents: list[bytes | DataError] = [*squares(50)]
    for number in (2, 3, 5, 7, 11, 13, 17, 19, 21, 22):
        contents[number] = b"no picture"
    contents[5] = DataError("/somewhere/a/05.png: the file is empty (0 bytes)")
    contents[23] = contents[23][:300]
    use(monkeypatch, listing(contents))
    with pytest.raises(DataError) as caught:
        load_dataset("own")
    text = str(caught.value)
    assert text.startswith("own: 11 of 24 pictures cannot be read: a/02.png: a text file, not a picture; a/03.png: ")
    assert "a/05.png: the file is empty (0 bytes); " in text
    assert "; and 3 more: replace or remove them" in text
    assert "\n" not in text
    assert not list(folder.glob("*.faces"))


def test_a_picture_that_changes_between_two_reads_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    contents, lock = squares(50), threading.Lock()
    reads = [0] * 24

    def read(number: int) -> bytes:
        with lock:
            reads[number] += 1
            return contents[0 if number == 9 and reads[9] == 2 else number]

    use(monkeypatch, listing(contents, pictures=PictureSource.encoded(24, read)))
    with pytest.raises(DataError, match=r"1 of 24 pictures cannot be read: a/09\.png: changed while it was read"):
        load_dataset("own")


def test_a_source_that_changes_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = squares(50)
    use(monkeypatch, listing(contents))
    before = load_dataset("own")
    contents[0] = contents[1]
    assert load_dataset("own").sha256 != before.sha256
    use(monkeypatch, listing(squares(50)))
    assert load_dataset("own").sha256 == before.sha256


def test_large_pictures_are_reduced_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = squares(50)
    contents[0] = encoded(colour_faces([0], height=1040, width=780, seed=1)[0])
    use(monkeypatch, listing(contents))
    found = load_dataset("own")
    assert "1 pictures were reduced to 512 pixels on their shorter side" in found.notes
    assert found.training.pictures[0].shape == (683, 512)


def test_a_damaged_store_of_originals_is_read_again(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    use(monkeypatch, listing(squares(50)))
    before = load_dataset("own")
    (path,) = folder.glob("*.faces")
    path.write_bytes(path.read_bytes()[:-40])
    assert load_dataset("own").sha256 == before.sha256


def test_what_a_reader_knows_comes_back_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = LeftOut()
    left_out.add_file("notes.txt")
    source = listing(
        squares(50), people=[f"p{number}" for number in range(24)], columns={"Größe": [str(n) for n in range(24)]},
        declared=("low", "high", "middle", "unused"), notes=("a note",), left_out=left_out,
        places=[f"a/{number}\n\udcff.png" for number in range(24)],
    )  # fmt: skip
    use(monkeypatch, source, lambda: "key")
    first = load_dataset("own")
    second = load_dataset("own")
    assert first.notes == second.notes
    assert "left out: 1 *.txt" in first.notes
    assert first.labels == second.labels == ("low", "high", "middle")
    again = read_listing(Found("own", lambda: source, lambda: "key")).listing
    assert (again.people, again.columns, again.places) == (source.people, source.columns, source.places)
    assert again.left_out.counts == left_out.counts


@pytest.mark.parametrize("change", ["label", "shape"])
def test_the_hash_of_own_data_covers_labels_and_shapes(change: str) -> None:
    square, wide = np.zeros((1, 4, 4), np.uint8), np.zeros((1, 2, 8), np.uint8)

    def data(pixels: np.ndarray[Any, Any], labels: tuple[str, ...]) -> Dataset:
        zero = np.zeros(1, np.int64)
        faces = Faces(pixels, zero, zero, classes=2)
        return Dataset.of("own", faces, validation=faces, test=faces, official=False, labels=labels)

    before = data(square, ("a", "b")).sha256
    changed = data(square, ("a", "c")) if change == "label" else data(wide, ("a", "b"))
    assert before == data(square.copy(), ("a", "b")).sha256
    assert before != changed.sha256


def test_labels_can_be_chosen_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, listing(squares(50)))
    found = load_dataset("own", labels=LabelMap.parse("low=bad,middle=-,high=good"))
    assert found.labels == ("bad", "good")
    assert [len(found.split(split)) for split in SPLITS] == [12, 2, 2]
    assert found.label_map == {"pairs": {"low": "bad", "middle": "-", "high": "good"}}


def test_numbers_alone_are_refused_and_a_numbering_is_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, listing(squares(50), labels=[str(1 + number % 3) for number in range(24)]))
    with pytest.raises(DataError, match=r"numbers without names.*raf-db.*--labels"):
        load_dataset("own")
    found = load_dataset("own", labels=LabelMap.parse("raf-db"))
    assert found.labels == ("disgust", "fear", "surprise")


def people_of(dataset: Dataset, who: Sequence[str]) -> list[set[str]]:
    return [{who[row] for row in dataset.split(split).rows} for split in SPLITS]


def test_persons_are_known_by_a_column_by_names_or_by_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    who = [f"S{100 + number % 8}" for number in range(24)]
    none: list[str | None] = [None] * 24
    plain = {"splits": none, "labels": [WORDS[number // 8] for number in range(24)]}
    cases = [
        (plain | {"people": who}, None, "person, a column"),
        (plain | {"people": who}, "by=subject", "person, a column"),
        (plain | {"columns": {"Subject": who}}, "by=subject", "subject, a column"),
        (plain | {"places": [f"{w}_001_{n:08}.png" for n, w in enumerate(who)]}, None, "file names as in CK+"),
        (plain | {"places": [f"{n}-of-{w}.png" for n, w in enumerate(who)]}, r"by=of-(\w+)", r"by=of-(\w+)"),
    ]
    for changes, text, name in cases:
        use(monkeypatch, listing(squares(50), **changes))
        found = load_dataset("own", split=None if text is None else SplitRequest.parse(text))
        training, validation, test = people_of(found, who)
        assert not training & validation | training & test | validation & test
        assert found.drawn is not None
        assert name in found.drawn["by"]
        assert any(f"groups by {name}" in note or name in note for note in found.notes)


def test_a_rule_that_fits_no_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, listing(squares(50), splits=[None] * 24, columns={"Age": ["7"] * 24}))
    with pytest.raises(DataError, match=r"by=subject is no column and matches no picture's name, such as a/00.png"):
        load_dataset("own", split=SplitRequest.parse("by=subject"))


def test_a_class_too_small_for_three_splits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ["few"] * 2 + ["many"] * 22
    use(monkeypatch, listing(squares(50), splits=[None] * 24, labels=labels))
    notes = load_dataset("own").notes
    assert "the validation split has no picture of few: too few pictures for three splits: few has 2" in notes


def test_without_a_cache_folder_all_works_and_a_note_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, listing(squares(50)))
    kept = load_dataset("own")
    (tmp_path / "file").touch()
    monkeypatch.setenv("FERDEPLOY_CACHE", str(tmp_path / "file"))
    found = load_dataset("own")
    assert found.sha256 == kept.sha256
    assert found.notes[-1].startswith("the cache cannot be written (Not a directory)")
    assert np.array_equal(found.training.at(20), kept.training.at(20))


def test_progress_is_reported_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, listing(squares(50)))
    seen: list[tuple[str, int, int]] = []
    load_dataset("own", progress=lambda *step: seen.append(step))
    assert ("reading pictures", 24, 24) in seen
    assert [done for what, done, _ in seen if what == "reading pictures"] == [0, 16, 24]


def test_a_stop_by_the_user_ends_reading_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    use(monkeypatch, listing(squares(50)))

    def stop(what: str, done: int, _total: int) -> None:
        if what == "reading pictures" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_dataset("own", progress=stop)
    assert not list(folder.glob("*.faces"))
    assert not list(folder.glob(".*.partial"))
