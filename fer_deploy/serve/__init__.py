"""The HTTP service: the ONNX file behind a bounded queue. `ferdeploy serve` starts it; needs the extra `serve`.

From the bottom up: `settings` (every limit), `decoding` and `batching` (the queue and its threads), `metrics`, `log`,
`schemas` and `problems` (answers and errors), `bodies` (what requests bring), `connections` (slow clients are cut off),
`checks` (hosts and ambiguous requests), `routes`, `observing` and `application` (ASGI), and `server` (start, signals
and graceful stop).
"""

from __future__ import annotations
