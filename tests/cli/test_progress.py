"""The progress of a download, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest

from banatie.cli import progress
from banatie.cli.progress import DownloadProgress

GIGABYTE = 10**9


class Stream(io.StringIO):
    """A stream that is a terminal, or is not."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.isatty = lambda: is_terminal


def test_a_terminal_shows_a_bar_and_messages_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "50")
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    stream = Stream(True)
    bar = DownloadProgress(stream)
    bar.update("unet/x", 0, 4 * GIGABYTE)
    bar.update("unet/x", GIGABYTE, 4 * GIGABYTE)
    drawn = stream.getvalue().split("\r")[-1]
    assert drawn.startswith(" 25% |")
    assert "| 1.00GB of 4.00GB, " in drawn
    assert drawn.rstrip().endswith(" left  unet/x")
    bar.message("done")
    before, _, after = stream.getvalue().rpartition("done\n")
    assert before.split("\r")[-1] == "", "the message begins its line"
    assert after.strip().startswith("25% |"), "the bar is drawn again below the message"
    bar.close()
    assert stream.getvalue().split("\r")[-2].strip() == ""
    assert stream.getvalue().endswith("\r"), "no bar is left"
    assert all(len(line) < 100 for line in stream.getvalue().split("\r"))


def test_a_resumed_download_counts_only_new_bytes_for_its_rate() -> None:
    stream, seconds = Stream(False), iter([0.0, 0.0, 100.0])
    bar = DownloadProgress(stream, lambda: next(seconds))
    bar.update("unet/x", 2 * GIGABYTE, 4 * GIGABYTE)
    bar.update("unet/x", 3 * GIGABYTE, 4 * GIGABYTE)
    assert stream.getvalue() == "75%, 3.00GB of 4.00GB, 10.0MB/s, 01:40 left: unet/x\n"


def test_elsewhere_a_line_is_printed_now_and_then() -> None:
    stream, seconds = Stream(False), iter([0.0, 0.0, 10.0, 31.0, 40.0, 62.0])
    bar = DownloadProgress(stream, lambda: next(seconds))
    for tenths in (0, 10, 20, 30, 40):
        bar.update("unet/x", tenths * GIGABYTE // 10, 4 * GIGABYTE)
    bar.message("done")
    bar.close()
    assert stream.getvalue().splitlines() == [
        "50%, 2.00GB of 4.00GB, 64.5MB/s, 00:31 left: unet/x",
        "100%, 4.00GB of 4.00GB, 64.5MB/s, 00:00 left: unet/x",
        "done",
    ]
