"""Clients that wait for a generation (long polling, events), and what `Prefer` asks for.

The thread of `store.change_watcher` passes every change to the event loop; here it reaches those
who wait for that generation. Nothing polls.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from banatie.limits import MAX_WAIT_SECONDS
from banatie.records import Generation

DELETED_CHECK_SECONDS = 2.0
"""A deletion is no change of a row, so waiting clients look for theirs again after this long."""


@dataclass(frozen=True)
class Preference:
    """What a Prefer header asks for (RFC 7240, sections 4.1 and 4.3)."""

    wait: int | None = None
    """Seconds, at most `MAX_WAIT_SECONDS`."""
    respond_async: bool = False

    def applied(self) -> dict[str, str]:
        """The header that says which preference was honoured."""
        if self.wait is not None:
            return {"Preference-Applied": f"wait={self.wait}"}
        return {"Preference-Applied": "respond-async"} if self.respond_async else {}


NO_PREFERENCE = Preference()


def parse_prefer(header: str) -> Preference:
    """The preferences known here; others, and malformed ones, are ignored as the RFC has it."""
    wait, respond_async = None, False
    for preference in header.split(","):
        name, _, value = preference.split(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name == "wait" and wait is None and re.fullmatch(r"\d+", value, re.ASCII):
            # Python refuses to read numbers of thousands of digits; nine are enough to be too many.
            wait = min(int(value.lstrip("0")[:9] or "0"), MAX_WAIT_SECONDS)
        elif name == "respond-async":
            respond_async = True
    return Preference(wait, respond_async)


class Waiters:
    """The waiting clients, by the id of their generation."""

    def __init__(self, find: Callable[[str], Generation | None]) -> None:
        self._find = find
        self._queues: dict[str, set[asyncio.Queue[Generation | None]]] = defaultdict(set)
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether nobody is to wait any more."""
        return self._closed

    def anyone(self) -> bool:
        """Whether anybody waits; safe to call from any thread."""
        return bool(self._queues)

    def publish(self, changed: list[Generation]) -> None:
        """Wake those who wait for these; to be called on the event loop's thread."""
        for generation in changed:
            for queue in self._queues.get(generation.id, ()):
                queue.put_nowait(generation)

    def close(self) -> None:
        """Wake all who wait, now and from now on, for a graceful shutdown."""
        self._closed = True
        for queues in self._queues.values():
            for queue in queues:
                queue.put_nowait(None)

    async def until(
        self, generation: Generation, reached: Callable[[Generation], bool], seconds: float
    ) -> Generation | None:
        """The generation once `reached`, or as it is after `seconds`; None if it was deleted."""
        deadline = asyncio.get_running_loop().time() + seconds
        latest: Generation | None = generation
        with self._following(generation.id) as queue:
            # Read again now that the queue exists: a change in between would be missed.
            latest = await asyncio.to_thread(self._find, generation.id)
            while latest is not None and not reached(latest) and not self._closed:
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    break
                latest = await self._next(queue, generation.id, min(left, DELETED_CHECK_SECONDS))
        return latest

    async def follow(self, generation_id: str) -> AsyncIterator[Generation | None]:
        """The generation now and after each change, until it has ended or is deleted.

        None stands for a while without changes.
        """
        with self._following(generation_id) as queue:
            latest = await asyncio.to_thread(self._find, generation_id)
            revision = -1
            while latest is not None:
                yield latest if latest.revision > revision else None
                revision = max(revision, latest.revision)
                if latest.is_ended or self._closed:
                    return
                latest = await self._next(queue, generation_id, DELETED_CHECK_SECONDS)

    async def _next(
        self, queue: asyncio.Queue[Generation | None], generation_id: str, seconds: float
    ) -> Generation | None:
        try:
            changed = await asyncio.wait_for(queue.get(), seconds)
        except TimeoutError:
            changed = None
        return changed or await asyncio.to_thread(self._find, generation_id)

    @contextmanager
    def _following(self, generation_id: str) -> Iterator[asyncio.Queue[Generation | None]]:
        queue: asyncio.Queue[Generation | None] = asyncio.Queue()
        self._queues[generation_id].add(queue)
        try:
            yield queue
        finally:
            self._queues[generation_id].discard(queue)
            if not self._queues[generation_id]:
                del self._queues[generation_id]
