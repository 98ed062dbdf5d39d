"""Write a result: report.json, the pages made from it, and every face's answer where that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer_deploy.bench.pages import SortKey
from fer_deploy.bench.pages.html import html_report
from fer_deploy.bench.pages.markdown import markdown_report
from fer_deploy.bench.report import Report, save_report
from fer_deploy.bench.run import BenchResult
from fer_deploy.emotions import EMOTIONS
from fer_deploy.files import write_text


def save_all(result: BenchResult, folder: Path, *, by: SortKey = "accuracy", predictions: bool = False) -> list[Path]:
    """Write everything into `folder`; gives the files in the order in which they were written."""
    written = save_pages(result.report, folder, by=by)
    return [*written, *save_predictions(result, folder / "predictions")] if predictions else written


def save_pages(report: Report, folder: Path, *, by: SortKey = "accuracy") -> list[Path]:
    """Write report.json and the pages made from it."""
    json_path, markdown_path, page_path = (folder / f"report.{kind}" for kind in ("json", "md", "html"))
    save_report(report, json_path)
    write_text(markdown_path, markdown_report(report, by=by))
    write_text(page_path, html_report(report, by=by))
    return [json_path, markdown_path, page_path]


def save_predictions(result: BenchResult, folder: Path) -> list[Path]:
    """Write one CSV a scored row: the face's row in the data, its label, the answer, seven probabilities."""
    written = []
    for label, probabilities in result.probabilities.items():
        path = folder / f"{label.replace(' on ', '.').replace('/', '~')}.csv"
        lines = ["row,label,predicted," + ",".join(EMOTIONS)]
        names = np.asarray(EMOTIONS)
        answers = names[probabilities.argmax(axis=1)]
        for row, true, answer, values in zip(result.rows, names[result.labels], answers, probabilities, strict=True):
            lines.append(f"{row},{true},{answer}," + ",".join(f"{value:.6f}" for value in values))
        write_text(path, "\n".join(lines) + "\n")
        written.append(path)
    return written
