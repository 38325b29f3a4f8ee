"""The job queues: two Huey queues in one SQLite file, through which the web process wakes workers.

They are a doorbell: a message carries only a generation's id, and the job itself is in its row. A
lost message loses nothing, because the worker also looks for waiting rows by itself. Huey polls its
SQLite queue with a growing delay. Here each message is followed by a datagram to every reader's
Unix socket, so that an idle reader sleeps and still starts at once. Without such sockets, readers
poll. Knows no rows.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import sqlite3
import threading
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from huey import Huey
from huey.consumer import Consumer
from huey.storage import SqliteStorage

from banatie.logs import log_context

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

Stage = Literal["enhance", "paint"]

IDLE_SECONDS = 5.0
"""How long a reader waits for a datagram before it reads the queue anyway."""

POLL_SECONDS = 0.25
"""The same where there are no datagrams."""

SOCKET_SUFFIX = ".sock"


class JobQueue:
    """One stage's queue: `notify` adds a message, a consumer calls the handler for each."""

    def __init__(
        self,
        stage: Stage,
        folder: Path,
        handler: Callable[[str], None] | None = None,
        reader: str = "reader",
    ) -> None:
        """`handler` and `reader` are for readers only; each reader needs a name of its own."""
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
        def handle(generation_id: str) -> None:
            if handler is None:
                raise RuntimeError(f"{generation_id} was dequeued outside the worker")
            handler(generation_id)

        self._task = self._huey.task(name=stage)(handle)
        self._huey.storage.wake_message = self._huey.serialize_task(self._task.s(""))

    def notify(self, generation_id: str) -> None:
        """Tell the workers that this generation waits; its row must be committed already.

        A queue that cannot be written is only logged: the worker finds the row by itself a few
        seconds later.
        """
        try:
            self._task(generation_id)
        except (sqlite3.Error, OSError) as error:
            with log_context(generation_id=generation_id or None):
                logger.warning("could not notify the workers of %s: %s", generation_id, error)

    def consumer(self) -> Consumer:
        """A consumer that, once started, calls the handler for each message, in one thread."""
        return _Consumer(
            self._huey,
            workers=1,
            periodic=False,
            scheduler_interval=60,
            check_worker_health=False,
        )

    def close(self) -> None:
        """Close the queue's file and sockets; the next use opens them again."""
        self._huey.storage.close()

    def clear(self) -> None:
        """Delete all messages: a worker that starts looks at the rows."""
        self._huey.storage.flush_queue()


def remove_stale_sockets(folder: Path, readers: Collection[str]) -> None:
    """Remove the sockets of all readers but these."""
    for path in map(Path, _socket_paths(folder)):
        if path.stem.partition("-")[2] not in readers:
            path.unlink(missing_ok=True)


def _socket_paths(folder: Path, stage: str = "") -> list[str]:
    # With os and not pathlib: this runs for each generation that is accepted.
    return [
        os.path.join(folder, name)
        for name in os.listdir(folder)
        if name.startswith(stage) and name.endswith(SOCKET_SUFFIX)
    ]


