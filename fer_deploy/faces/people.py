"""Who is in a picture, by the names of files as public data sets of faces write them, or by a user's own rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

_EXPRESSION = "(?:AF|AN|DI|HA|NE|SA|SU|FE)"

NAMES: dict[str, str] = {
    "CK+": r"(S\d{3})_\d{3}_\d{6,8}",  # S005_001_00000011.png: subject, sequence, frame
    "JAFFE": rf"([A-Z]{{2}})\.{_EXPRESSION}\d\.\d+",  # KA.AN1.39.tiff: initials, expression, number
    "KDEF": rf"[AB]([FM]\d{{2}}){_EXPRESSION}(?:S|HL|HR|FL|FR)",  # AF01ANS.JPG: session, person, expression, angle
    "RAVDESS": r"\d{2}-\d{2}-\d{2}-\d{2}-\d{2}-\d{2}-(\d{2})(?!\d)",  # 01-01-03-01-02-01-12.mp4: the last is the actor
    "subject": r"(?:^|.*[/_-])((?:subject|subj|sub|person|participant|actor|identity)[-_ ]?\d+)(?!\d)",  # subject_12/…
}
"""Regular expressions for the beginning of a file's name, by the data set with such names. Group 1 is the person.

"subject" is a word and a number anywhere in the path. Sources: the read-me files of CK+ (Lucey and others,
2010), JAFFE (Lyons and others, 1998), KDEF (Lundqvist and others, 1998) and RAVDESS (Livingstone and Russo, 2018).
"""


def people_in(places: Sequence[str]) -> tuple[list[str], str] | None:
    """The person in each picture, and the scheme of `NAMES` that tells; None if the names tell nothing.

    A scheme applies only if every name follows it, and only if it names at least two persons.

    >>> people_in(["happy/S005_001_00000011.png", "sad/S010_006_00000013.png"])
    (['S005', 'S010'], 'CK+')
    >>> people_in(["happy/1.png"]) is None
    True
    """
    for scheme, pattern in NAMES.items():
        flags = re.IGNORECASE
        names = (place if scheme == "subject" else PurePosixPath(place).name for place in places)
        people: list[str] = []
        for name in names:
            match = re.match(pattern, name, flags)
            if match is None:
                break
            people.append(match.group(1).lower() if scheme == "subject" else match.group(1).upper())
        if len(people) == len(places) and len(set(people)) > 1:
            return people, scheme
    return None


def groups_by(pattern: str, places: Sequence[str]) -> list[str | None]:
    """What a regular expression finds in each place: its first group, or all that it matches; None for no match."""
    compiled = re.compile(pattern)
    matches = (compiled.search(place) for place in places)
    return [None if match is None else match.group(1 if compiled.groups else 0) for match in matches]
