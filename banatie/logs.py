"""How the program logs: one line an event, as text or as JSON, on standard error.

`about` says what the lines of a block are about (a request, a generation), so that whoever logs in
it, a library too, need not know. What is worth a line, each module decides; prompts and keys never
are.
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

CHATTY = ("huey", "httpx", "httpx2", "httpcore", "httpcore2", "filelock", "PIL", "urllib3")
"""Libraries whose lines below a warning are about their own affairs."""

_about: ContextVar[Mapping[str, object]] = ContextVar("about", default=MappingProxyType({}))
_OWN = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_encode = json.JSONEncoder(default=str).encode
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Give every line that this thread or task logs in the block these fields, but for None."""
    known = {name: value for name, value in fields.items() if value is not None}
    token = _about.set({**_about.get(), **known})
    try:
        yield
    finally:
        _about.reset(token)


def set_up(level: str, form: str, stream: TextIO | None = None) -> None:
    """Let everything from `level` on be logged to `stream` (standard error) as `text` or `json`.

    What nobody catches, and Python's own warnings, become log lines too. A process that logs its
    own way already goes on doing so.
    """
    if logging.root.handlers:
        return
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.root.addHandler(handler)
    logging.root.setLevel(level.upper())
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def adopt(*names: str) -> None:
    """Let these libraries log as everybody does, and not to handlers of their own."""
    for name in names:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True


class TextLines(logging.Formatter):
    """Lines for people; the fields stand at the end, and a traceback below."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, in which nobody can begin another one."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        return _CONTROL.sub(_escape, super().formatMessage(record) + fields)


class JsonLines(logging.Formatter):
    """One JSON object a line, in ASCII; a traceback is one of its strings."""

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
    """What the line is about, and what was given as `extra`."""
    given = {name: value for name, value in vars(record).items() if name not in _OWN}
    return {**_about.get(), **given}


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    logger.critical("the program ends by what nobody caught", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_type is SystemExit:
        return
    name = arguments.thread.name if arguments.thread else "?"
    found = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
    logger.critical("the thread %s ends by what nobody caught", name, exc_info=found)
