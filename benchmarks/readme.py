"""Write the published report's tables into the README, and its plots as SVG files.

    python benchmarks/readme.py            rewrite README.md and benchmarks/*.svg from benchmarks/report.json
    python benchmarks/readme.py --check    exit 1 and name the files that differ from the report

The content between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` is replaced. The blocks are `results` (models and
other packages), `engines` (times by engine), `study` (the study's rows and ours, from benchmarks/study/report.json if
the study's variants were scored separately) and `seeds` (the variation between training seeds, from
benchmarks/seeds/report.json).
"""

from __future__ import annotations

import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from blocks import with_block

from fer_deploy.bench.pages.columns import COLUMNS, NONE, accuracy_cell, milliseconds, sort_rows
from fer_deploy.bench.pages.markdown import markdown_table
from fer_deploy.bench.pages.plots import cost_plot, latency_plot
from fer_deploy.bench.pages.sections import (
    COST_MARK,
    COST_MEANING,
    TIME_MARK,
    TIME_MEANING,
    Table,
    model_table,
    threads_text,
)
from fer_deploy.bench.quality import Quality
from fer_deploy.bench.report import OK, PEER, Report, Row, load_report
from fer_deploy.errors import FerDeployError, MeasurementError
from fer_deploy.files import write_text
from fer_deploy.recipes import load_recipe
from fer_deploy.study import STUDY_ROWS, STUDY_VARIANTS
from fer_deploy.training.run import list_runs

FILE_ENGINE = "ort-cpu"
"""The engine whose rows the README shows for a file."""

SEARCHED = ".searched"
"""Suffix of the name of a study's fusion with weights from our own search."""

SHOWN = ("model", "engine", "accuracy %", "unseen %", "ECE", "GFLOPs", "params", "bytes", "p50 ms", "faces/s")
"""The columns of the README's first table."""


def results_block(report: Report) -> str:
    """Files on ONNX Runtime and other packages, sorted by accuracy, with the plots and the conditions."""
    rows = [row for row in report.rows if row.status == OK and row.engine in (FILE_ENGINE, PEER)]
    columns = [column for column in COLUMNS if column.title in SHOWN]
    return "\n\n".join(
        [
            _measured(report),
            markdown_table(model_table(report, rows, columns=columns)),
            "Accuracy ± half of its 95 % interval; *unseen*: on the faces whose pixels occur in no other split;\n"
            f"{COST_MARK}: {COST_MEANING}; {TIME_MARK}: {TIME_MEANING}.",
            "![Accuracy against GFLOPs](benchmarks/accuracy-gflops.svg)",
            "![Accuracy against time](benchmarks/accuracy-time.svg)",
        ]
    )


def engines_block(report: Report) -> str:
    """Median single-face time, ms, of each fp32 model on each measured engine."""
    rows = [row for row in report.rows if row.status == OK and row.kind in ("file", "run") and row.precision == "fp32"]
    engines = list(dict.fromkeys(row.engine for row in rows))
    models = list(dict.fromkeys(row.model for row in sort_rows(rows)))
    times = {(row.model, row.engine): milliseconds(row.face_ms) for row in rows}
    lines = [[model, *(times.get((model, engine), NONE) for engine in engines)] for model in models]
    return _table(["median ms of one face", *engines], lines)


