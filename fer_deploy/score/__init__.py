"""Millions of faces: score a whole data set on one machine or a cluster. `ferdeploy score`; needs the extra `scale`.

The input is split into parts, once, and the split is kept beside the output (`plan`). A part becomes one Parquet file,
which is there whole or not at all (`part`). Ray Data hands parts to workers, anywhere, again where one died (`run`).
What is there is done: a run that was stopped, killed or doubled can only write the same file again, so each row of the
input is in the output exactly once.

From the floor up: `places` (folders and object stores), `sources` (Parquet, pictures, WebDataset), `plan`, `part`,
`run`.
"""

from __future__ import annotations
