"""How many requests a key may make in an hour, counted in memory and written down every second.

Web is one process, so its memory is the truth while it runs; a killed server forgets at most the
last second's requests. Windows begin with a key's first request and last an hour.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from banatie.errors import BanatieError
from banatie.records import Key
from banatie.store.keys import Keys

logger = logging.getLogger(__name__)

WINDOW_MILLISECONDS = 3_600_000


@dataclass(frozen=True)
class Allowance:
    """Where a key stands in its hour; `limit` 0 means that nothing is counted."""

    limit: int
    remaining: int
    reset_seconds: int

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The contract's three headers."""
        if not self.limit:
            return []
        return [
            (b"x-ratelimit-limit", b"%d" % self.limit),
            (b"x-ratelimit-remaining", b"%d" % self.remaining),
            (b"x-ratelimit-reset", b"%d" % self.reset_seconds),
        ]


NOTHING_COUNTED = Allowance(0, 0, 0)


class RateLimiter:
    """Every key's window."""

    def __init__(self, keys: Keys, default_limit: int, clock: Callable[[], int]) -> None:
        self._keys = keys
        self._default_limit = default_limit
        self._clock = clock
        self._windows = keys.request_counts()
        self._unsaved: set[str] = set()
        self._lock = threading.Lock()

    def allowance(self, key: Key) -> Allowance:
        """Where the key stands now."""
        limit = self._default_limit if key.requests_per_hour is None else key.requests_per_hour
        if not limit:
            return NOTHING_COUNTED
        start, requests = self._window(key)
        reset = -(-(start + WINDOW_MILLISECONDS - self._clock()) // 1000)
        return Allowance(limit, max(0, limit - requests), reset)

    def count(self, key: Key) -> None:
        """Count one request of the key."""
        self._add(key, 1)

    def refund(self, key: Key) -> None:
        """Take back one counted request of the key."""
        self._add(key, -1)

    def save(self) -> None:
        """Write down what has changed since the last time; waits for the disk."""
        with self._lock:
            unsaved = {key_id: self._windows[key_id] for key_id in self._unsaved}
            self._unsaved.clear()
        if not unsaved:
            return
        try:
            self._keys.save_request_counts(unsaved)
        except BanatieError as error:
            logger.warning("request counts could not be saved yet: %s", error)
            with self._lock:
                self._unsaved |= unsaved.keys()

    def _window(self, key: Key) -> tuple[int, int]:
        now = self._clock()
        start, requests = self._windows.get(key.id, (now, 0))
        # A window from the future is one of before the clock was set back.
        if not start <= now < start + WINDOW_MILLISECONDS:
            return now, 0
        return start, requests

    def _add(self, key: Key, requests: int) -> None:
        with self._lock:
            start, before = self._window(key)
            self._windows[key.id] = (start, max(0, before + requests))
            self._unsaved.add(key.id)
