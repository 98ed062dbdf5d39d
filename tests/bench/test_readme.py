"""The README gets its figures from the published reports, and keeps its own text."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from drawn_report import report
from readme import Sources, filled_readme, main, outdated

from fer_deploy.bench.report import Row, save_report
from fer_deploy.errors import MeasurementError

README = (
    "# x\n<!-- bench:results -->\nold\n<!-- /bench:results -->\ntext\n<!-- bench:study -->\n<!-- /bench:study -->\n"
)


def test_the_readme_keeps_its_own_text_and_gets_the_figures() -> None:
    searched = next(row for row in report().rows if row.name == "B" and row.engine == "ort-cpu")
    study = replace(report(), rows=(*report().rows, replace(searched, name="B+E.searched")))
    sources = Sources(report(), study, {"B": "24 of 102"})
    text = filled_readme(README, sources)
    assert text.startswith("# x\n<!-- bench:results -->\nFER2013, PrivateTest, 400 faces.")
    assert "old" not in text
    assert "\ntext\n" in text
    assert "| B+E ●▲ | ort-cpu | 75.00 ±" in text
    assert "torch-cuda" not in text
    lines = text.splitlines()
    pair = next(number for number, line in enumerate(lines) if line.startswith("| B+E | 68.74 † | 75.00 ±"))
    assert re.search(r"\| 75.00 ±\S+ † \|", lines[pair])  # with the study's weights, as its own
    assert lines[pair + 1].startswith("| B+E.searched | – | ")
    assert "†" not in lines[pair + 1]
    assert "| 24 of 102 |" in next(line for line in lines if line.startswith("| B | 66.66 |"))
    assert filled_readme(text, sources) == text


def test_the_readme_shows_the_spread_between_seeds() -> None:
    row = next(row for row in report().rows if row.name == "B" and row.engine == "ort-cpu")
    assert row.quality is not None

    def as_seed(name: str, accuracy: float, **change: object) -> Row:
        quality = replace(row.quality, accuracy=replace(row.quality.accuracy, value=accuracy))
        return replace(row, name=name, quality=quality, **change)

    seeds = (
        as_seed("B", 0.70),
        as_seed("B.seed1", 0.72),
        as_seed("B.seed2", 0.74),
        as_seed("B.seed3", 0.1, engine="torch-cpu"),
        as_seed("B.seed4", 0.1, status="absent"),
        as_seed("B.seed1+E~mirror", 0.75),
        as_seed("B.seed2+E.seed2~mirror", 0.76),
        as_seed("E", 0.8),  # one alone has no spread
    )
    sources = Sources(report(), report(), {}, replace(report(), rows=seeds))
    text = filled_readme("<!-- bench:seeds -->\n<!-- /bench:seeds -->\n", sources)
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert rows[0].startswith("| B+E~mirror | 75.00, 76.00 | 75.50 ± 0.71 |")
    assert rows[1].startswith("| B | **70.00**, 72.00, 74.00 | 72.00 ± 2.00 |")
    assert len(rows) == 2
    with pytest.raises(MeasurementError, match=r"no benchmarks/seeds/report\.json"):
        filled_readme("<!-- bench:seeds -->\n<!-- /bench:seeds -->\n", Sources(report(), report(), {}))


@pytest.mark.parametrize(
    ("text", "message"),
    [("<!-- bench:nothing -->", "block 'nothing'"), ("<!-- bench:study -->", "study' has no end")],
)
def test_a_wrong_block_is_an_error(text: str, message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        filled_readme(text, Sources(report(), report(), {}))


def test_readme_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], folder=tmp_path) == 1
    assert "error:" in capsys.readouterr().err
    save_report(report(), tmp_path / "benchmarks" / "report.json")
    (tmp_path / "README.md").write_text(README)
    assert main(["--check"], folder=tmp_path) == 1
    assert "README.md differs" in capsys.readouterr().err
    assert main([], folder=tmp_path) == 0
    assert main(["--check"], folder=tmp_path) == 0
    assert (tmp_path / "benchmarks" / "accuracy-gflops.svg").is_file()
    path = tmp_path / "README.md"
    path.write_text(path.read_text().replace("75.00", "85.00"))
    assert outdated(tmp_path) == [path]
    assert main([], folder=tmp_path) == 0
    save_report(replace(report(), rows=()), tmp_path / "benchmarks" / "study" / "report.json")
    assert outdated(tmp_path) == [path]
    assert main([], folder=tmp_path) == 0
    assert "| B+E | 68.74 † | – |" in path.read_text()
    assert "| B+E ●▲ | ort-cpu | 75.00 ±" in path.read_text()


def test_the_repositorys_readme_agrees_with_its_report() -> None:
    folder = Path(__file__).resolve().parents[2]
    if not (folder / "benchmarks" / "report.json").is_file():
        pytest.skip("no published report yet")
    assert outdated(folder) == []
