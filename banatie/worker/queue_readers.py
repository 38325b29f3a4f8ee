"""The queues that a worker reads, each in a thread of its own.

What is done for a message is the handler's; a message only says that something may wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from banatie.jobs import JobQueue, Stage

if TYPE_CHECKING:
    from huey.consumer import Consumer


class QueueReaders:
    """The queues that a worker reads, each in a thread of its own."""

    def __init__(self, data: Path, worker_id: str) -> None:
        self.queues: dict[Stage, JobQueue] = {}
        self._data = data
        self._worker_id = worker_id
        self._consumers: list[Consumer] = []

    def start(self, stage: Stage, handler: Callable[[str], None]) -> None:
        """Call `handler` for each message of the stage from now on."""
        queue = JobQueue(stage, self._data, handler, self._worker_id)
        # All that old messages could tell is found in the rows.
        queue.clear()
        consumer = queue.consumer()
        consumer.start()
        self.queues[stage] = queue
        self._consumers.append(consumer)

    def notify_painter(self, generation_id: str) -> None:
        """Tell the paint queue's readers, in all workers, that this row waits for them."""
        self.queues["paint"].notify(generation_id)

    def stop(self, deadline: float) -> None:
        """Stop reading, and wait until `deadline` (`time.monotonic`) for the handlers to return."""
        for consumer in self._consumers:
            consumer.stop()
        for consumer in self._consumers:
            for _, thread in consumer.worker_threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        for queue in self.queues.values():
            queue.close()
