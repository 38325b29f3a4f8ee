"""The requests that are being answered now: what `progress` shows, `interrupt` and `skip` stop.

In memory: after a restart no client waits, and what was accepted is painted all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class ActiveRequests:
    """The generations that requests wait for, by project; for the event loop's thread."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[str]] = {}

    def of(self, project_id: str) -> Sequence[str]:
        """The ids, oldest first."""
        return tuple(self._waiting.get(project_id, ()))

    @contextmanager
    def waiting(self, project_id: str, generation_ids: Sequence[str]) -> Iterator[None]:
        """While this is entered, a request of the project waits for these generations."""
        ids = self._waiting.setdefault(project_id, [])
        ids += generation_ids
        try:
            yield
        finally:
            for each in generation_ids:
                ids.remove(each)
            if not ids:
                self._waiting.pop(project_id, None)
