"""Reading a report: every value has its type and range, and whatever is accepted can be shown and compared."""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from drawn_report import report, row
from rich.console import Console

from fer_deploy.bench.compare import compare_reports, comparison_lines
from fer_deploy.bench.pages.html import html_report
from fer_deploy.bench.pages.markdown import markdown_report
from fer_deploy.bench.pages.terminal import render_report
from fer_deploy.bench.report import from_json, load_report, to_json
from fer_deploy.bench.save import lost_figures
from fer_deploy.bench.schema import KEYWORDS, check_schema
from fer_deploy.errors import MeasurementError


def plain() -> dict[str, Any]:
    """The drawn report, read back from JSON."""
    table: dict[str, Any] = json.loads(json.dumps(to_json(report())))
    for entry in table["rows"]:  # fewer samples: the tests below read it hundreds of times
        if entry["latency_ms"]:
            entry["latency_ms"].update(samples_ns=entry["latency_ms"]["samples_ns"][::50], n=20)
    return table


PLAIN = plain()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a report."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(min(len(value), 3)):
            yield from places(value[key], (*path, key))


def changed(path: tuple[Any, ...], value: Any) -> Any:
    """The report with one value replaced."""
    if not path:
        return value
    table = copy.deepcopy(PLAIN)
    parent = table
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return table


def test_a_report_is_read_as_it_was_written() -> None:
    assert json.loads(json.dumps(to_json(from_json(PLAIN, source="x")))) == PLAIN


def test_a_model_that_is_always_wrong_is_read_again() -> None:
    """Its accuracy and efficiency are 0, which are figures."""
    made = replace(report(), rows=(row("wrong", wrong=400, gflops=0.01, ms=1.0),), pairs=())
    assert made.rows[0].efficiency == 0
    assert from_json(json.loads(json.dumps(to_json(made))), source="x").rows[0].efficiency == 0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("rows", 0, "accuracy"), 7.5, r"rows\[0\]\.accuracy: 7\.5 is more than 1"),
        (("rows", 0, "accuracy"), -0.1, r"rows\[0\]\.accuracy: -0\.1 is less than 0"),
        (("rows", 0, "accuracy"), "0.7", r"rows\[0\]\.accuracy: '0\.7' is not number or null"),
        (("rows", 0, "accuracy"), True, r"rows\[0\]\.accuracy: True is not number or null"),
        (("rows", 0, "accuracy"), float("inf"), r"rows\[0\]\.accuracy: inf is not finite"),
        (("rows", 0, "gflops"), 5e-324, r"rows\[0\]\.gflops: 5e-324 is less than"),
        (("rows", 0, "params"), 10**400, r"rows\[0\]\.params: 10{38}… is more than"),
        (("rows", 0, "bytes"), 1.5, r"rows\[0\]\.bytes: 1\.5 is not integer or null"),
        (("rows", 0, "engine"), "cpu", r"rows\[0\]\.engine: 'cpu' does not match"),
        (("rows", 0, "recall"), [0.5], r"rows\[0\]\.recall: 1 entries, 2 to 1000 are allowed"),
        (("rows", 0, "recall"), None, "recall is missing, but there is an accuracy"),
        (("rows", 0, "predictions"), "0", "1 digits of predictions for 400 faces"),
        (("rows", 0, "latency_ms", "samples_ns"), [5], "its samples are not n in equal rounds"),
        (("rows", 0, "latency_ms", "n"), 7, "its samples are not n in equal rounds"),
        (("rows", 0, "new"), 1, r"rows\[0\]\.new: is not a key of a report"),
        (("rows", 0), None, r"rows\[0\]: None is not object"),
        (("rows",), {}, r"rows: \{\} is not array"),
        (("rows", 1, "precision"), "fp32", "B on ort-cpu occurs twice"),
        (("data", "labels"), "012", "data.labels: 3 digits of labels for 400 faces"),
        (("data",), None, "400 digits of predictions for None faces"),
        (("machine", "cores"), 0, "machine.cores: 0 is less than 1"),
        (("machine",), [], r"machine: \[\] is not object"),
        (("settings", "threads"), "2", "settings.threads: '2' is not integer"),
        (("created",), "\x1b[2J", r"created: '\\x1b\[2J' does not match"),
        ((), [], "not a report of `ferdeploy bench`"),
    ],
)
def test_a_value_of_another_type_or_range_is_named(path: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(MeasurementError, match=message) as caught:
        from_json(changed(path, value), source="old.json")
    assert str(caught.value).startswith("old.json: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


HOSTILE = (
    None, True, 0, -1, 3, 10**18, 10**400, 0.5, 7.5, -1e308, 1e308, 5e-324, float("inf"), "", "x", "0123", "\x1b[31m\n",
    "ort-cpu", "a|b<i>", "\ud800", "é" * 5000, [], [None], [1, 2], {}, {"a": 1},
)  # fmt: skip


def test_whatever_is_read_can_be_shown_and_compared() -> None:
    """Any value at any place is refused with one line, or the report works on every page."""
    generator = random.Random(7)
    old, errors, shown = from_json(PLAIN, source="x"), [], 0
    everywhere = list(places(PLAIN))
    for _ in range(200):
        table = changed(generator.choice(everywhere), generator.choice(HOSTILE))
        try:
            new = from_json(table, source="x")
        except MeasurementError as error:
            errors.append(str(error))
            continue
        shown += 1
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(render_report(new))
        assert "\x1b" not in console.export_text()
        assert "\x1b" not in markdown_report(new)
        html_report(new)
        assert "\x1b" not in "".join(comparison_lines(compare_reports(old, new)))
        list(lost_figures(old, new))
    assert len(errors) > 100
    assert not any("\n" in error for error in errors)
    assert shown > 10


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[" * 200_000, b"null", b'{"format": NaN}', b"1" * 5000])
def test_a_file_that_is_no_report_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(MeasurementError, match=r"report\.json: ") as caught:
        load_report(path)
    assert "\n" not in str(caught.value)


def test_the_reports_schema_uses_the_keywords_that_are_checked() -> None:
    def keywords(schema: Any) -> Iterator[str]:
        for key, value in schema.items():
            yield key
            children = value.values() if key in ("properties", "$defs") else value if key == "oneOf" else [value]
            for child in children:
                if isinstance(child, dict):
                    yield from keywords(child)

    schema = json.loads((resources.files("fer_deploy.bench") / "report.schema.json").read_text("utf-8"))
    assert set(keywords(schema)) <= KEYWORDS
    assert set(keywords(schema)) > {"oneOf", "pattern", "maxItems"}


@pytest.mark.parametrize("value", [v for v in HOSTILE if v != "\ud800"])
def test_the_checker_agrees_with_jsonschema(value: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((resources.files("fer_deploy.bench") / "report.schema.json").read_text("utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    for path in random.Random(str(value)).sample(list(places(PLAIN)), 10):
        table = changed(path, value)
        try:
            check_schema(table, schema)
            accepted = True
        except ValueError:
            accepted = False
        if accepted:
            assert validator.is_valid(table), path
        elif value != float("inf"):  # jsonschema accepts an infinity where there is no maximum
            assert not validator.is_valid(table), path