class _WakingSqliteStorage(SqliteStorage):
    """Huey's SQLite queue, whose reader sleeps until a datagram arrives."""

    # Tells Huey that `dequeue` waits by itself, so that it does not sleep between calls.
    blocking = True

    def __init__(
        self, name: str, *, folder: Path, stage: Stage, reader: str, **options: object
    ) -> None:
        self._folder = folder
        self._stage = stage
        self._socket_path = folder / f"{stage}-{reader}{SOCKET_SUFFIX}"
        self._sender: socket.socket | None = None
        self._sender_lock = threading.Lock()
        self._receiver: socket.socket | None = None
        self._is_receiver_open = False
        self._stopped = threading.Event()
        self.wake_message: bytes | None = None
        """Returned after a datagram if the queue is empty: its file may have been recreated."""
        super().__init__(name, **options)

    def initialize_schema(self) -> None:
        self._recreating_if_corrupt(super().initialize_schema)

    def flush_queue(self) -> None:
        self._recreating_if_corrupt(super().flush_queue)

    def read_schedule(self, ts: datetime) -> list[bytes]:
        """No tasks: none is ever scheduled, and Huey would take the write lock to find that out."""
        return []

    def enqueue(self, data: bytes, priority: float | None = None) -> None:
        try:
            self._recreating_if_corrupt(super().enqueue, data, priority)
        finally:
            self._wake_readers()

    def dequeue(self) -> bytes | None:
        """The next message; None after a while. Takes no write lock while the queue is empty."""
        data = self._recreating_if_corrupt(self._dequeue_now)
        if data is None and self._wait():
            data = self._recreating_if_corrupt(self._dequeue_now) or self.wake_message
        return data

    def stop_waiting(self) -> None:
        """Let `dequeue` return at once from now on."""
        self._stopped.set()
        if hasattr(socket, "AF_UNIX"):
            with (
                contextlib.suppress(OSError),
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
            ):
                sender.setblocking(False)
                sender.sendto(b"", str(self._socket_path))

    def close(self) -> bool:
        for end in (self._sender, self._receiver):
            if end is not None:
                end.close()
        self._sender = self._receiver = None
        self._is_receiver_open = False
        return bool(super().close())

    def _dequeue_now(self) -> bytes | None:
        # Huey reads first, and takes the write lock only if there is a message.
        data: bytes | None = super().dequeue()
        return data

    def _recreating_if_corrupt(
        self, work: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs
    ) -> _T:
        """Do `work`; a damaged file is replaced by a new one, since no message is worth keeping."""
        try:
            return work(*arguments, **options)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _CORRUPT:
                raise
            logger.warning("%s is damaged (%s); creating a new one", self.filename, error)
            super().close()
            for suffix in ("", "-wal", "-shm"):
                Path(self.filename + suffix).unlink(missing_ok=True)
            super().initialize_schema()
            return work(*arguments, **options)

    def _create_connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection = super()._create_connection()
        # The rows are the truth, so a message need not survive a power cut; but the file must.
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _wake_readers(self) -> None:
        # Several threads may notify for the first time at once.
        with self._sender_lock:
            if self._sender is None and hasattr(socket, "AF_UNIX"):
                self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._sender.setblocking(False)
        if self._sender is not None:
            # The first reader takes the message; the others find none, or another one.
            for path in _socket_paths(self._folder, self._stage):
                # A dead reader, a full socket, a path too long for a socket: the reader polls.
                with contextlib.suppress(OSError):
                    self._sender.sendto(b"", path)

    def _wait(self) -> bool:
        """Sleep until a datagram arrives or it is time to poll; whether to read the queue."""
        if not self._is_receiver_open:
            self._is_receiver_open = True
            self._receiver = self._open_receiver()
        # Asked only once the socket is open: from here on a datagram to it is not lost.
        if self._stopped.is_set():
            return False
        if self._receiver is None:
            self._stopped.wait(POLL_SECONDS)
            return False
        if not select.select([self._receiver], [], [], IDLE_SECONDS)[0]:
            return False
        # Drains all pending datagrams; one read of the queue covers them.
        with contextlib.suppress(BlockingIOError):
            while True:
                self._receiver.recv(1)
        return not self._stopped.is_set()

    def _open_receiver(self) -> socket.socket | None:
        if not hasattr(socket, "AF_UNIX"):
            return None
        self._socket_path.unlink(missing_ok=True)
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.setblocking(False)
        try:
            receiver.bind(str(self._socket_path))
            # On some shared file systems a socket can be made and not be reached.
            receiver.sendto(b"", str(self._socket_path))
            receiver.recv(1)
        except OSError:
            # Or the path is longer than the hundred characters or so that a socket's may have.
            receiver.close()
            return None
        return receiver


class _Consumer(Consumer):
    """Huey's consumer without its signal handlers, which stops even while its reader sleeps."""

    def stop(self, graceful: bool = False) -> None:
        self.stop_flag.set()
        self.huey.storage.stop_waiting()
        super().stop(graceful)

    def _set_signal_handlers(self) -> None:
        """The worker has its own."""
