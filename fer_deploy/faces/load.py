"""Find a data set and read it, whatever layout it is in."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from fer_deploy.errors import DataError
from fer_deploy.faces.cache import cached
from fer_deploy.faces.dataset import OFFICIAL_COUNTS, SPLITS, Dataset
from fer_deploy.faces.table import read_table
from fer_deploy.files import sha256_of

HELP = (
    "get fer2013.csv from Kaggle (Challenges in Representation Learning: Facial Expression Recognition), "
    "or use --data synthetic, which needs nothing"
)


def load_dataset(source: str | Path | None, *, workspace: Path = Path(".")) -> Dataset:
    """Read a data set.

    Args:
        source: a file or folder, 'synthetic' or 'synthetic:N' (N faces to learn from); None takes $FERDEPLOY_DATA, then
            data/ in the workspace.
        workspace: the folder in which data/ is looked for.

    Raises:
        DataError: there is no data, or it cannot be used as it is.
    """
    if source is None:
        source = os.environ.get("FERDEPLOY_DATA") or workspace / "data"
        if not Path(source).exists():
            raise DataError(f"no data: neither $FERDEPLOY_DATA nor {source} is there; {HELP}")
    if isinstance(source, str) and source.partition(":")[0] == "synthetic":
        from fer_deploy.faces.synthetic import synthetic_dataset

        return synthetic_dataset(int(source.partition(":")[2] or 7000))
    path = Path(source)
    if path.is_dir():
        path = path / "fer2013.csv"
    if not path.is_file():
        raise DataError(f"no data at {path}; {HELP}")

    def read() -> dict:
        with path.open("rb") as stream:
            return read_table(stream, path.name)

    splits = cached(f"table {sha256_of(path)}", read)
    official = all(splits[name].counts == OFFICIAL_COUNTS[name] for name in SPLITS)
    return Dataset.of(
        "FER2013" if official else path.name,
        splits["training"],
        validation=splits["validation"],
        test=splits["test"],
        official=official,
    )
