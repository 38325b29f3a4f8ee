"""The doorbell: two Huey queues in one file, through which web tells the worker that rows wait.

Only a generation's id crosses; what is to be done stands in its row. A lost message loses nothing,
because the worker also looks for waiting rows by itself. Huey's SQLite queue is polled with a
growing delay, so beside each message goes a datagram that wakes every reader of the stage at once,
each on a Unix socket of its own; where there are no such sockets, the readers poll.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import sqlite3
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

from huey import Huey
from huey.consumer import Consumer
from huey.storage import SqliteStorage

from banatie.logs import log_context

logger = logging.getLogger(__name__)

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

Stage = Literal["enhance", "paint"]

POLL_SECONDS = 0.25
"""How long a reader waits for the datagram before it looks into the queue all the same."""

SOCKET = ".sock"


class JobQueue:
    """One stage's queue: rung by whoever has made work for it, answered by the workers."""

    def __init__(
        self,
        stage: Stage,
        folder: Path,
        answer: Callable[[str], None] | None = None,
        reader: str = "reader",
    ) -> None:
        """`answer` and the `reader`'s name are for who reads; no two may have one name."""
        self._huey = Huey(
            f"banatie-{stage}",
            results=False,
            storage_class=_WakingSqliteStorage,
            filename=str(folder / "queue.db"),
            folder=folder,
            stage=stage,
            reader=reader,
        )

        # Huey finds a task by its function's module and name, so both sides register this one.
        def answer_bell(generation_id: str) -> None:
            if answer is None:
                raise RuntimeError(f"{generation_id} was taken off the queue outside the worker")
            answer(generation_id)

        self._task = self._huey.task(name=stage)(answer_bell)
        self._huey.storage.wake_message = self._huey.serialize_task(self._task.s(""))

    def notify(self, generation_id: str) -> None:
        """Say that this generation waits; its row must be committed already.

        A queue file that cannot be written is only logged: the worker finds the row by itself a few
        seconds later.
        """
        try:
            self._task(generation_id)
        except (sqlite3.Error, OSError) as error:
            with log_context(generation_id=generation_id or None):
                logger.warning("the doorbell could not be rung for %s: %s", generation_id, error)

    def consumer(self) -> Consumer:
        """What calls `answer` for each message, in one thread, once it is started."""
        return _SignalFreeConsumer(
            self._huey,
            workers=1,
            periodic=False,
            scheduler_interval=60,
            check_worker_health=False,
        )

    def close(self) -> None:
        """Let go of the queue's file and the socket; the next use opens them again."""
        self._huey.storage.close()

    def clear(self) -> None:
        """Forget all messages: the worker looks at the rows when it starts."""
        self._huey.storage.flush_queue()


def remove_stale_sockets(folder: Path, readers: Collection[str]) -> None:
    """Remove the sockets of all but these readers."""
    for path in map(Path, _sockets(folder)):
        if path.stem.partition("-")[2] not in readers:
            path.unlink(missing_ok=True)


def _sockets(folder: Path, stage: str = "") -> list[str]:
    # With os and not pathlib: this is done for each generation that is accepted.
    return [
        os.path.join(folder, name)
        for name in os.listdir(folder)
        if name.startswith(stage) and name.endswith(SOCKET)
    ]


class _WakingSqliteStorage(SqliteStorage):
    """Huey's SQLite queue, whose reader sleeps until a datagram comes."""

    # Huey's word for: dequeue waits by itself, do not sleep between calls.
    blocking = True

    def __init__(
        self, name: str, *, folder: Path, stage: Stage, reader: str, **options: object
    ) -> None:
        self._folder = folder
        self._stage = stage
        self._socket_path = folder / f"{stage}-{reader}{SOCKET}"
        self._sender: socket.socket | None = None
        self._reader: socket.socket | None = None
        self._reader_is_open = False
        self.wake_message: bytes | None = None
        """What a datagram stands for when the queue has nothing: the file may have been lost."""
        super().__init__(name, **options)

    def initialize_schema(self) -> None:
        self._recreating_if_corrupt(super().initialize_schema)

    def flush_queue(self) -> None:
        self._recreating_if_corrupt(super().flush_queue)

    def enqueue(self, data: bytes, priority: float | None = None) -> None:
        try:
            self._recreating_if_corrupt(super().enqueue, data, priority)
        finally:
            self._wake()

    def dequeue(self) -> bytes | None:
        data = self._recreating_if_corrupt(super().dequeue)
        if data is None:
            woken = self._wait()
            data = self._recreating_if_corrupt(super().dequeue)
            if data is None and woken:
                data = self.wake_message
        return data

    def _recreating_if_corrupt(self, work: Callable[..., Any], *arguments: object) -> Any:
        """Do `work`; a damaged file is replaced by a new one, since no message is worth keeping."""
        try:
            return work(*arguments)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
                raise
            logger.warning("%s is damaged (%s); it is made anew", self.filename, error)
            super().close()
            for suffix in ("", "-wal", "-shm"):
                Path(self.filename + suffix).unlink(missing_ok=True)
            super().initialize_schema()
            return work(*arguments)

    def _wake(self) -> None:
        if self._sender is None and hasattr(socket, "AF_UNIX"):
            self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sender.setblocking(False)
        if self._sender is not None:
            # Whoever comes first finds the message, the others that there is nothing (left) to do.
            for path in _sockets(self._folder, self._stage):
                # A dead reader, a full socket, a path too long for a socket: the reader will poll.
                with contextlib.suppress(OSError):
                    self._sender.sendto(b"", path)

    def close(self) -> bool:
        for end in (self._sender, self._reader):
            if end is not None:
                end.close()
        self._sender = self._reader = None
        self._reader_is_open = False
        return super().close()

    def _create_connection(self):
        connection = super()._create_connection()
        # The rows are the truth, so a message need not survive a power cut; but the file must.
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _wait(self) -> bool:
        """Sleep until a datagram comes, or for a moment; whether one came."""
        if not self._reader_is_open:
            self._reader_is_open = True
            self._reader = self._open_reader()
        if self._reader is None:
            time.sleep(POLL_SECONDS)
            return False
        if not select.select([self._reader], [], [], POLL_SECONDS)[0]:
            return False
        # All that came while the reader was busy: one look at the queue answers them.
        with contextlib.suppress(BlockingIOError):
            while True:
                self._reader.recv(1)
        return True

    def _open_reader(self) -> socket.socket | None:
        if not hasattr(socket, "AF_UNIX"):
            return None
        self._socket_path.unlink(missing_ok=True)
        reader = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        reader.setblocking(False)
        try:
            reader.bind(str(self._socket_path))
        except OSError:
            # A socket's path may hold about a hundred characters.
            reader.close()
            return None
        return reader


class _SignalFreeConsumer(Consumer):
    """Huey's consumer without its signal handlers: the worker has its own."""

    def _set_signal_handlers(self) -> None:
        pass
