"""Structured logs on standard output: one JSON object per line, or one readable line with the format `text`.

Nothing that could identify a person is logged: no picture, no result, no client address, no file name.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

LOGGER = logging.getLogger("fer_deploy.serve")
"""The logger of the service. Callers pass an event's fields as `extra={"fields": {...}}`."""

_LEVELS = {"INFO": "info", "WARNING": "warning", "ERROR": "error", "CRITICAL": "error", "DEBUG": "debug"}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC, ISO 8601), level, event, then the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": _LEVELS.get(record.levelname, record.levelname.lower()),
            "event": record.getMessage(),
        }
        content |= getattr(record, "fields", {})
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=True, default=str)


class TextFormatter(logging.Formatter):
    """`12:30:01 request  status=200 milliseconds=1.2`, for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line; a traceback follows on further lines."""
        fields = "  ".join(f"{name}={value}" for name, value in getattr(record, "fields", {}).items())
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        line = f"{time} {mark}{record.getMessage()}  {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up_logs(format_name: str, *, stream: TextIO | None = None) -> None:
    """Send the logs of the service and the errors of uvicorn to a stream.

    Args:
        format_name: `json`, `text`, or `auto` for text on a terminal and json elsewhere.
        stream: standard output by default.
    """
    stream = stream or sys.stdout
    as_text = format_name == "text" or (format_name == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    for name, level in (("fer_deploy.serve", logging.INFO), ("uvicorn", logging.ERROR), ("asyncio", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False


def event(name: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Log one event.

    Args:
        name: what happened, in one or two fixed words, such as `request` or `listening`.
        level: a level of the module `logging`.
        error: an exception whose traceback is logged too.
        fields: numbers and short strings.
    """
    LOGGER.log(level, name, extra={"fields": fields}, exc_info=error)
