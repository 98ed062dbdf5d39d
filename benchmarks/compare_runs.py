"""Compare the last two saved runs of the benchmark suites, as ratios of medians.

    pytest benchmarks --benchmark-only --benchmark-autosave && python benchmarks/compare_runs.py

pytest-benchmark saves runs under `.benchmarks/`. A ratio above 1 is slower than before; the exit code is 1 when one
exceeds `--fail-above` (default 1.25: times of two runs vary widely on a shared machine).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def saved_runs(folder: Path) -> list[Path]:
    """The saved runs, oldest first: pytest-benchmark numbers them in their names."""
    return sorted(folder.glob("*/[0-9]*_*.json"), key=lambda path: (int(path.name.split("_")[0]), path.name))


def medians(path: Path) -> dict[str, float]:
    """Each benchmark's median, in seconds."""
    benchmarks = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
    return {entry["fullname"]: entry["stats"]["median"] for entry in benchmarks}


def ratios(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """New median over old, of the benchmarks that both runs have."""
    return {name: after[name] / before[name] for name in after if name in before}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the ratios, slowest first; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".benchmarks"))
    parser.add_argument("--fail-above", type=float, default=1.25)
    options = parser.parse_args(arguments)
    runs = saved_runs(options.folder)
    if len(runs) < 2:
        print(f"{len(runs)} saved run in {options.folder}: nothing to compare yet")
        return 0
    before, after = medians(runs[-2]), medians(runs[-1])
    by_name = ratios(before, after)
    print(f"{runs[-1].name} over {runs[-2].name}")
    for name, ratio in sorted(by_name.items(), key=lambda item: -item[1]):
        print(f"{ratio:6.2f}  {after[name] * 1e3:10.3f} ms  {name}")
    slower = [name for name, ratio in by_name.items() if ratio > options.fail_above]
    print(f"{len(slower)} of {len(by_name)} are more than {options.fail_above:g} times as slow")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
