"""The HTTP service: the ONNX file behind a bounded queue. `ferdeploy serve` starts it; needs the extra `serve`.

From the floor up: `settings` (every limit, in one place), `batching` (the queue, and the threads that empty it),
`metrics` and `log` (what is told of it), `application` (routes, errors, OpenAPI), `protocol` (a client that is slow
or endless is cut off), `server` (start, signals, the graceful end).
"""

from __future__ import annotations
