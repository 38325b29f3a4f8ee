"""What a worker does every few seconds beside the jobs: the heartbeat, and housekeeping.

Housekeeping releases the rows of dead workers, requeues dropped rows, sends messages for rows that
wait without one, deletes orphan files and purges what has expired. All of it may fail while the
database is unavailable and is tried again in the next round. Knows no models and never imports
torch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import psutil

from banatie.config import Config
from banatie.errors import BanatieError
from banatie.jobs import JobQueue, Stage
from banatie.store.database import Database
from banatie.store.disk import fill_reserve
from banatie.store.files import Files
from banatie.store.generations import Generations
from banatie.store.locks import is_alive
from banatie.store.orphan_files import delete_orphans
from banatie.store.workers import Workers, WorkerState
from banatie.worker.claimed_rows import ClaimedRows

if TYPE_CHECKING:
    from banatie.worker.placement import ModelPlacement

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
PURGE_SECONDS = 3600.0
DAY_MILLISECONDS = 86_400_000


class Heartbeat:
    """The worker's own row: its state, and every few seconds that it is alive."""

    def __init__(self, workers: Workers, clock: Callable[[], int], state: WorkerState) -> None:
        self.state = state
        self.device_memory: Callable[[], tuple[int, int] | None] = lambda: None
        """Measures the bytes in use and in total on the device, once it is known."""
        self.placement: ModelPlacement | None = None
        self._workers = workers
        self._clock = clock
        self._process = psutil.Process()

    def report(self, state: WorkerState | None = None) -> None:
        """Write the worker's row, with a new state or the last one."""
        if state is not None:
            self.state = state
        used, total = self.device_memory() or (None, None)
        placement = self.placement
        enhancer = placement.enhancer if placement else None
        reported = replace(
            self.state,
            language_model=enhancer.name if enhancer else None,
            plan=placement.plan.explanation if placement else None,
            memory_bytes=self._process.memory_info().rss,
            device_memory_used=used,
            device_memory_total=total,
        )
        self._workers.report(reported, self._clock())

    def start(self, stop: threading.Event) -> None:
        """Report again and again in a thread of its own, until `stop` is set."""
        threading.Thread(target=self._run, args=(stop,), name="heartbeat", daemon=True).start()

    def end(self) -> None:
        """Remove the worker's row."""
        self._workers.forget(self.state.id)

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            try:
                self.report()
            except BanatieError as error:
                logger.warning("no heartbeat: %s", error)


class Housekeeping:
    """What one worker tidies up, for itself and for workers that have died."""

    def __init__(self, config: Config, database: Database, files: Files, rows: ClaimedRows) -> None:
        self._config = config
        self._files = files
        self._rows = rows
        self._generations = Generations(database)
        self._workers = Workers(database)
        self._database = database
        self._is_alive = partial(is_alive, config.storage.data)
        self._next_purge = 0.0

    def recover(self) -> None:
        """Clean up once, at the start, what earlier workers have left."""
        self._rows.claims.fail_exhausted(self._config.worker.max_retries, self._rows.clock())
        self._release_dead()
        self._delete_orphan_files()

    def run(self, queues: Mapping[Stage, JobQueue]) -> None:
        """Do one round; `queues` are those that this worker reads. Raises ServiceUnavailable."""
        if requeued := self._rows.requeue_dropped():
            logger.warning("requeued %d dropped generations", requeued)
        self._release_dead()
        fill_reserve(self._config.storage.data)
        # A message may be lost, a row never: there may be waiting rows without a message.
        for stage, queue in queues.items():
            if self._rows.claims.waiting(stage):
                queue.notify("")
        if time.monotonic() >= self._next_purge:
            self._next_purge = time.monotonic() + PURGE_SECONDS
            self._purge_expired()

    def _release_dead(self) -> None:
        """Requeue the rows of dead workers, and remove those workers' own."""
        holders = self._rows.claims.other_holders()
        dead = {worker_id for worker_id in holders if not self._is_alive(worker_id)}
        for worker_id in dead:
            returned, given_up = self._rows.claims.release_dead(
                worker_id, self._config.worker.max_retries, self._rows.clock()
            )
            logger.warning(
                "a worker has died: %d generations requeued, %d given up", returned, given_up
            )
        if self._workers.forget_dead(self._is_alive) or dead:
            # They may have left files, too.
            self._delete_orphan_files()

    def _delete_orphan_files(self) -> None:
        if deleted := delete_orphans(self._database, self._files):
            logger.warning("deleted %d orphaned files", deleted)

    def _purge_expired(self) -> None:
        # Of a server that died between an upload's file and its row.
        self._delete_orphan_files()
        now = self._rows.clock()
        deleted_before = now - self._config.storage.bin_days * DAY_MILLISECONDS
        for storage_key in self._generations.purge_deleted(deleted_before, now):
            self._files.remove(storage_key)
        self._generations.purge_idempotent_requests(now)
