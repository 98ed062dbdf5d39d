"""From files named on a command line to rows and annotated pictures: what `ferdeploy predict` does, step by step.

`inputs` finds the files, `places` says where their annotated copies go, `read` reads each, `journal` remembers what is
done, `rows` gives results their columns, `table_files` writes those, `draw` paints them onto the picture.
"""

from __future__ import annotations