def study_block(report: Report, epochs: Mapping[str, str]) -> str:
    """The study's rows and ours of the same name, side by side; after a fusion also ours with searched weights.

    `epochs` gives the length of our training by the row's name.
    """
    ours = {
        row.name: row
        for row in report.rows
        if row.status == OK and row.engine == FILE_ENGINE and row.precision == "fp32"
    }
    lines = []
    for row in STUDY_ROWS:
        counterpart, searched = ours.get(row.name), ours.get(row.name + SEARCHED)
        mark = " †" if row.remark else ""
        accuracy, gflops, efficiency = _cells(counterpart)
        lines.append(
            [
                row.name,
                f"{row.accuracy * 100:.2f}" + mark,
                accuracy + (mark if counterpart else ""),
                f"{row.gflops:.5f}",
                gflops,
                f"{row.efficiency:.2f}",
                efficiency,
                epochs.get(row.name, NONE) if counterpart else NONE,
            ]
        )
        if searched:
            accuracy, gflops, efficiency = _cells(searched)
            lines.append([searched.name, NONE, accuracy, NONE, gflops, NONE, efficiency, NONE])
    heading = [
        "variant", "study's accuracy %", "ours", "study's GFLOPs", "ours", "study's efficiency", "ours",
        "our epochs, of the study's",
    ]  # fmt: skip
    remark = next(row.remark for row in STUDY_ROWS if row.remark)
    note = f"† {remark}, by the study; our file of that name has the study's weights.\n"
    note += f"`{SEARCHED}`: weights searched on PublicTest."
    measured = f"FER2013, PrivateTest, ONNX Runtime, measured {report.created[:10]}."
    return _table(heading, lines) + f"\n\n{note}\n{measured}"


def seeds_block(report: Report | None, released: Report) -> str:
    """Models trained with several seeds: each seed's accuracy (the released one in bold), their mean and spread.

    MeasurementError without a report.
    """
    if report is None:
        raise MeasurementError("the README has a block 'seeds', but there is no benchmarks/seeds/report.json")
    groups: dict[str, list[tuple[Row, Quality]]] = defaultdict(list)
    for row in report.rows:
        if row.status == OK and row.engine == FILE_ENGINE and row.quality:
            groups[re.sub(r"\.seed\d+", "", row.name)].append((row, row.quality))
    names = {row.name for row in released.rows}
    lines: list[tuple[float, list[str]]] = []
    for name, seeds in groups.items():
        if len(seeds) < 2:
            continue
        accuracies = [100 * quality.accuracy.value for _, quality in seeds]
        cells = [
            f"**{value:.2f}**" if row.name in names else f"{value:.2f}"
            for (row, _), value in zip(seeds, accuracies, strict=True)
        ]
        errors = ", ".join(f"{quality.calibration_error:.3f}" for _, quality in seeds)
        mean, gflops = statistics.mean(accuracies), seeds[0][0].gflops
        spread = f"{mean:.2f} ± {statistics.stdev(accuracies):.2f}"
        lines.append((mean, [name, ", ".join(cells), spread, errors, f"{gflops:.4f}" if gflops else NONE]))
    lines.sort(key=lambda line: -line[0])
    heading = ["model", "accuracy % of each seed", "mean ± standard deviation", "ECE", "GFLOPs"]
    note = "In bold: the released seed. FER2013, PrivateTest, ONNX Runtime"
    return _table(heading, [line for _, line in lines]) + f"\n\n{note}, measured {report.created[:10]}."


def _cells(row: Row | None) -> tuple[str, str, str]:
    """Accuracy, GFLOPs and efficiency of one of our rows; NONE for missing figures."""
    if row is None:
        return NONE, NONE, NONE
    gflops = f"{row.gflops:.5f}" if row.gflops else NONE
    return accuracy_cell(row), gflops, f"{row.efficiency:.2f}" if row.efficiency else NONE


def epochs_trained(folder: Path) -> dict[str, str]:
    """The epochs of our runs of the study's variants and of the study's own, as `24 of 102`."""
    return {
        run.name: f"{run.record['epochs_run']} of {sum(stage.ran for stage in load_recipe(run.name).stages)}"
        for run in list_runs(folder)
        if run.name in STUDY_VARIANTS
    }


