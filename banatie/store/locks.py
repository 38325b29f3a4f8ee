"""Who works on a data folder: at most one server, and any number of workers, each with a lock file.

The operating system releases a lock when its process ends, however it ends. So a process that can
take another's lock knows that the other one is dead. The lock file names its holder, for the
message to a process that is refused.

`serve.lock` is held by the server as long as it runs. `worker-<id>.lock` is held by each worker as
long as it runs. `worker.lock` is held for a moment by a worker that registers, and by a restore for
as long as no worker may.
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

PROBE_SECONDS = 0.5
"""Longer than another process holds a lock only to see whether it is held."""
REGISTER_TIMEOUT_SECONDS = 5.0
"""How long a worker waits while others register, which takes each some milliseconds."""


@contextmanager
def hold_role(data: Path, role: Role, command: str = "", *, timeout: float = 0) -> Iterator[None]:
    """Hold the lock of this role in the data folder, which is created if it does not exist.

    The lock file names the holder as `banatie command` (default: the role). Raises DataFolderBusy,
    naming the holder, if the lock is not free within `timeout` seconds, and DataFolderUnusable if
    the folder cannot be written.
    """
    with _held(data, _lock_file(data, role), command or role, timeout):
        yield


@contextmanager
def register_worker(data: Path, worker_id: str, *, alone: bool) -> Iterator[None]:
    """Be a live worker of the data folder, which is created if it does not exist.

    Raises DataFolderBusy while a restore excludes workers, or if the worker must be `alone` at
    start and another one is alive; and DataFolderUnusable if the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with hold_role(data, "worker", timeout=REGISTER_TIMEOUT_SECONDS):
            remove_stale_locks(data)
            if alone and (others := live_workers(data)):
                raise DataFolderBusy(
                    f"{_holder(_lock_file(data, f'worker-{others[0]}'))} has {data}; stop it "
                    "first, or name a device (--device) to add a worker"
                )
            file = _lock_file(data, f"worker-{worker_id}")
            stack.callback(_remove, file)
            # With a timeout, because `is_alive` in another process holds the lock for an instant.
            stack.enter_context(_held(data, file, "worker", REGISTER_TIMEOUT_SECONDS))
        yield


@contextmanager
def exclude_workers(data: Path, command: str) -> Iterator[None]:
    """Keep workers from registering in the data folder, on behalf of `banatie command`.

    Raises DataFolderBusy, naming the worker, if one is alive; and DataFolderUnusable if the folder
    cannot be written.
    """
    with hold_role(data, "worker", command):
        if others := live_workers(data):
            holder = _holder(_lock_file(data, f"worker-{others[0]}"))
            raise DataFolderBusy(f"{holder} has {data}; stop it first")
        yield


def live_workers(data: Path) -> list[str]:
    """The ids of the workers that are alive."""
    ids = sorted(file.stem.removeprefix("worker-") for file in data.glob("worker-*.lock"))
    return [worker_id for worker_id in ids if is_alive(data, worker_id)]


def running_server(data: Path) -> str | None:
    """The server of the data folder, as text for people; None when none runs."""
    file = _lock_file(data, "serve")
    if not file.exists():
        return None
    try:
        with FileLock(file).acquire(blocking=False):
            return None
    except Timeout:
        return _holder(file)
    except OSError:
        return None


def is_alive(data: Path, worker_id: str) -> bool:
    """Whether this worker is alive. A dead worker never comes back: ids are not used again."""
    file = _lock_file(data, f"worker-{worker_id}")
    # Trying the lock would create a file that does not exist.
    return file.exists() and _is_held(file)


def remove_stale_locks(data: Path) -> None:
    """Delete the lock files of dead workers. The caller must hold `worker.lock`.

    Otherwise a worker could be between creating its file and locking it.
    """
    for file in data.glob("worker-*.lock"):
        if not _is_held(file):
            _remove(file)


class ExclusiveRole:
    """A role that one worker at a time has, such as running the language model.

    A worker has it until it releases it or dies.
    """

    def __init__(self, data: Path, name: str) -> None:
        self._lock = FileLock(_lock_file(data, name))

    @property
    def is_mine(self) -> bool:
        """Whether this object holds the role."""
        return self._lock.is_locked

    def acquire(self) -> bool:
        """Take the role unless another worker has it; whether this object holds it now."""
        # A disk that refuses to create the file now may allow it later.
        with contextlib.suppress(OSError):
            if not self._lock.is_locked:
                self._lock.acquire(blocking=False)
        return self._lock.is_locked

    def release(self) -> None:
        """Leave the role to another worker."""
        self._lock.release()


@contextmanager
def _held(data: Path, file: Path, command: str, timeout: float) -> Iterator[None]:
    lock = FileLock(file)
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire(timeout=timeout, poll_interval=0.01)
    except Timeout as error:
        raise DataFolderBusy(f"{_holder(file)} has {data}; stop it first") from error
    except OSError as error:
        raise DataFolderUnusable(f"{data} cannot be written: {error.strerror}") from error
    try:
        # Fails on a full disk and on Windows, which locks the file's bytes too. Then others see
        # that the lock is held, but not by whom.
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
        # Also when the disk refuses: a worker that may be alive counts as alive.
        return True


def _remove(file: Path) -> None:
    # Windows keeps a file that another process has open.
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


def _lock_file(data: Path, name: str) -> Path:
    return data / f"{name}.lock"


def _holder(file: Path) -> str:
    try:
        return file.read_text("utf-8") or "Another process"
    except OSError:
        return "Another process"
