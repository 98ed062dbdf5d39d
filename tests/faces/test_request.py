"""What a user asks for when data is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from fer_deploy.faces.request import DataRequest, SplitRequest
from fer_deploy.labels import LabelMap


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80/10/10", SplitRequest((80, 10, 10))),
        ("0.7/0.15/0.15", SplitRequest((0.7, 0.15, 0.15))),
        ("by=subject", SplitRequest(by="subject")),
        (r"by=S\d{2,3}", SplitRequest(by=r"S\d{2,3}")),
        ("seed=7", SplitRequest(seed=7)),
        (" seed=7  by=x,70/20/10 ", SplitRequest((70, 20, 10), "x", 7)),
        ("70/20/10, by=x, seed=7", SplitRequest((70, 20, 10), "x", 7)),
    ],
)
def test_the_grammar_of_splits(text: str, expected: SplitRequest) -> None:
    assert SplitRequest.parse(text) == expected
    assert SplitRequest.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not three shares above zero: write 80/10/10"),
        ("80/20", "'80/20' is not three shares"),
        ("80/10/0", "is not three shares above zero"),
        ("80/10/x", "is not three shares above zero"),
        ("80/10/nan", "is not three shares above zero"),
        ("80/10/10 70/15/15", "shares is given twice"),
        ("seed=-1", "the seed '-1' is not a whole number"),
        ("seed=", "the seed '' is not a whole number"),
        ("by=", "by= names nothing"),
        ("by=(", r"'\(' is not a regular expression"),
    ],
)
def test_other_texts_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        SplitRequest.parse(text)
    assert "\n" not in str(caught.value)


def test_a_request_makes_the_options_of_a_second_process() -> None:
    assert DataRequest().arguments() == []
    request = DataRequest(Path("faces"), LabelMap.parse("raf-db"), SplitRequest((8, 1, 1), seed=3))
    assert request.arguments() == ["--data", "faces", "--labels", "raf-db", "--split", "8/1/1 seed=3"]
