"""The published report: read and written again it is the same, and its pages show its figures."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fer_deploy.bench.pages.html import html_report
from fer_deploy.bench.pages.markdown import markdown_report
from fer_deploy.bench.report import load_report, save_report

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
REPORTS = [path for path in (FOLDER, FOLDER / "seeds", FOLDER / "study") if (path / "report.json").is_file()]
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")

pytestmark = pytest.mark.skipif(not REPORTS, reason="no published report")


class Cells(HTMLParser):
    """The cells of a page's tables, each as (text, value that the page sorts by)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, str | None]]] = []
        self._cell: tuple[str, str | None] | None = None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._cell = ("", dict(attrs).get("data-value"))

    def handle_data(self, data):
        if self._cell is not None:
            self._cell = (self._cell[0] + data, self._cell[1])

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self._cell is not None:
            self.rows[-1].append(self._cell)
            self._cell = None


def markdown_cells(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]


def test_the_published_report_is_written_byte_for_byte_as_it_was_read(tmp_path: Path) -> None:
    save_report(load_report(FOLDER / "report.json"), tmp_path / "report.json")
    assert (tmp_path / "report.json").read_bytes() == (FOLDER / "report.json").read_bytes()


@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: folder.name)
def test_a_published_markdown_page_shows_the_figures_of_its_report(folder: Path) -> None:
    published = (folder / "report.md").read_text(encoding="utf-8")
    rendered = markdown_report(load_report(folder / "report.json"))
    cells = markdown_cells(published)
    assert len(cells) > 40
    assert markdown_cells(rendered) == cells
    assert rendered == published, "write the pages again: ferdeploy bench --from report.json --output FOLDER"


def test_the_published_html_page_shows_the_figures_of_its_report() -> None:
    published = (FOLDER / "report.html").read_text(encoding="utf-8")
    rendered = html_report(load_report(FOLDER / "report.json"))
    cells = Cells(published).rows
    assert len(cells) > 40
    assert Cells(rendered).rows == cells
    assert rendered == published, "write the page again: ferdeploy bench --from report.json --output FOLDER"


def test_the_published_pages_agree_in_every_figure_of_the_main_table() -> None:
    in_markdown = markdown_cells((FOLDER / "report.md").read_text(encoding="utf-8"))
    in_html = [[text.strip() for text, _ in row] for row in Cells((FOLDER / "report.html").read_text("utf-8")).rows]
    width = len(in_markdown[0])
    main = [row for row in in_markdown if len(row) == width][2:]
    assert len(main) > 20
    for row in main:
        assert NUMBER.findall(" ".join(row)) in [NUMBER.findall(" ".join(other)) for other in in_html]
