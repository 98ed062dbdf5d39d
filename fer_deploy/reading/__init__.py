"""Read faces in pictures, videos and a camera's stream: from file names to rows, annotated copies and plots.

* `inputs` finds the files, `outputs` decides where copies go, `read` reads one file after the other.
* `pictures` reads one picture; `draw` annotates it.
* `videos` reads one video: `decode` gives its frames, which `timeline` numbers; `track` follows each face and `smooth`
  averages its probabilities. `encode` writes an annotated copy and `plot` draws probabilities over time.
* `live` reads a camera and shows it in a `window`.
* `rows` defines the columns of a result, `tables` writes them as JSON, CSV or Parquet, and `journal` remembers on disk
  what is done, so that a run can be resumed.
"""

from __future__ import annotations
