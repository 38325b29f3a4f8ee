"""Logging: one line for each event, as text or JSON, on standard error.

`log_context` adds fields such as a request id or a generation id to every line that is logged
inside its block, by libraries too. This module does not know what is worth logging; each module
decides that. Prompts and API keys are never logged.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import TextIO

logger = logging.getLogger(__name__)

NOISY_LOGGERS = ("huey", "httpx", "httpx2", "httpcore", "httpcore2", "filelock", "PIL", "urllib3")
"""Libraries whose messages below a warning concern only their own internals."""

_context: ContextVar[Mapping[str, object]] = ContextVar("log_context", default=MappingProxyType({}))
_STANDARD_ATTRIBUTES = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_encode = json.JSONEncoder(default=str).encode
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@contextmanager
def log_context(**fields: object) -> Iterator[None]:
    """Add these fields to every line that this thread or task logs in the block; skips None."""
    given = {name: value for name, value in fields.items() if value is not None}
    token = _context.set({**_context.get(), **given})
    try:
        yield
    finally:
        _context.reset(token)


def configure_logging(level: str, form: str, stream: TextIO | None = None) -> None:
    """Log everything from `level` on to `stream` (default: standard error) as `text` or `json`.

    Uncaught exceptions and Python's warnings become log lines too. Does nothing in a process whose
    logging is configured already.
    """
    if logging.root.handlers:
        return
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.root.addHandler(handler)
    logging.root.setLevel(level.upper())
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def capture_library_logs(*names: str) -> None:
    """Remove the handlers of these libraries, so that their messages reach the root logger."""
    for name in names:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True


class TextLines(logging.Formatter):
    """Lines for people: the context fields at the end, a traceback below."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, with control characters escaped, so that a message cannot forge another."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        return _CONTROL_CHARACTERS.sub(_escape, super().formatMessage(record) + fields)


class JsonLines(logging.Formatter):
    """One JSON object in ASCII for each line; a traceback is one of its strings."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = datetime.fromtimestamp(record.created, UTC).replace(tzinfo=None)
        line = {
            "time": moment.isoformat(timespec="milliseconds") + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """The context fields, and those given as `extra`."""
    extra = {
        name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES
    }
    return {**_context.get(), **extra}


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    logger.critical("uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_type is SystemExit:
        return
    name = arguments.thread.name if arguments.thread else "?"
    logger.critical("uncaught exception in thread %s", name, exc_info=arguments.exc_value)
