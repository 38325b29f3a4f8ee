"""Log lines: one an event, whatever is in it, and what they are about."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from banatie.logs import JsonLines, TextLines, capture_library_logs, log_context

Read = Callable[[], list[str]]
FORMATTERS = {"text": TextLines, "json": JsonLines}
EVIL = 'a\nb\r\x00\x1b[31m\x85\u2028"\ud800é'
"""What a path or a name may hold when somebody wants to write into the log."""


@pytest.fixture(params=FORMATTERS)
def form(request) -> str:
    return request.param


@pytest.fixture
def logger(form):
    """A logger whose lines `lines` reads."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(FORMATTERS[form]())
    logger = logging.getLogger("banatie.test_logs")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.stream = stream
    yield logger
    logger.removeHandler(handler)
    logger.propagate = True


@pytest.fixture
def lines(logger) -> Read:
    return lambda: logger.stream.getvalue().splitlines()


json_only = pytest.mark.parametrize("form", ["json"], indirect=True)
text_only = pytest.mark.parametrize("form", ["text"], indirect=True)


def test_whatever_is_in_an_event_it_is_one_line(logger, lines):
    logger.info("GET %s", EVIL, extra={"name_of_it": EVIL})
    with log_context(request_id=EVIL):
        logger.info("again")
    assert len(lines()) == 2


@json_only
def test_a_json_line_says_when_how_grave_who_what_and_about_what(logger, lines):
    with log_context(request_id="r1", generation_id="g1"):
        logger.warning("%d jobs", 3, extra={"seconds": 0.25})
    line = json.loads(lines()[0])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "warning",
        "logger": "banatie.test_logs",
        "process": os.getpid(),
        "message": "3 jobs",
        "request_id": "r1",
        "generation_id": "g1",
        "seconds": 0.25,
    }


@json_only
def test_json_keeps_what_was_said_to_the_letter(logger, lines):
    logger.info("%s", EVIL)
    assert json.loads(lines()[0])["message"] == EVIL
    assert lines()[0].isascii()


@json_only
def test_an_exception_is_in_the_line(logger, lines):
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logger.exception("failed")
    [line] = lines()
    trace = json.loads(line)["exception"]
    assert trace.startswith("Traceback")
    assert "ValueError: first\nsecond" in trace


@json_only
def test_what_json_has_no_form_for_is_shown_as_text(logger, lines):
    logger.info("here", extra={"place": {1}, "kind": ValueError})
    assert json.loads(lines()[0])["kind"] == "<class 'ValueError'>"


@text_only
def test_a_text_line_ends_with_what_it_is_about(logger, lines):
    with log_context(request_id="r1"):
        logger.info("finished", extra={"seconds": 0.25})
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO    banatie.test_logs: "
        r"finished request_id=r1 seconds=0\.25",
        lines()[0],
    )


@json_only
def test_the_context_ends_with_its_block_and_nests_and_is_the_threads_own(logger, lines):
    with log_context(request_id="r1", generation_id=None):
        with log_context(generation_id="g1"):
            logger.info("inner")
            other = threading.Thread(target=lambda: logger.info("elsewhere"))
            other.start()
            other.join()
        logger.info("outer")
    logger.info("after")
    found = [json.loads(line) for line in lines()]
    assert [(f["message"], f.get("request_id"), f.get("generation_id")) for f in found] == [
        ("inner", "r1", "g1"),
        ("elsewhere", None, None),
        ("outer", "r1", None),
        ("after", None, None),
    ]


@json_only
def test_a_captured_library_logs_as_everybody_does(logger, lines):
    library = logging.getLogger("banatie.test_logs.library")
    own = io.StringIO()
    library.addHandler(logging.StreamHandler(own))
    library.propagate = False
    capture_library_logs(library.name)
    library.warning("hello")
    assert own.getvalue() == ""
    assert json.loads(lines()[0])["logger"] == library.name


PROGRAM = """
import logging, sys, threading, warnings
from banatie import logs
logs.configure_logging({level!r}, {form!r})
logging.getLogger("huey").info("chatter")
logging.getLogger("banatie.x").debug("details")
warnings.warn("worn out\\nat the end")
thread = threading.Thread(target=lambda: 1 / 0, name="paint")
thread.start()
thread.join()
logs.configure_logging("debug", "text")
raise RuntimeError("the last\\nword")
"""


def _run(form: str, level: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(form=form, level=level)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    return done.stderr


def test_in_json_nothing_of_a_process_is_anything_but_json():
    lines = [json.loads(line) for line in _run("json", "debug").splitlines()]
    said = [(line["level"], line["logger"]) for line in lines]
    assert said == [
        ("debug", "banatie.x"),
        ("warning", "py.warnings"),
        ("critical", "banatie.logs"),
        ("critical", "banatie.logs"),
    ]
    assert "in thread paint" in lines[2]["message"]
    assert "ZeroDivisionError" in lines[2]["exception"]
    assert lines[3]["exception"].endswith("RuntimeError: the last\nword")


def test_as_text_below_the_level_nothing_is_said():
    said = _run("text", "info")
    assert "details" not in said
    assert "chatter" not in said
    assert "CRITICAL banatie.logs: uncaught exception in thread paint" in said
    assert "ZeroDivisionError" in said
