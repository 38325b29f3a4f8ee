"""The terminal: its encoding, text from the command line, and a status line.

Knows no command and no setting.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import click

BAR_WIDTH = 24

_SURROGATE = re.compile("[\ud800-\udfff]")
_ENCODING_ERRORS = "banatie-terminal"


class Text(click.types.StringParamType):
    """Text for people. Bytes that the terminal's encoding cannot decode become U+FFFD.

    Python keeps such bytes as lone surrogates, which neither the database nor JSON can hold. Paths
    keep them, because they are the file's name.
    """

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text without surrogates."""
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", str(value))


def accept_any_text() -> None:
    """Let standard output and error take any text, whatever their encoding."""
    codecs.register_error(_ENCODING_ERRORS, _encode_anyway)
    for stream in (sys.stdout, sys.stderr):
        # Either is None when it was closed, and something else under a test.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ENCODING_ERRORS)


def discard_unwritable_output() -> None:
    """Write the rest of standard output nowhere if it cannot be written."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class StatusLine:
    """One line on a terminal that is rewritten as things go on; nothing where there is no terminal.

    `clock` counts seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._shown = ""
        self._label = ""
        self._since = 0.0
        self._first_step: tuple[int, float] | None = None

    def show(self, label: str, step: int = 0, steps: int = 0) -> None:
        """Show what happens: with the seconds it has taken, or with a bar when steps are done."""
        now = self._clock()
        if label != self._label:
            self._label, self._since, self._first_step = label, now, None
        if not step or not steps:
            text = f"{label} {now - self._since:.0f} s"
        else:
            done = BAR_WIDTH * min(step, steps) // steps
            bar = "#" * done + "-" * (BAR_WIDTH - done)
            text = f"{label} [{bar}] {step}/{steps}{self._time_left(step, steps, now)}"
        self._write(text)

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            self._write("")

    def _time_left(self, step: int, steps: int, now: float) -> str:
        # Measured from the first step seen: what came before, such as loading, is no guide.
        if self._first_step is None:
            self._first_step = (step, now)
        first, since = self._first_step
        if step == first:
            return ""
        return f", {(steps - step) * (now - since) / (step - first):.0f} s left"

    def _write(self, text: str) -> None:
        if not self._is_terminal or text == self._shown:
            return
        # The spaces overwrite what a longer line has left.
        blank = " " * (len(self._shown) - len(text))
        self._stream.write(f"\r{text}{blank}" + ("" if text else "\r"))
        self._stream.flush()
        self._shown = text


def _encode_anyway(error: UnicodeError) -> tuple[bytes, int]:
    """Bytes of a file's name as they are, and "?" for a character that the encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    encoded = bytearray()
    for character in error.object[error.start : error.end]:
        is_byte = "\udc80" <= character <= "\udcff"
        encoded += bytes([ord(character) - 0xDC00]) if is_byte else b"?"
    return bytes(encoded), error.end
