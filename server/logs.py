"""Log lines on stderr: one JSON object each for machines, plain ones on a terminal. The same in every process.

What a line says besides its message goes into `extra=fields(...)`: JSON members, or ` name=value` on a terminal.
"""

import json
import logging
import re
import sys
import time
from typing import Any, Literal

import orjson

Format = Literal["auto", "json", "plain"]
Level = Literal["debug", "info", "warning", "error"]

# The W3C's trace context, version 00: version, trace id, parent id, flags. https://www.w3.org/TR/trace-context/
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_LIBRARIES = ("litserve", "uvicorn", "uvicorn.error")


def configure(log_format: Format, level: Level) -> None:
    """Sets up every logger of this process, LitServe's and uvicorn's too. Again after LitServe has set its handlers."""
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if as_json else PlainFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)  # Pillow's, of damaged pictures
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(max(logging.WARNING, logging.getLogger().level))  # they log every start and stop


def fields(**values: object) -> dict[str, dict[str, object]]:
    """For `log.info("…", extra=fields(client="10.0.0.1"))`. What is None is left out."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


def trace_id(traceparent: bytes | None) -> str | None:
    """The caller's trace id, from the header `traceparent`; None if there is none, or one of another form."""
    match = _TRACEPARENT.fullmatch(traceparent or b"")
    return match[1].decode() if match else None


class JsonFormatter(logging.Formatter):
    """{"time": ISO 8601 UTC, "level", "logger", "process", "message", …fields, "exception"} on one line."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # for example a file name that is not UTF-8
            return json.dumps(line, default=str)


class PlainFormatter(logging.Formatter):
    """`2026-01-31 12:00:00,000 INFO message name=value`"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        values: dict[str, object] = getattr(record, "fields", {})
        return super().formatMessage(record) + "".join(f" {name}={value}" for name, value in values.items())
