"""The terminal: odd encodings, output that cannot be written, the status line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from banatie.cli.terminal import StatusLine

ROOT = Path(__file__).parents[2]


def banatie(
    folder: Path,
    arguments: Sequence[str | bytes],
    stdout: int = subprocess.PIPE,
    **environment: str,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a process of its own, as a terminal does."""
    return subprocess.run(
        [sys.executable, "-m", "banatie", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=60,
    )


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "utf-8"])
def test_a_terminal_may_have_any_encoding(tmp_path: Path, encoding: str) -> None:
    environment = {"PYTHONIOENCODING": encoding}
    made = banatie(tmp_path, ["keys", "create", "--name", "Küche 猫"], **environment)
    assert (made.returncode, made.stderr) == (0, b"")
    listed = banatie(tmp_path, ["keys", "list"], **environment)
    assert (listed.returncode, listed.stderr.count(b"\n")) == (0, 1)
    # click writes UTF-8 where a terminal claims to know only ASCII.
    expected = "utf-8" if encoding == "ascii" else encoding
    assert "Küche 猫".encode(expected, "replace") in listed.stdout


def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    made = banatie(tmp_path, ["keys", "create", "--name", "caf\xe9".encode("latin-1")])
    assert (made.returncode, made.stderr) == (0, b"")
    assert "caf\N{REPLACEMENT CHARACTER}" in banatie(tmp_path, ["keys", "list"]).stdout.decode()


def test_bytes_in_a_path_are_kept(tmp_path: Path) -> None:
    name = "caf\xe9".encode("latin-1")
    made = banatie(
        tmp_path, ["--set", b"storage.data_dir=" + name, "keys", "create", "--name", "k"]
    )
    assert (made.returncode, made.stderr) == (0, b"")
    assert os.path.isdir(os.path.join(os.fsencode(tmp_path), name))
    saved = banatie(tmp_path, ["backup", "--data-dir", name, name + b".tar"])
    assert (saved.returncode, saved.stderr) == (0, b"")
    assert saved.stdout.startswith(name + b".tar: 0 generations")


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        ended = banatie(tmp_path, ["version"], stdout=full.fileno())
    assert (ended.returncode, ended.stderr) == (1, b"banatie: No space left on device\n")


def test_a_reader_that_has_had_enough_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = banatie(tmp_path, ["version"], stdout=writing)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


class Stream(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def test_the_status_is_one_line_with_a_bar_and_the_time_left() -> None:
    stream, seconds = Stream(True), iter([0.0, 3.0, 100.0, 101.0, 105.0])
    line = StatusLine(stream, lambda: next(seconds))
    line.show("enhancing")
    line.show("enhancing")
    line.show("painting", 0, 10)
    line.show("painting", 1, 10)
    line.show("painting", 5, 10)
    shown = [text.rstrip() for text in stream.getvalue().split("\r")]
    assert shown == [
        "",
        "enhancing 0 s",
        "enhancing 3 s",
        "painting 0 s",
        "painting [##----------------------] 1/10",
        # Four steps took four seconds.
        "painting [############------------] 5/10, 5 s left",
    ]
    line.clear()
    assert stream.getvalue().endswith(" \r")
    assert "\n" not in stream.getvalue()


def test_without_a_terminal_no_status_is_shown() -> None:
    stream = Stream(False)
    line = StatusLine(stream)
    line.show("painting", 1, 2)
    line.clear()
    assert stream.getvalue() == ""
