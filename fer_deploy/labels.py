"""The classes of a data set: how its raw labels (words, numbers, names of folders) become the labels of a network.

Words need no help: `understand` finds the seven expressions under all their spellings, and keeps other words
unchanged. Numbers mean nothing by themselves, since every data set numbers its classes differently. They are never
guessed: a `LabelMap`, written `raf-db` or `1=surprise,2=fear` on the command line or in a recipe, gives their meaning.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fer_deploy.emotions import EMOTIONS, emotion_index
from fer_deploy.errors import DataError, printable

FEWEST, MOST = 2, 1000
"""How many classes a network may have."""

MOST_RAW = 10_000
"""Different raw labels that a source may have, before they are merged."""

LONGEST = 100
"""Characters that the name of a class may have."""

CONTEMPT = "contempt"
"""The eighth expression of AffectNet, FER+ and CK+."""

LEFT_OUT = "-"
"""Written instead of a class: pictures with this label are left out."""

_LISTED = 12
"""At most so many labels are listed in an error or a note."""


@dataclass(frozen=True)
class Numbering:
    """The meaning of a public data set's label numbers.

    Attributes:
        names: the expression of each number; None for a number whose pictures show no expression.
        source: where the numbering is published.
    """

    names: Mapping[int, str | None]
    source: str

    def __str__(self) -> str:
        return ", ".join(f"{number} {name}" for number, name in self.names.items() if name)


NUMBERINGS: Mapping[str, Numbering] = {
    "fer2013": Numbering(
        dict(enumerate(EMOTIONS)),
        "Kaggle, Challenges in Representation Learning: Facial Expression Recognition Challenge, data page",
    ),
    "raf-db": Numbering(
        dict(enumerate(("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"), start=1)),
        "www.whdeng.cn/RAF/model1.html, list_patition_label.txt of the basic emotions (Li, Deng and Du, CVPR 2017)",
    ),
    "affectnet": Numbering(
        {
            **dict(enumerate(("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", CONTEMPT))),
            **dict.fromkeys((8, 9, 10)),  # none, uncertain, no face
        },
        "mohammadmahoor.com/affectnet, the columns of the annotations (Mollahosseini and others, IEEE TAC 10(1), 2019)",
    ),
    "ferplus": Numbering(
        {
            **dict(enumerate(("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", CONTEMPT))),
            **dict.fromkeys((8, 9)),  # unknown, not a face
        },
        "github.com/microsoft/FERPlus, emotion_table in src/train.py (Barsoum and others, ICMI 2016)",
    ),
    "ck+": Numbering(
        dict(enumerate(("neutral", "angry", CONTEMPT, "disgust", "fear", "happy", "sad", "surprise"))),
        "the ReadMe of the Extended Cohn-Kanade data set (Lucey and others, CVPR workshops 2010)",
    ),
}
"""The known numberings by name. Case, spaces, - and _ of a name do not matter."""


@dataclass(frozen=True)
class LabelMap:
    """How the raw labels of a source become classes.

    Attributes:
        numbering: a key of `NUMBERINGS` that gives the numbers their meaning, or None.
        pairs: raw labels, each with its class, or `-` to leave its pictures out. They come before the numbering.
        classes: the classes in their order; a label that becomes none of them is an error. Empty: the classes follow
            from the data.
    """

    numbering: str | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.numbering is not None and self.numbering not in NUMBERINGS:
            raise ValueError(f"no numbering {self.numbering!r}: the known ones are {', '.join(NUMBERINGS)}")
        repeated = [raw for raw, count in Counter(_key(raw) for raw, _ in self.pairs).items() if count > 1]
        if repeated:
            raise ValueError(f"the label {_quoted(repeated[0])} is given two classes: keep one")
        for _, name in self.pairs:
            _checked_name(name)
        if self.classes:
            check_labels(self.classes)
            outside = [name for _, name in self.pairs if name != LEFT_OUT and _key(name) not in map(_key, self.classes)]
            if outside:
                raise ValueError(
                    f"{_quoted(outside[0])} is none of the classes {', '.join(self.classes)}: name it among them, or "
                    "name no classes"
                )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `--labels` and a recipe's `label_map` hold: parts between commas, in any mixture.

        >>> LabelMap.parse("raf-db")
        LabelMap(numbering='raf-db', pairs=(), classes=())
        >>> LabelMap.parse("1=surprise, 2=fear, calm=-").pairs
        (('1', 'surprise'), ('2', 'fear'), ('calm', '-'))
        >>> LabelMap.parse("negative,positive,happy=positive").classes
        ('negative', 'positive')

        Args:
            text: a numbering of `NUMBERINGS` by name; `raw=class`, with `-` for labels to leave out; and names of
                classes, which are then the only ones, in this order.

        Raises:
            ValueError: a part is empty, names a second numbering, or gives a label two classes.
        """
        numberings: list[str] = []
        pairs: list[tuple[str, str]] = []
        classes: list[str] = []
        for part in (part.strip() for part in text.split(",")):
            known = next((name for name in NUMBERINGS if _plain(name) == _plain(part)), None)
            raw, equals, name = (side.strip() for side in part.rpartition("="))
            if known is not None:
                numberings.append(known)
            elif equals and raw and name:
                pairs.append((_normal(raw), _normal(name)))
            elif part and not equals:
                classes.append(part)
            else:
                raise ValueError(
                    f"labels {text[:80]!r}: {part!r} is neither a numbering ({', '.join(NUMBERINGS)}), nor raw=class, "
                    "nor a class"
                )
        if len(numberings) > 1:
            raise ValueError(f"labels {text[:80]!r}: several numberings ({', '.join(numberings)}): keep one")
        return cls(next(iter(numberings), None), tuple(pairs), check_labels(classes) if classes else ())

    def to_dict(self) -> dict[str, Any]:
        """The map for a record, in plain JSON values; `from_dict` reads it. Parts that are not set are absent."""
        parts = {"numbering": self.numbering, "pairs": dict(self.pairs), "classes": list(self.classes)}
        return {key: value for key, value in parts.items() if value}

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """The map that `to_dict` wrote; ValueError, in one line, for anything else."""
        if not isinstance(content, dict) or not set(content) <= {"numbering", "pairs", "classes"}:
            raise ValueError("a label map holds numbering, pairs and classes only")
        numbering, pairs, classes = content.get("numbering"), content.get("pairs", {}), content.get("classes", [])
        texts = [numbering or "", *classes] if isinstance(classes, list) else [None]
        texts += [*pairs, *pairs.values()] if isinstance(pairs, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a label map holds text only: numbering, pairs {raw: class} and a list of classes")
        return cls(numbering, tuple((_normal(raw), _normal(name)) for raw, name in pairs.items()), tuple(classes))

    def __str__(self) -> str:
        """The map as `parse` reads it."""
        pairs = (f"{raw}={name}" for raw, name in self.pairs)
        return ",".join([*([self.numbering] if self.numbering else []), *pairs, *self.classes])


FER2013 = LabelMap("fer2013")
"""The numbering of FER2013's own tables, whose columns are emotion, pixels and Usage."""


def label_map_for(label_map: LabelMap | None, *, fer2013_numbers: bool) -> LabelMap | None:
    """What the user wrote, with FER2013's numbering where the source has it and the user names no other."""
    if not fer2013_numbers or (label_map is not None and label_map.numbering is not None):
        return label_map
    return FER2013 if label_map is None else replace(label_map, numbering=FER2013.numbering)


@dataclass(frozen=True, eq=False)
class Understood:
    """The classes of a data set.

    Attributes:
        labels: the names of the classes; position i is class i.
        numbers: int64 (n,), the class of each picture, -1 where it is left out.
        notes: what was merged, renamed or left out, one sentence each.
        source: where the classes and their order come from, a few words.
    """

    labels: tuple[str, ...]
    numbers: NDArray[np.int64]
    notes: tuple[str, ...]
    source: str


def check_labels(names: Iterable[str]) -> tuple[str, ...]:
    """The names of classes in their normal form (Unicode NFC, no spaces around), in any language.

    Raises:
        ValueError: there are fewer than 2 or more than 1,000; one is empty, longer than 100 characters or not
            printable; or two are the same but for upper and lower case.
    """
    checked = tuple(_checked_name(name) for name in names)
    if not FEWEST <= len(checked) <= MOST:
        listed = f" ({_quoted(checked[0])})" if len(checked) == 1 else ""
        raise ValueError(f"a network has {FEWEST} to {MOST:,} classes, not {len(checked):,}{listed}")
    repeated = [name for name, count in Counter(name.casefold() for name in checked).items() if count > 1]
    if repeated:
        raise ValueError(f"the class {_quoted(repeated[0])} is named twice (upper and lower case count as one)")
    return checked


def understand(
    raw_labels: Sequence[str],
    *,
    declared: tuple[str, ...] | None,
    label_map: LabelMap | None,
    name: str,
    places: Sequence[str] | None = None,
) -> Understood:
    """Find the classes of a data set, and the class of each picture.

    If every label is one of the seven expressions in any spelling, the classes are those that occur, in FER2013's
    order. Otherwise the words are the classes: in the declared order if the source declares one, else sorted. The
    number in `0_angry` is dropped. With classes in the label map, they are the classes, in the map's order.

    Args:
        raw_labels: the label of each picture as its source has it: a word, the name of a folder, or a number.
        declared: the classes that the source lists, in their order (`ClassLabel` names); None if it lists none.
        label_map: of `--labels` or a recipe; None without one.
        name: the data set's name, for errors.
        places: where each label is written, for errors: "row 12"; None to leave it out.

    Raises:
        DataError: labels are numbers without a numbering, or are missing, or are none of the classes that the map
            names; or there are fewer than two classes.
    """
    label_map = label_map or LabelMap()
    counts = Counter(raw_labels)
    if len(counts) > MOST_RAW:
        listed = _listed([_shown(raw) for raw in counts][:3])
        raise DataError(
            f"{name} has {len(counts):,} different labels ({listed}, ...): a network has at most {MOST:,} classes: is "
            "this the column or folder of the labels?"
        )
    meaning = _Meaning(label_map, counts).words()
    _refuse_unclear(meaning, counts, label_map, name, _First(raw_labels, places))
    words = [word for word in meaning.values() if word is not None]
    if label_map.classes:
        labels, source = label_map.classes, f"the classes of --labels {label_map}"
        final = {raw: _in_classes(word, labels) for raw, word in meaning.items()}
        outside = [raw for raw, word in final.items() if word is None and meaning[raw] is not None]
        if outside:
            raise DataError(
                f"{name}: these labels are none of the classes {', '.join(labels)}: {_counted(outside, counts)}: add "
                f"a class, merge it with {_shown(outside[0])}=CLASS, or leave it out with {_shown(outside[0])}=-"
            )
    else:
        final = _one_spelling(meaning, counts)
        labels, source = _ordered(set(filter(None, final.values())), declared)
        source = f"{source}, numbered as {label_map.numbering}" if label_map.numbering else source
    try:
        labels = check_labels(labels)
    except ValueError as error:
        found = f": the labels are {_counted(list(counts), counts)}" if words else ": there are no labelled pictures"
        raise DataError(f"{name}: {error}{found}") from error
    places_of = {label: place for place, label in enumerate(labels)}
    class_of = {raw: -1 if word is None else places_of[word] for raw, word in final.items()}
    numbers = np.fromiter((class_of[raw] for raw in raw_labels), np.int64, len(raw_labels))
    return Understood(labels, numbers, tuple(_notes(final, counts, labels, declared, label_map)), source)


@dataclass
class _Meaning:
    """The word of each raw label under a label map."""

    label_map: LabelMap
    counts: Mapping[str, int]

    def words(self) -> dict[str, str | None]:
        """For each raw label its word, None where it is left out."""
        pairs = {_key(raw): name for raw, name in self.label_map.pairs}
        numbering = NUMBERINGS[self.label_map.numbering].names if self.label_map.numbering else {}
        classes = {_key(name) for name in self.label_map.classes}
        words: dict[str, str | None] = {}
        for raw, bare in _without_numbers(self.counts).items():
            word = _normal(raw) if _key(raw) in classes else bare
            number = _number(word)
            numbered_word = numbering.get(number) if isinstance(number, int) else None
            keys = [_key(raw), _key(word), _key(numbered_word or _expression(word) or word)]
            named = next((pairs[key] for key in keys if key in pairs), None)
            if named is not None:
                words[raw] = None if named == LEFT_OUT else named
            elif number is not None:
                words[raw] = numbering.get(number, str(number)) if isinstance(number, int) else str(number)
            else:
                words[raw] = word
        return words


@dataclass(frozen=True)
class _First:
    """Where a raw label occurs first, in words."""

    raw_labels: Sequence[str]
    places: Sequence[str] | None

    def __call__(self, raw: str) -> str:
        return f" (first in {self.places[list(self.raw_labels).index(raw)]})" if self.places is not None else ""


def _refuse_unclear(
    meaning: Mapping[str, str | None], counts: Mapping[str, int], label_map: LabelMap, name: str, first: _First
) -> None:
    """Refuse labels that are empty, or numbers to which nothing gives a meaning."""
    classes = [_key(each) for each in label_map.classes] + [_key(each) for _, each in label_map.pairs]
    empty = [
        raw for raw, word in meaning.items() if word is not None and _key(word) in _MISSING and word not in classes
    ]
    if empty:
        missing = sum(counts[raw] for raw in empty)
        written = _shown(empty[0].strip())
        remedy = (
            f", but {written}: leave them out with --labels {written}=-, or name their class: --labels {written}=CLASS"
            if written
            else ": label them, or remove them from the data"
        )
        raise DataError(
            f"{name}: {missing:,} of {sum(counts.values()):,} pictures have no label{first(empty[0])}{remedy}"
        )
    numbers = [raw for raw, word in meaning.items() if word and _number(word) is not None and _key(word) not in classes]
    if not numbers:
        return
    listed = _counted(numbers, counts)
    if label_map.numbering:
        raise DataError(
            f"{name}: the label {listed} is outside the numbering of {label_map.numbering} "
            f"({NUMBERINGS[label_map.numbering]}){first(numbers[0])}: choose another with --labels "
            f"({', '.join(known for known in NUMBERINGS if known != label_map.numbering)}), or give it a class or "
            f"leave it out: --labels {label_map.numbering},{_shown(numbers[0])}=-"
        )
    known = "; ".join(f"{known} ({numbering})" for known, numbering in NUMBERINGS.items())
    raise DataError(
        f"{name}: the labels are numbers without names: {listed}: their meaning differs between data sets and is not "
        f"guessed: choose it with --labels NAME, one of {known}, or write your own: --labels 0=happy,1=sad"
    )


def _one_spelling(meaning: Mapping[str, str | None], counts: Mapping[str, int]) -> dict[str, str | None]:
    """One spelling for each class: the expression's name if all are expressions, otherwise the most frequent one."""
    words = {word for word in meaning.values() if word is not None}
    if all(_expression(word) for word in words):
        return {raw: None if word is None else _expression(word) for raw, word in meaning.items()}
    spellings: dict[str, Counter[str]] = {}
    for raw, word in meaning.items():
        if word is not None:
            spellings.setdefault(_key(word), Counter())[word] += counts[raw]
    usual = {key: min(found, key=lambda word: (-found[word], word.swapcase())) for key, found in spellings.items()}
    return {raw: None if word is None else usual[_key(word)] for raw, word in meaning.items()}


def _ordered(labels: set[str], declared: tuple[str, ...] | None) -> tuple[tuple[str, ...], str]:
    """The classes in their order, and where the order comes from."""
    if labels <= set(EMOTIONS):
        return tuple(label for label in EMOTIONS if label in labels), "the expressions in FER2013's order"
    keys = [_key(name) for name in declared or ()]
    keys += [_key(_without_number(name) or name) for name in declared or ()]
    keys += [_key(_expression(name) or name) for name in declared or ()]
    if declared and all(_key(label) in keys for label in labels):
        order = sorted(labels, key=lambda label: keys.index(_key(label)) % len(declared))
        return tuple(order), "the words of the data, in the order that it declares"
    return tuple(sorted(labels, key=lambda label: (label.casefold(), label))), "the words of the data, sorted"


def _in_classes(word: str | None, classes: Sequence[str]) -> str | None:
    """The class that a word is: by its name, otherwise as another spelling of an expression."""
    if word is None:
        return None
    exact = next((name for name in classes if _key(name) == _key(word)), None)
    same = (name for name in classes if _expression(word) and _expression(name) == _expression(word))
    return exact or next(same, None)


def expression_in(raw: str) -> str | None:
    """The expression that a raw label means, in any case and spelling, numbered or not; None for other labels.

    >>> expression_in("0_Anger"), expression_in("contempt"), expression_in("train"), expression_in("3")
    ('angry', 'contempt', None, None)
    """
    return _expression(_without_number(raw) or raw)


def _notes(
    final: Mapping[str, str | None],
    counts: Mapping[str, int],
    labels: tuple[str, ...],
    declared: tuple[str, ...] | None,
    label_map: LabelMap,
) -> Iterable[str]:
    spelling_of = {raw: _key(word) for raw, word in _without_numbers(final).items()}
    spellings: dict[str, Counter[str]] = {}
    for raw, word in final.items():
        if word is not None:
            spellings.setdefault(word, Counter())[spelling_of[raw]] += counts[raw]
    renamed = [
        f"{_shown(spelling)} as {label}"
        for label, found in sorted(spellings.items())
        if len(found) == 1 and (spelling := next(iter(found))) != label.casefold() and _number(spelling) is None
    ]
    if renamed:
        yield f"labels were read as others: {_listed(renamed)}"
    for label, found in sorted(spellings.items()):
        if len(found) > 1:
            merged = [f"{found[spelling]:,} {_shown(spelling)}" for spelling in sorted(found)]
            yield f"labels were merged as {label}: {_listed(merged)}"
    if left_out := [raw for raw, word in final.items() if word is None]:
        yield f"left out by their labels: {_counted(left_out, counts)}"
    if set(labels) < set(EMOTIONS):
        absent = [label for label in EMOTIONS if label not in labels]
        yield f"{len(labels)} of the seven expressions are the classes: there are no pictures of {', '.join(absent)}"
    elif unused := [label for label in labels if label not in spellings]:
        yield f"there are no pictures of {_listed([_shown(label) for label in unused])}"
    if declared and not label_map.classes:
        known = {_key(label) for label in labels} | {*spelling_of.values(), *map(_key, final)}
        if unused := [name for name in declared if not {_key(name), _key(_expression(name) or name)} & known]:
            yield f"classes that the data declares and does not use are left out: {_listed(list(map(_shown, unused)))}"
    occurring = {key for raw in final for key in (_key(raw), spelling_of[raw], _key(_expression(raw) or raw))}
    if unmatched := [raw for raw, _ in label_map.pairs if _key(raw) not in occurring]:
        yield f"labels that --labels names and the data lacks: {_listed(list(map(_shown, unmatched)))}"


_NUMBER = re.compile(
    r"(?:(?:class|label|emotion|expression)[\s_-]*)?([+-]?(?:\d{1,9}(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,2})?)", re.IGNORECASE
)
_PREFIX = re.compile(r"[0-9]{1,4}\s*[-_.:)\s]\s*(?=[^\W\d_])(.+)")


_MISSING = frozenset({"", "nan", "<na>", "n/a", "null"})
"""How programs write a label that is missing."""


def _number(text: str) -> int | float | None:
    """The number that a raw label is ("3", "3.0", "03", "3e+00", "class 3", in any digits); None for other text."""
    match = _NUMBER.fullmatch(text.strip())
    value = float(match.group(1)) if match else None
    return int(value) if value is not None and value.is_integer() else value


def _without_numbers(raw_labels: Iterable[str]) -> dict[str, str]:
    """The word of each raw label: without the number before it where all have one, or where the word is an expression.

    Numbers that tell two labels apart belong to their words: 1 face, 2 faces, 3 faces.
    """
    bare = {raw: _without_number(raw) for raw in raw_labels}
    different = {(_key(word), _key(raw)) for raw, word in bare.items() if word is not None}
    dropped = None not in bare.values() and len({word for word, _ in different}) == len(different)
    return {
        raw: word if word is not None and (dropped or _expression(word)) else _normal(raw) for raw, word in bare.items()
    }


def _without_number(raw: str) -> str | None:
    """The word in `0_angry` or `1-happy`; None without such a prefix."""
    match = _PREFIX.fullmatch(_normal(raw))
    return match.group(1) if match else None


def _expression(word: str) -> str | None:
    """The name of the expression that a word means, in any case and spelling: one of the seven or contempt."""
    number = emotion_index(word)
    return EMOTIONS[number] if number is not None else CONTEMPT if _key(word) == CONTEMPT else None


def _key(text: str) -> str:
    """What is equal for two spellings of one label: in another case, with spaces around, or 3.0 for 3."""
    number = _number(text)
    return _normal(text).casefold() if number is None else str(number)


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]+", "", text).casefold()


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _checked_name(name: str) -> str:
    if not isinstance(name, str):
        raise ValueError(f"the name of a class must be text, not {name!r:.40}")
    normal = _normal(name)
    if not normal or len(normal) > LONGEST or not normal.isprintable():
        raise ValueError(f"the name of a class must be 1 to {LONGEST} printable characters, not {_quoted(name)}")
    return normal


def _shown(text: str) -> str:
    return printable(text)[:40]


def _quoted(text: str) -> str:
    return repr(text[:40])


def _listed(parts: Sequence[str]) -> str:
    more = len(parts) - _LISTED
    return ", ".join(parts[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _counted(raw_labels: Sequence[str], counts: Mapping[str, int]) -> str:
    """Labels with their numbers of pictures: "1 (1,290 pictures), 2 (281)"."""
    number = {raw: _number(raw) for raw in raw_labels}
    ordered = sorted(raw_labels, key=lambda raw: (number[raw] is None, number[raw] or 0, raw))
    first, *others = ordered
    pictures = "picture" if counts[first] == 1 else "pictures"
    listed = [
        f"{_shown(first)} ({counts[first]:,} {pictures})",
        *(f"{_shown(raw)} ({counts[raw]:,})" for raw in others),
    ]
    return _listed(listed)
