"""Who is in a picture, by its name."""

from __future__ import annotations

import pytest

from fer_deploy.faces.people import groups_by, people_in


@pytest.mark.parametrize(
    ("places", "people", "scheme"),
    [
        (["S005_001_00000011.png", "happy/S010_002_00000014.png"], ["S005", "S010"], "CK+"),
        (["KA.AN1.39.tiff", "x/KM.HA3.21.tiff", "KA.NE2.27.tiff"], ["KA", "KM", "KA"], "JAFFE"),
        (["AF01ANS.JPG", "BF01HAHL.JPG", "AM01NES.jpg"], ["F01", "F01", "M01"], "KDEF"),
        (["01-01-03-01-02-01-12.mp4", "02-01-06-01-02-01-03_frame7.png"], ["12", "03"], "RAVDESS"),
        (["subject_3/happy/1.png", "Subject_12/sad/1.png"], ["subject_3", "subject_12"], "subject"),
        (["happy/person4-2.png", "sad/person5-1.png"], ["person4", "person5"], "subject"),
    ],
)
def test_names_of_public_data_sets(places: list[str], people: list[str], scheme: str) -> None:
    assert people_in(places) == (people, scheme)


@pytest.mark.parametrize(
    "places",
    [
        [],
        ["Training_1.png", "Training_2.png"],
        ["S005_001_00000011.png", "other.png"],  # one name does not follow the scheme
        ["S005_001_00000011.png", "S005_001_00000012.png"],  # one person
        ["row 1", "row 2"],
        ["angry/1.png", "angry/2.png"],
        ["happy/substance1.png", "happy/substance2.png"],
    ],
)
def test_names_that_tell_nothing(places: list[str]) -> None:
    assert people_in(places) is None


def test_a_rule_of_the_user() -> None:
    assert groups_by(r"id(\d+)", ["a/id1.png", "b/id22.png", "c.png"]) == ["1", "22", None]
    assert groups_by(r"^\w", ["a/1.png", "b/2.png"]) == ["a", "b"]
