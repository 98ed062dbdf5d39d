"""Photos, videos and cameras: from files named on a command line to rows and annotated copies.

`inputs` finds the files and `outputs` names their annotated copies. `read` reads each file. `journal` remembers what
is done, `rows` gives results their columns, `table_files` writes them, and `draw` annotates a picture.
For videos, `decode` gives frames, `track` follows each face, `smooth` steadies its probabilities, `render` and
`encode` write an annotated copy, and `plot` draws probabilities over time. `live` reads a camera and shows it in
`window`.
"""

from __future__ import annotations
