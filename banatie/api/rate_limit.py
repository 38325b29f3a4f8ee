"""The rate limit: how many requests an API key may make in an hour.

A fixed window for each key: it begins with the key's first request and lasts an hour. The web
process is the only one that counts, so its counts in memory are authoritative; they are saved every
second, and a crash loses at most the last second's requests. Polling a generation that has not
ended is neither counted nor ever refused. Litestar's own limiter is not used: see
docs/decisions/010-middleware.md.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from litestar.types import HTTPScope

from banatie.errors import BanatieError, RateLimitExceeded
from banatie.records import Key
from banatie.store.keys import Keys

logger = logging.getLogger(__name__)

WINDOW_MILLISECONDS = 3_600_000


@dataclass(frozen=True)
class Quota:
    """A key's remaining requests in its window; `limit` 0 means that nothing is counted."""

    limit: int
    remaining: int
    reset_seconds: int

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The X-RateLimit-* response headers."""
        if not self.limit:
            return []
        return [
            (b"x-ratelimit-limit", b"%d" % self.limit),
            (b"x-ratelimit-remaining", b"%d" % self.remaining),
            (b"x-ratelimit-reset", b"%d" % self.reset_seconds),
        ]


UNLIMITED = Quota(0, 0, 0)


class RateLimiter:
    """The windows of all keys."""

    def __init__(self, keys: Keys, default_limit: int, clock: Callable[[], int]) -> None:
        self._keys = keys
        self._default_limit = default_limit
        self._clock = clock
        self._windows = keys.request_counts()
        self._unsaved: set[str] = set()
        self._lock = threading.Lock()

    def quota(self, key: Key) -> Quota:
        """The key's remaining requests."""
        limit = self.limit_of(key)
        if not limit:
            return UNLIMITED
        start, requests = self._window(key)
        reset = -(-(start + WINDOW_MILLISECONDS - self._clock()) // 1000)
        return Quota(limit, max(0, limit - requests), reset)

    def limit_of(self, key: Key) -> int:
        """The key's requests in an hour; 0: no limit."""
        return self._default_limit if key.requests_per_hour is None else key.requests_per_hour

    def reserve(self, key: Key) -> Reservation:
        """Count one request of the key, if the limit leaves one."""
        limit = self.limit_of(key)
        if not limit:
            return self.exempt(key)
        with self._lock:
            start, requests = self._window(key)
            is_left = requests < limit
            if is_left:
                self._windows[key.id] = (start, requests + 1)
                self._unsaved.add(key.id)
        return Reservation(self, key, is_counted=is_left, is_refused=not is_left)

    def exempt(self, key: Key) -> Reservation:
        """A request that is neither counted nor refused."""
        return Reservation(self, key, is_counted=False, is_refused=False)

    def release(self, key: Key) -> None:
        """Give back one counted request of the key."""
        with self._lock:
            start, requests = self._window(key)
            self._windows[key.id] = (start, max(0, requests - 1))
            self._unsaved.add(key.id)

    def save(self) -> None:
        """Save what has changed since the last time; waits for the disk."""
        with self._lock:
            unsaved = {key_id: self._windows[key_id] for key_id in self._unsaved}
            self._unsaved.clear()
        if not unsaved:
            return
        try:
            self._keys.save_request_counts(unsaved)
        except BanatieError as error:
            logger.warning("saving the request counts failed and will be tried again: %s", error)
            with self._lock:
                self._unsaved |= unsaved.keys()

    def _window(self, key: Key) -> tuple[int, int]:
        now = self._clock()
        start, requests = self._windows.get(key.id, (now, 0))
        # A start in the future means that the clock was set back.
        if not start <= now < start + WINDOW_MILLISECONDS:
            return now, 0
        return start, requests


class Reservation:
    """One request's share of its key's limit, from the request's arrival on."""

    __slots__ = ("_is_counted", "_is_refused", "_key", "_limiter")

    def __init__(
        self, limiter: RateLimiter, key: Key, *, is_counted: bool, is_refused: bool
    ) -> None:
        self._limiter = limiter
        self._key = key
        self._is_counted = is_counted
        self._is_refused = is_refused

    def require(self) -> None:
        """Raises RateLimitExceeded if no request was left for this one."""
        if self._is_refused:
            quota = self._limiter.quota(self._key)
            raise RateLimitExceeded(quota.limit, quota.reset_seconds)

    def release(self) -> None:
        """Do not count the request: it turned out to be a poll."""
        if self._is_counted:
            self._is_counted = False
            self._limiter.release(self._key)


def may_be_poll(scope: HTTPScope) -> bool:
    """Whether the request asks for one generation, its events, or the progress of several.

    If the generation has not ended, that is a poll: the route finds out, and calls `require` or
    `release` on the reservation. Every other request is refused before its route.
    """
    match scope["path"].strip("/").split("/"):
        case ["api", "v1", "generations", _] | ["api", "v1", "generations", _, "events"]:
            return scope["method"] == "GET"
        case ["sdapi", "v1", "progress"]:
            return True
    return False


def reservation_of(scope: HTTPScope) -> Reservation:
    """The reservation that the middleware has made for a request."""
    reservation: Reservation = scope["state"]["reservation"]
    return reservation
