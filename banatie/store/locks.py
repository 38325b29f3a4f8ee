"""Who has a data folder: one server and one worker, each by a lock that dies with its process.

The lock's file says who holds it, so that whoever is turned away can be told.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from banatie.errors import DataFolderBusy, DataFolderUnusable

Place = Literal["serve", "worker"]


@contextmanager
def holding(data: Path, place: Place, command: str = "") -> Iterator[None]:
    """Have this place in the data folder, which is made if it is not there, as `banatie command`.

    Raises DataFolderBusy, naming who has the place, and DataFolderUnusable if nothing can be
    written there.
    """
    file = _file(data, place)
    lock = FileLock(file)
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise DataFolderBusy(f"{_holder(file)} has {data}; stop it first") from error
    except OSError as error:
        raise DataFolderUnusable(f"{data} cannot be written: {error.strerror}") from error
    try:
        # A full disk, or Windows, which locks the bytes too: then the others only see that it is.
        with contextlib.suppress(OSError):
            file.write_text(f"`banatie {command or place}` (process {os.getpid()})", "utf-8")
        yield
    finally:
        lock.release()


def is_held(data: Path, place: Place) -> bool:
    """Whether somebody has this place in the data folder."""
    lock = FileLock(_file(data, place))
    try:
        with lock.acquire(blocking=False):
            return False
    except Timeout:
        return True


def _file(data: Path, place: Place) -> Path:
    return data / f"{place}.lock"


def _holder(file: Path) -> str:
    try:
        return file.read_text("utf-8") or "Another process"
    except OSError:
        return "Another process"