@dataclass(frozen=True)
class Sources:
    """The sources of the README's blocks.

    Attributes:
        report: benchmarks/report.json.
        study: benchmarks/study/report.json, if the study's variants were scored separately; else the same report.
        epochs: epochs trained, by variant.
        seeds: benchmarks/seeds/report.json; None if no seeds were compared.
    """

    report: Report
    study: Report
    epochs: Mapping[str, str]
    seeds: Report | None = None

    @classmethod
    def of(cls, folder: Path) -> Sources:
        """The sources in a workspace; MeasurementError for a report that cannot be read."""
        report = load_report(folder / "benchmarks" / "report.json")
        apart = folder / "benchmarks" / "study" / "report.json"
        seeds = folder / "benchmarks" / "seeds" / "report.json"
        return cls(
            report,
            load_report(apart) if apart.is_file() else report,
            epochs_trained(folder),
            load_report(seeds) if seeds.is_file() else None,
        )


BLOCKS: Mapping[str, Callable[[Sources], str]] = MappingProxyType(
    {
        "results": lambda sources: results_block(sources.report),
        "engines": lambda sources: engines_block(sources.report),
        "study": lambda sources: study_block(sources.study, sources.epochs),
        "seeds": lambda sources: seeds_block(sources.seeds, sources.report),
    }
)
"""The blocks by name."""


def filled_readme(readme: str, sources: Sources) -> str:
    """The README's text with each of its blocks replaced.

    Raises:
        MeasurementError: a block is unknown, or has no end.
    """
    for name in re.findall(r"<!-- bench:(\S+) -->", readme):
        if name not in BLOCKS:
            raise MeasurementError(f"the README has an unknown block {name!r}: the blocks are {', '.join(BLOCKS)}")
        readme = with_block(readme, f"bench:{name}", BLOCKS[name](sources))
    return readme


def derived_files(folder: Path) -> dict[Path, str]:
    """Everything in a workspace that is derived from its reports: path and wanted content."""
    sources = Sources.of(folder)
    readme = folder / "README.md"
    try:
        text = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise MeasurementError(f"{readme}: {error.strerror or error}") from error
    return {
        readme: filled_readme(text, sources),
        folder / "benchmarks" / "accuracy-gflops.svg": cost_plot(sources.report, standalone=True) + "\n",
        folder / "benchmarks" / "accuracy-time.svg": latency_plot(sources.report, standalone=True) + "\n",
    }


def outdated(folder: Path) -> list[Path]:
    """The derived files that differ from what the report gives."""
    return [
        path
        for path, wanted in derived_files(folder).items()
        if not path.is_file() or path.read_text(encoding="utf-8") != wanted
    ]


def main(arguments: Sequence[str], *, folder: Path = Path()) -> int:
    """Rewrite the files, or with `--check` compare them; returns the exit code."""
    try:
        if "--check" in arguments:
            stale = outdated(folder)
            for path in stale:
                print(f"{path} differs from the report: run python benchmarks/readme.py", file=sys.stderr)
            return 1 if stale else 0
        for path, wanted in derived_files(folder).items():
            write_text(path, wanted)
            print(f"wrote {path}")
    except FerDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and the others figures."""
    numeric = (False, *[True] * (len(heading) - 1))
    return markdown_table(Table(tuple(heading), tuple(map(tuple, rows)), numeric))


def _measured(report: Report) -> str:
    data, machine = report.data, report.machine
    scored = f"{data.name}, {data.split}, {data.rows:,} faces" if data else "Nothing was scored"
    versions = machine["versions"]
    instructions = ", ".join(machine["instructions"])
    processor = machine["processor"] + (f" ({instructions})" if instructions else "")
    lines = [
        f"{scored}.",
        f"{processor}, {threads_text(report)}, batch 1, ONNX Runtime {versions.get('onnxruntime', 'absent')}, "
        f"measured {report.created[:10]}.",
        *(f"Before you quote a figure: {warning}." for warning in report.warnings),
        "The whole report is in [benchmarks/report.md](benchmarks/report.md), every sample in "
        "[report.json](benchmarks/report.json).",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
