"""Score a whole data set, millions of faces, on one machine or on a Ray cluster: `ferdeploy score`, extra `score`.

How it works: the input is split into parts once, and the split is stored with the output (`plan`). Each part becomes
one Parquet file, written whole or not at all (`part`). Ray Data hands part numbers to worker processes and hands a part
out again if its worker dies (`workers`). A finished part is never computed again, and a part that is computed twice
gives the same file, so every row of the input is in the output exactly once (`run`).

Modules, lowest first: `options`, `watcher`, `places` (local folders and object stores), `sources` (Parquet files,
folders of pictures, WebDataset shards), `plan`, `part`, `workers`, `run`.

What this room costs, and what has been tried: about 2,400 lines with its command. The tests run every kind of input on
a real Ray on one machine, with workers that are killed, and on an S3 server on the same machine. A cluster of several
machines, GPUs, and the stores behind `gs://`, `abfs://` and `hdfs://` have not been tried.
"""

from __future__ import annotations
