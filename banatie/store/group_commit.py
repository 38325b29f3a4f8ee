"""Group commit: threads that write at the same time share one transaction and one fsync.

With `synchronous = FULL` a commit waits for the disk, some milliseconds each time. If every thread
committed by itself, the write rate would be limited by that. So one connection does all the
writing of a process:

1. A thread waits for the write lock. The first one begins a transaction, and with it a group.
2. It does its statements inside a savepoint. If they fail, only they are rolled back.
3. If other threads wait for the lock by then, it leaves the transaction open for them. They join
   the group. The thread that finds nobody waiting commits for all.
4. Each thread returns once its group is committed, so what it wrote is durable then. If the commit
   fails, all of the group get the error and none of their writes has happened.

Other processes are kept out by SQLite's own lock. What is written is unknown here.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class CommitGroup:
    """The writes that are committed together, and what became of them."""

    def __init__(self) -> None:
        self.finished = threading.Event()
        self.error: sqlite3.Error | None = None
        """Why nothing was committed; to be read once `finished` is set."""


class GroupCommit:
    """The writing connection of one process, shared by its threads."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """`connect` opens a connection in autocommit mode that any thread may use."""
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        # Guards the connection and the group. Held while one thread does its statements.
        self._write_lock = threading.Lock()
        self._group: CommitGroup | None = None
        self._counter_lock = threading.Lock()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many threads wait for their turn to write."""
        return self._waiting

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection that all threads write through; opened when it is first used."""
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block atomically; its statements are durable when this returns.

        Raises sqlite3.Error if the transaction cannot be begun or committed.
        """
        with self._counter_lock:
            self._waiting += 1
        try:
            self._write_lock.acquire()
        finally:
            with self._counter_lock:
                self._waiting -= 1
        try:
            group = self._join_group()
            try:
                self.connection.execute("SAVEPOINT part")
                yield self.connection
                self.connection.execute("RELEASE part")
            except BaseException:
                # Some errors, such as a full disk, have rolled everything back already.
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK TO part")
                raise
            finally:
                # Also after a failed part: the others of the group wait for the commit.
                if self._waiting == 0:
                    self._commit(group)
        finally:
            self._write_lock.release()
        group.finished.wait()
        if group.error is not None:
            raise group.error

    def close(self) -> None:
        """Commit what is pending and close the connection; the next write opens a new one."""
        with self._write_lock:
            if self._group is not None:
                self._commit(self._group)
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _join_group(self) -> CommitGroup:
        if self._group is None:
            self.connection.execute("BEGIN IMMEDIATE")
            self._group = CommitGroup()
        return self._group

    def _commit(self, group: CommitGroup) -> None:
        self._group = None
        try:
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            group.error = error
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        group.finished.set()
