"""Labels: words in every spelling, numbers only with a numbering, and every fault in one line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import DataError
from fer_deploy.labels import FER2013, NUMBERINGS, LabelMap, Understood, check_labels, label_map_for, understand


def read(raw: str, labels: str = "", declared: str = "", places: list[str] | None = None) -> Understood:
    """Raw labels, a label map and declared classes, each written with commas."""
    label_map = LabelMap.parse(labels) if labels else None
    classes = tuple(declared.split(",")) if declared else None
    return understand(raw.split(","), declared=classes, label_map=label_map, name="faces", places=places)


def named(found: Understood) -> list[str]:
    return [found.labels[number] if number >= 0 else "-" for number in found.numbers]


ALL = "neutral,surprise,sad,happy,fear,disgust,angry"


@pytest.mark.parametrize(
    ("raw", "labels", "declared", "classes", "pictures"),
    [
        (ALL, "", "", EMOTIONS, ALL),
        ("Neutral,SURPRISED,sadness,joy,Fearful,disgusted, anger ", "", "", EMOTIONS, ALL),
        ("sad,Happy,sad", "", "", ("happy", "sad"), "sad,happy,sad"),
        ("0_angry,1-happy,02. Sad", "", "", ("angry", "happy", "sad"), "angry,happy,sad"),
        ("happy,Contempt", "", "", ("contempt", "happy"), "happy,contempt"),
        ("1,2,3,4,5,6,7", "raf-db", "", EMOTIONS, "surprise,fear,disgust,happy,sad,angry,neutral"),
        ("0,1,2,3,4,5,6", "FER2013", "", EMOTIONS, ",".join(EMOTIONS)),
        ("0,1.0,07", "AffectNet", "", ("contempt", "happy", "neutral"), "neutral,happy,contempt"),
        ("0,8,1,10", "affectnet", "", ("happy", "neutral"), "neutral,-,happy,-"),
        ("3,9,4", "fer plus", "", ("angry", "sad"), "sad,-,angry"),
        ("1,7", "ck+", "", ("angry", "surprise"), "angry,surprise"),
        ("1,2", "1=böse,2=froh", "", ("böse", "froh"), "böse,froh"),
        ("1,7,2", "raf-db,7=-", "", ("fear", "surprise"), "surprise,-,fear"),
        ("ja,NEIN,nein", "", "", ("ja", "nein"), "ja,nein,nein"),
        ("喜,悲,喜", "", "", ("喜", "悲"), "喜,悲,喜"),
        ("positive,neutral,calm", "", "", ("calm", "neutral", "positive"), "positive,neutral,calm"),
        ("b,a,c", "", "c,b,a,d", ("c", "b", "a"), "b,a,c"),
        ("sad,contempt", "", "contempt,sadness", ("contempt", "sad"), "sad,contempt"),
        ("happy,sad,sad", "sad,happy", "", ("sad", "happy"), "happy,sad,sad"),
        ("angry,sad", "sadness,anger", "", ("sadness", "anger"), "anger,sadness"),
        ("calm,neutral", "calm,neutral", "", ("calm", "neutral"), "calm,neutral"),
        ("anger,joy,calm", "bad,good,angry=bad,happy=good,calm=-", "", ("bad", "good"), "bad,good,-"),
        ("0_angry,1_happy", "angry=bad,happy=good", "", ("bad", "good"), "bad,good"),
        ("0,1", "0,1", "", ("0", "1"), "0,1"),
        # Numbers that tell labels apart belong to them.
        ("1 face,2 faces,3 faces", "", "", ("1 face", "2 faces", "3 faces"), "1 face,2 faces,3 faces"),
        ("60 years,18 years", "", "60 years,18 years", ("60 years", "18 years"), "60 years,18 years"),
        ("18 years,60 years", "18 years=young,60 years=old", "", ("old", "young"), "young,old"),
        ("0_bored,1_awake", "1_awake,0_bored", "", ("1_awake", "0_bored"), "0_bored,1_awake"),
        # Numbers as programs write them.
        ("1e+00,2.000e0", "raf-db", "", ("fear", "surprise"), "surprise,fear"),
        ("١,２", "raf-db", "", ("fear", "surprise"), "surprise,fear"),
        ("0.5,-.5", "0.5=good,-0.5=bad", "", ("bad", "good"), "good,bad"),
        ("nan,happy,sad", "nan=-", "", ("happy", "sad"), "-,happy,sad"),
        ("null,happy", "null,happy", "", ("null", "happy"), "null,happy"),
    ],
)  # fmt: skip
def test_what_labels_become(raw: str, labels: str, declared: str, classes: tuple[str, ...], pictures: str) -> None:
    found = read(raw, labels, declared)
    assert found.labels == classes
    assert named(found) == pictures.split(",")
    assert found.numbers.dtype == "int64"


@pytest.mark.parametrize(
    ("raw", "labels", "declared", "note"),
    [
        (f"{ALL},calm,calm", "", "", "labels were merged as neutral: 2 calm, 1 neutral"),
        (f"{ALL},Anger", "", "", "labels were merged as angry: 1 anger, 1 angry"),
        ("joy,sad", "", "", "labels were read as others: joy as happy"),
        ("joy,sad", "", "", "2 of the seven expressions are the classes: there are no pictures of angry, disgust"),
        ("0,8,9,9,1", "affectnet", "", "left out by their labels: 8 (1 picture), 9 (2)"),
        ("a,b", "", "a,b,c,d", "classes that the data declares and does not use are left out: c, d"),
        (ALL, "", f"{ALL},contempt", "classes that the data declares and does not use are left out: contempt"),
        ("a,b", "hapy=a", "", "labels that --labels names and the data lacks: hapy"),
        ("a,b", "a,b,c", "", "there are no pictures of c"),
    ],
)
def test_what_was_done_is_noted(raw: str, labels: str, declared: str, note: str) -> None:
    assert any(each.startswith(note) for each in read(raw, labels, declared).notes)


def test_fer2013s_own_numbers_stay_where_only_some_labels_are_mapped() -> None:
    assert label_map_for(None, fer2013_numbers=True) == FER2013
    assert label_map_for(None, fer2013_numbers=False) is None
    some = label_map_for(LabelMap.parse("6=-,happy=good,sad=bad,angry=bad"), fer2013_numbers=True)
    assert named(read("3,4,0,6", str(some))) == ["good", "bad", "bad", "-"]
    other = LabelMap.parse("raf-db")
    assert label_map_for(other, fer2013_numbers=True) == other


def test_the_seven_under_their_own_names_need_no_note() -> None:
    assert read(ALL, declared=",".join(EMOTIONS)).notes == ()
    assert read("0,1,2,3,4,5,6", str(FER2013)).notes == ()


@pytest.mark.parametrize(
    ("raw", "labels", "message"),
    [
        ("1,2,2", "", r"numbers without names: 1 \(1 picture\), 2 \(2\): .*not guessed.*raf-db \(1 surprise, 2 fear"),
        ("happy,sad,3", "", r"numbers without names: 3 \(1 picture\)"),
        ("0,7,7", "fer2013", r"the label 7 \(2 pictures\) is outside the numbering of fer2013 \(0 angry.*in line 4\)"),
        ("0,-1", "fer2013", r"the label -1"),
        ("angry,happy", "angry,sad", r"none of the classes angry, sad: happy \(1 picture\): .*happy=CLASS.*happy=-"),
        ("happy,joy", "", r"2 to 1,000 classes, not 1 \('happy'\): the labels are happy \(1 picture\), joy \(1\)"),
        ("8,9", "ferplus", r"not 0"),
        ("happy,,sad", "", r"1 of 3 pictures have no label \(first in line 4\)"),
        ("nan,happy,NaN", "", r"2 of 3 pictures have no label .first in line 3., but nan: .*--labels nan=-"),
        ("0.31,-0.72", "", r"numbers without names: -0.72 \(1 picture\), 0.31"),
        ("١,２", "", r"numbers without names"),
        ("happy," + "x" * 101, "", r"1 to 100 printable characters"),
        ("happy,a\x1bb", "", r"printable characters"),
    ],
)
def test_labels_that_are_not_clear_are_refused_in_one_line(raw: str, labels: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(raw, labels, places=["line 3", "line 4", "line 5"])
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("faces")


def test_a_column_that_holds_no_labels_is_refused_before_its_values_are_listed() -> None:
    with pytest.raises(DataError, match=r"10,001 different labels \(face0.jpg, .*is this the column") as caught:
        read(",".join(f"face{number}.jpg" for number in range(10_001)))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither a numbering"),
        ("raf-db,", "neither a numbering"),
        ("=happy", "neither a numbering"),
        ("1=", "neither a numbering"),
        ("raf-db,affectnet", "several numberings"),
        ("a=b,A=c", "given two classes"),
        ("1=b,1.0=c", "given two classes"),
        ("happy", "2 to 1,000 classes, not 1"),
        ("a,b,c=d", "'d' is none of the classes a, b"),
        ("a,A", "named twice"),
    ],
)
def test_a_label_map_that_is_not_understood_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        LabelMap.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["raf-db", "1=surprise,2=fear", "raf-db,3=-", "a,b,c=a", "calm=neutral,x=-"])
def test_a_label_map_survives_its_text_and_its_record(text: str) -> None:
    label_map = LabelMap.parse(text)
    assert LabelMap.parse(str(label_map)) == label_map
    assert LabelMap.from_dict(json.loads(json.dumps(label_map.to_dict()))) == label_map


@pytest.mark.parametrize(
    "content",
    [None, [], "raf-db", {"other": 1}, {"numbering": "x"}, {"numbering": 1}, {"pairs": {"a": 1}}, {"pairs": ["a"]},
     {"classes": "ab"}, {"classes": ["a", 1]}, {"classes": ["a"]}],
)  # fmt: skip
def test_a_damaged_record_of_a_label_map_is_a_value_error(content: object) -> None:
    with pytest.raises(ValueError, match=r"label map|numbering|classes"):
        LabelMap.from_dict(content)


def test_names_of_classes_are_normalised_and_checked() -> None:
    assert check_labels([" Freude ", "a\u0308rger"]) == ("Freude", "ärger")
    for names in (["a"], [], ["a", "A"], ["a", ""], ["a", "b\nc"], ["a", "b" * 101], [f"{n}" for n in range(1001)]):
        with pytest.raises(ValueError, match="class"):
            check_labels(names)


def test_every_numbering_names_the_seven_and_its_source() -> None:
    for name, numbering in NUMBERINGS.items():
        assert set(EMOTIONS) <= set(numbering.names.values()), name
        assert len(numbering.source) > 20
    assert {name: numbering.names[1] for name, numbering in NUMBERINGS.items()} == {
        "fer2013": "disgust", "raf-db": "surprise", "affectnet": "happy", "ferplus": "happy", "ck+": "angry",
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=8) | st.sampled_from(["1", "happy", "Joy", "0_sad"]), max_size=12), st.booleans())
def test_any_labels_are_understood_or_refused(raw: list[str], numbered: bool) -> None:
    try:
        found = understand(raw, declared=None, label_map=LabelMap("affectnet") if numbered else None, name="x")
    except DataError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        return
    assert len(found.numbers) == len(raw)
    assert found.numbers.max() < len(check_labels(found.labels))
