"""The pages of a report: Markdown, the web page with its plots, the terminal's table."""

from __future__ import annotations

import html
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from drawn_report import report
from rich.console import Console

from fer_deploy.bench.cost import ModelCost
from fer_deploy.bench.pages.columns import COLUMNS, count, filled, milliseconds, sort_rows, without_figures
from fer_deploy.bench.pages.drawing import Label, Scale, place_labels
from fer_deploy.bench.pages.html import html_report
from fer_deploy.bench.pages.markdown import markdown_report
from fer_deploy.bench.pages.plots import calibration_plot, confusion_plot, cost_plot, distribution_plot, latency_plot
from fer_deploy.bench.pages.sections import sections
from fer_deploy.bench.pages.terminal import WIDTH, render_report
from fer_deploy.bench.quality import measure_quality
from fer_deploy.bench.report import cost_front, latency_front
from fer_deploy.emotions import EMOTIONS
from fer_deploy.errors import MeasurementError


class Page(HTMLParser):
    """Collects a page's tags, and whatever in it would be fetched from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)
        self.outside += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "action")]

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_web_page_is_well_formed_and_loads_nothing() -> None:
    text = html_report(report())
    page = Page(text)
    assert page.open == []
    assert page.outside == []
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", text)
    assert page.tags.count("svg") == 1 + 2 + 1 + 6 + 6  # cost, time by device, distribution, confusion, calibration
    assert "<b>busy</b>" not in text
    assert "a machine &lt;b&gt;busy&lt;/b&gt;" in text
    assert "Processor &lt;fast&gt;" in text


def test_the_web_page_shows_the_reports_figures() -> None:
    text = html_report(report())
    for expected in (
        "75.00 ±",
        "plain",
        "PrivateTest",
        "2 models on torch-mps: absent",
        "&lt; 0.0001",
        "facex 1.1.0: call",
    ):
        assert expected in text
    for study in ("A+B+C+D+E", "69.88", "searched on PrivateTest itself"):
        assert study in text


HOSTILE = "m<img src=x onerror=alert(1)>|\"&'n"


def test_the_web_page_escapes_every_text_of_a_report() -> None:
    """An ONNX file's name, an engine's note or an error may hold markup."""
    plain = report()
    named = [replace(row, name=HOSTILE + row.name, note=HOSTILE) for row in plain.rows[:2]]
    failed = [replace(row, name=HOSTILE, status=f"refused: {HOSTILE}") for row in plain.rows[-1:]]
    pair = replace(plain.pairs[0], first=HOSTILE, second=HOSTILE)
    page = html_report(replace(plain, rows=(*named, *failed), pairs=(pair,), warnings=(HOSTILE,)))
    assert "<img" not in page
    assert Page(page).outside == []
    assert Page(page).open == []
    cells = re.findall(r'<tr data-key="([^"]*)" data-engine="[^"]*"><td data-value="([^"]*)">(.*?)</td>', page)
    assert len(cells) == 2
    for texts in cells:
        assert all(html.unescape(text).startswith(HOSTILE) for text in texts)


def test_a_markdown_cell_escapes_the_separator() -> None:
    named = replace(report().rows[0], name="a|b")
    text = markdown_report(replace(report(), rows=(named,), pairs=(replace(report().pairs[0], first="c|d"),)))
    lines = [line for line in text.splitlines() if line.startswith(("| a", "| c"))]
    assert {line.split(" | ")[0].partition(" ●")[0] for line in lines} >= {"| a\\|b", "| c\\|d"}
    for table in re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().splitlines()}) == 1


def test_every_page_shows_the_same_sections() -> None:
    made = report()
    titles = [section.title for section in sections(made)]
    assert re.findall(r"^## (.*)$", markdown_report(made), re.MULTILINE) == titles
    page = html_report(made)
    for section in sections(made):
        assert section.is_warning or f"<h2>{html.escape(section.title)}</h2>" in page
    for expected in ("Recall of each class, %", "Are two models different?", "Loading, in a fresh process"):
        assert expected in titles
    empty = replace(made, rows=(), pairs=(), warnings=())
    assert [section.title for section in sections(empty)] == ["The study's published figures"]
    assert sections(replace(empty, labels=("calm", "merry"))) == []  # the study's figures are about seven labels


def test_the_web_page_marks_recorded_figures() -> None:
    recorded = replace(report().rows[0], quality=None, recorded_accuracy=0.7)
    bare = html_report(replace(report(), data=None, pairs=(), rows=(recorded,)))
    assert "70.00*" in bare
    assert "<li>*: as recorded in the file, not measured in this run</li>" in bare
    assert "as recorded in the file" not in html_report(report())


def test_rows_of_the_confusion_matrix_are_labels() -> None:
    """Only faces of the first label are misclassified: the errors are in its row, not in its column."""
    truth = np.repeat(np.arange(7), 10)
    predicted = truth.copy()
    predicted[:3] = 4
    one = replace(report().rows[0], quality=measure_quality(np.eye(7)[predicted] * 0.93 + 0.01, truth))
    shown = confusion_plot(one)
    assert f"3 of 10 {EMOTIONS[0]} faces were classified as {EMOTIONS[4]}" in shown
    assert f"0 of 10 {EMOTIONS[4]} faces were classified as {EMOTIONS[0]}" in shown
    page = html_report(replace(report(), rows=(one,), pairs=()))
    cells = re.search(r"<td[^>]*>B</td>((?:<td[^>]*>100\.0</td>|<td[^>]*>70\.0</td>){7})", page)
    assert cells is not None
    assert re.findall(r">([\d.]+)<", cells[1]) == ["70.0", *["100.0"] * 6]


def test_calibration_bars_show_accuracy_and_marks_show_confidence() -> None:
    """All are 90 % sure and half of them right: the bar ends at the middle, the mark lies at 90 %."""
    truth = np.arange(70) % 7
    predicted = np.where(np.arange(70) < 35, truth, (truth + 1) % 7)
    sure = np.full((70, 7), 0.1 / 6)
    sure[np.arange(70), predicted] = 0.9
    root = ElementTree.fromstring(calibration_plot(replace(report().rows[0], quality=measure_quality(sure, truth))))
    (bar,) = (shape for shape in root.iter("rect") if "bar" in shape.attrib.get("class", ""))
    assert float(bar.attrib["height"]) == pytest.approx(120)  # of 240
    (dot,) = (shape for shape in root.iter("circle") if "c1" in shape.attrib["class"])
    assert float(dot.attrib["cx"]) == pytest.approx(46 + 0.9 * 240, abs=0.1)


def test_intervals_lie_within_the_plot_even_for_one_model() -> None:
    for rows in (report().rows, report().rows[:1]):
        plotted = cost_plot(replace(report(), rows=rows, data=None))
        root = ElementTree.fromstring(plotted)
        bars = [shape for shape in root.iter("line") if shape.attrib["class"].startswith("bar")]
        assert bars
        for bar in bars:
            low, high = float(bar.attrib["y1"]), float(bar.attrib["y2"])
            assert 34 < high < low < 424  # not cut off at the frame
        assert not re.search(r">\d+\.\d{3,}</text>", plotted.partition("GFLOPs of one face")[0].partition("axis")[0])


def test_brackets_in_a_name_are_not_terminal_markup() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    named = replace(report(), rows=(replace(report().rows[0], name="m[new]"),), pairs=())
    console.print(render_report(named, width=120))
    assert "m[new]" in console.export_text()


def test_the_web_page_without_data_or_times_has_no_plots() -> None:
    bare = replace(report(), data=None, pairs=(), rows=(replace(report().rows[0], quality=None, latency=None),))
    text = html_report(bare)
    assert "<svg" not in text
    assert Page(text).open == []
    assert html_report(replace(bare, rows=()))


@pytest.mark.parametrize("plot", [cost_plot, latency_plot])
def test_standalone_plots_are_well_formed(plot) -> None:
    root = ElementTree.fromstring(plot(report(), standalone=True))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "B+E" in texts
    assert plot(report(), standalone=True) == plot(report(), standalone=True)


def test_the_distribution_shows_every_row() -> None:
    rows = [row for row in report().rows if row.latency]
    root = ElementTree.fromstring(distribution_plot(rows))
    assert len([group for group in root.iter("g") if "data-key" in group.attrib]) == len(rows) == 7


def test_points_lie_where_their_figures_say() -> None:
    root = ElementTree.fromstring(cost_plot(report()))
    places = {}
    for group in root.iter("g"):
        circle = group.find("circle")
        if circle is not None and "data-key" in group.attrib:
            places[group.attrib["data-key"]] = float(circle.attrib["cx"]), float(circle.attrib["cy"])
    assert places["plain on ort-cpu"][0] < places["B on ort-cpu"][0] < places["B+E on ort-cpu"][0]
    assert places["B+E on ort-cpu"][1] < places["plain on ort-cpu"][1] < places["E on ort-cpu"][1]  # y grows downwards
    assert places["B on ort-cpu"][0] == places["E on ort-cpu"][0]


def test_scales() -> None:
    logarithmic = Scale(0.01, 1, 0, 200, logarithmic=True)
    assert logarithmic.at(0.1) == pytest.approx(100)
    assert logarithmic.ticks() == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    linear = Scale(10, 20, 100, 0)
    assert (linear.at(10), linear.at(15), linear.at(99)) == (100, 50, 0)
    assert linear.ticks() == [10, 12, 14, 16, 18, 20]


def test_labels_of_near_points_do_not_overlap() -> None:
    labels = [Label(100, 100, "first"), Label(103, 101, "second"), Label(98, 103, "third")]
    placed = place_labels(labels, left=0, right=400, top=0, bottom=300)
    assert len({(x, y) for x, y, _, _ in placed}) == 3
    (x, _, anchor, _), *_ = place_labels([Label(395, 100, "at the edge")], left=0, right=400, top=0, bottom=300)
    assert anchor == "end"
    assert x < 395


def test_a_label_without_room_is_left_out() -> None:
    crowd = [Label(100 + index, 100 + index, "a long name of a model") for index in range(12)]
    texts = [text for _, _, _, text in place_labels(crowd, left=0, right=400, top=0, bottom=300)]
    assert texts[0] == "a long name of a model"
    assert "" in texts


def test_fronts() -> None:
    assert cost_front(report()) == {"plain on ort-cpu", "B+E on ort-cpu"}
    # on the CPU nothing beats plain but B+E; the GPU's row is compared with GPUs only
    assert latency_front(report()) == {"plain on ort-cpu", "B+E on ort-cpu", "B on torch-cuda"}


def test_the_time_of_a_call_with_several_faces_is_marked() -> None:
    made = report()
    plain = made.row("plain on ort-cpu")
    eight = replace(plain, name="eight", latency=replace(plain.latency, batch=8))
    both = replace(made, rows=(*made.rows, eight))
    assert latency_front(both) == latency_front(made)
    assert "eight on ort-cpu" not in latency_plot(both)
    assert sort_rows([eight, *made.rows[:3]], by="latency")[-1] == eight
    titles = {column.title: column for column in COLUMNS}
    assert titles["p50 ms"].cell(eight) == f"{titles['p50 ms'].cell(plain)} for 8"
    assert titles["p90"].cell(eight).endswith(" for 8")


@pytest.mark.parametrize(
    ("by", "first"),
    [
        ("accuracy", "B+E on ort-cpu"),
        ("gflops", "plain on ort-cpu"),
        ("efficiency", "plain on ort-cpu"),
        ("name", "B on ort-cpu"),
    ],
)
def test_sorting(by, first: str) -> None:
    rows = [row for row in report().rows if row.latency]
    ordered = sort_rows(rows, by=by)
    assert ordered[0].label == first
    assert {row.label for row in ordered} == {row.label for row in rows}
    if by in ("gflops", "efficiency"):
        assert ordered[-1].name == "facex"  # without the figure: last


def test_sorting_by_an_unknown_key() -> None:
    with pytest.raises(MeasurementError, match="cannot sort by 'beauty'"):
        sort_rows([], by="beauty")  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [WIDTH, 100, 80])
def test_the_terminal_table_fits(width: int) -> None:
    from rich.console import Console

    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(render_report(report(), width=width))
    text = console.export_text()
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text  # nothing is cut off
    for expected in ("B.int8", "75.00 ±", "●▲", "2 models on torch-mps", "p50 ms"):
        assert expected in text


def test_rows_without_figures_are_grouped_by_reason() -> None:
    assert without_figures(report()) == [("2 models on torch-mps", "absent: this PyTorch has no MPS device")]


def test_columns_without_any_figure_are_left_out() -> None:
    bare = [replace(row, cost=ModelCost(), agreement=None) for row in report().rows if row.latency]
    titles = {column.title for column in filled(COLUMNS, bare)}
    assert {"GFLOPs", "params", "eff.", "agree %"}.isdisjoint(titles)
    assert "accuracy %" in titles


@pytest.mark.parametrize(("value", "expected"), [(1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (None, "–")])
def test_milliseconds(value, expected: str) -> None:
    assert milliseconds(value) == expected
    assert count(999) == "999"
    assert count(1_500_000_000) == "1.50G"


def test_markdown_tables_have_as_many_cells_as_headings() -> None:
    text = markdown_report(report())
    tables = re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE)
    assert len(tables) >= 7
    for found in tables:
        assert len({line.count("|") for line in found.strip().splitlines()}) == 1
    for expected in (
        "## Recall of each class, %",
        "FER+ annotators",
        "McNemar",
        "upload ms",
        "peak memory",
        "a machine",
    ):
        assert expected in text


def test_the_web_page_works_in_a_browser(tmp_path: Path) -> None:
    """A real Chromium sorts the table, hides an engine in table and plots, and lights up a row's point."""
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    chromium = pytest.importorskip("chromium")
    path = tmp_path / "report.html"
    path.write_text(html_report(report()), encoding="utf-8")
    with chromium.launch() as browser:
        page = browser.new_page()
        failures: list[str] = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on(
            "request", lambda request: failures.append(request.url) if not request.url.startswith("file:") else None
        )
        page.goto(path.as_uri())
        first = page.locator("#rows tbody tr").first
        page.locator("#rows th", has_text="p50 ms").click()
        assert first.get_attribute("data-key") in ("plain on ort-cpu", "B on torch-cuda")
        page.locator("#rows th", has_text="p50 ms").click()
        assert first.get_attribute("data-key") == "facex on peer"
        page.locator("#rows th", has_text="GFLOPs").click()
        page.locator("#rows th", has_text="GFLOPs").click()
        assert page.locator("#rows tbody tr").last.get_attribute("data-key") == "facex on peer"  # no figure: last
        page.locator('input[value="peer"]').uncheck()
        assert not page.locator('tr[data-key="facex on peer"]').is_visible()
        assert not page.locator('g.point[data-key="facex on peer"]').first.is_visible()
        page.locator('tr[data-key="B+E on ort-cpu"]').hover()
        assert "lit" in page.locator('g.point[data-key="B+E on ort-cpu"]').first.get_attribute("class")
        page.locator('select[data-of="confusion"]').select_option("1")
        assert page.locator("#confusion > div:visible").count() == 1
        assert failures == []


def test_control_characters_of_a_name_are_visible_on_the_page() -> None:
    drawn = report()
    rows = (replace(drawn.rows[0], name="a\x1b[2Jb"), *drawn.rows[1:])
    text = html_report(replace(drawn, rows=rows))
    assert "\x1b" not in text
    assert "a\\x1b[2Jb" in text
