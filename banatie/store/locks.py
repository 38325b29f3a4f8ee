"""Who is at work on a data folder: one server and any number of workers, each by a lock of its own.

A lock dies with its process, so whoever can take another's lock knows that it is dead. The lock's
file says who holds it, so that whoever is turned away can be told. `worker.lock` is the door: a
worker holds it only while it comes in, a restore as long as no worker may.
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

Role = Literal["serve", "worker"]

REGISTER_TIMEOUT_SECONDS = 5.0
"""How long a worker waits while others come in; each takes some milliseconds."""


@contextmanager
def hold_role(data: Path, place: Role, command: str = "", *, patience: float = 0) -> Iterator[None]:
    """Have this place in the data folder, which is made if it is not there, as `banatie command`.

    Raises DataFolderBusy after `patience` seconds, naming who has the place, and DataFolderUnusable
    if nothing can be written there.
    """
    with _held(data, _file(data, place), command or place, patience):
        yield


@contextmanager
def register_worker(data: Path, worker_id: str, *, alone: bool) -> Iterator[None]:
    """Be at work in the data folder, which is made if it is not there, as this worker.

    Raises DataFolderBusy while a restore keeps workers out, or another worker is at work and this
    one wants to be `alone` when it comes in; and DataFolderUnusable.
    """
    with contextlib.ExitStack() as stack:
        with hold_role(data, "worker", patience=REGISTER_TIMEOUT_SECONDS):
            remove_stale_locks(data)
            if alone and (others := live_workers(data)):
                raise DataFolderBusy(
                    f"{_holder(_file(data, f'worker-{others[0]}'))} has {data}; stop it first, or "
                    "name a device (--device) to add a worker"
                )
            file = _file(data, f"worker-{worker_id}")
            stack.callback(_remove, file)
            # Somebody may look at it in the very moment in which it is made.
            stack.enter_context(_held(data, file, "worker", REGISTER_TIMEOUT_SECONDS))
        yield


@contextmanager
def exclude_workers(data: Path, command: str) -> Iterator[None]:
    """Keep all workers out of the data folder, as `banatie command`.

    Raises DataFolderBusy when one is at work, naming it, and DataFolderUnusable.
    """
    with hold_role(data, "worker", command):
        if others := live_workers(data):
            holder = _holder(_file(data, f"worker-{others[0]}"))
            raise DataFolderBusy(f"{holder} has {data}; stop it first")
        yield


def live_workers(data: Path) -> list[str]:
    """The ids of the workers that are alive."""
    ids = sorted(file.stem.removeprefix("worker-") for file in data.glob("worker-*.lock"))
    return [worker_id for worker_id in ids if is_alive(data, worker_id)]


def is_alive(data: Path, worker_id: str) -> bool:
    """Whether this worker is alive; one that is not will never be again."""
    file = _file(data, f"worker-{worker_id}")
    # Looking must not make the file anew.
    return file.exists() and _is_held(file)


def remove_stale_locks(data: Path) -> None:
    """Remove the files of dead workers' locks; only while `worker.lock` is held.

    Otherwise somebody could be between making the file and locking it.
    """
    for file in data.glob("worker-*.lock"):
        if not _is_held(file):
            _remove(file)


class ExclusiveRole:
    """What one of the workers does at a time: it has the turn until it leaves it, or dies."""

    def __init__(self, data: Path, name: str) -> None:
        self._lock = FileLock(_file(data, name))

    @property
    def is_mine(self) -> bool:
        """Whether this object has it."""
        return self._lock.is_locked

    def take(self) -> bool:
        """Have the turn if nobody else has it; whether it is mine."""
        # A disk that refuses to make the file now may do so later.
        with contextlib.suppress(OSError):
            if not self._lock.is_locked:
                self._lock.acquire(blocking=False)
        return self._lock.is_locked

    def leave(self) -> None:
        """Let another have it."""
        self._lock.release()


@contextmanager
def _held(data: Path, file: Path, command: str, patience: float) -> Iterator[None]:
    lock = FileLock(file)
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=patience, poll_interval=0.01)
    except Timeout as error:
        raise DataFolderBusy(f"{_holder(file)} has {data}; stop it first") from error
    except OSError as error:
        raise DataFolderUnusable(f"{data} cannot be written: {error.strerror}") from error
    try:
        # A full disk, or Windows, which locks the bytes too: then the others only see that it is.
        with contextlib.suppress(OSError):
            file.write_text(f"`banatie {command}` (process {os.getpid()})", "utf-8")
        yield
    finally:
        lock.release()


def _is_held(file: Path) -> bool:
    lock = FileLock(file)
    try:
        with lock.acquire(blocking=False):
            return False
    except OSError:
        # Also when the disk refuses: whoever cannot be told to be dead is left alone.
        return True


def _remove(file: Path) -> None:
    # Windows keeps a file that somebody looks at.
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


def _file(data: Path, place: str) -> Path:
    return data / f"{place}.lock"


def _holder(file: Path) -> str:
    try:
        return file.read_text("utf-8") or "Another process"
    except OSError:
        return "Another process"
