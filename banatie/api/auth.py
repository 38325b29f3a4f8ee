"""Who asks: from the text of a key to the key, remembered until any key changes.

Asking the database for every request would cost more than many a request itself; a key that is
revoked elsewhere is forgotten as soon as its process has committed (see `store.change_watcher`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from litestar.types import Scope

from banatie.api.client_address import FailedKeyLimiter
from banatie.errors import Unauthorized
from banatie.records import Key
from banatie.store.keys import Keys, hash_key, is_active

REMEMBERED = 1024


class Authentication:
    """The keys as the HTTP front asks for them."""

    def __init__(self, keys: Keys, callers: FailedKeyLimiter, clock: Callable[[], int]) -> None:
        self._keys = keys
        self._callers = callers
        self._clock = clock
        self._known: dict[str, Key] = {}
        self._epoch = 0

    async def key_of(self, text: str | None, scope: Scope) -> Key:
        """The key with this text. Raises Unauthorized, or TooManyFailedKeys."""
        if not text:
            raise Unauthorized("Send an API key in the X-API-Key header")
        # By its hash: the text of a key is kept nowhere, not in memory either, and how long the
        # look-up takes tells nothing of it.
        hashed = hash_key(text)
        key = self._known.get(hashed)
        if key is None:
            epoch = self._epoch
            key = await asyncio.to_thread(self._keys.authenticate, text)
            if key is None:
                self._callers.count_failed_key(scope)
                raise Unauthorized("This API key is not known here")
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            # What was read before a key changed may be what has changed.
            if epoch == self._epoch:
                self._known[hashed] = key
        if not is_active(key, self._clock()):
            raise Unauthorized("This API key has been revoked or has expired")
        return key

    def forget(self) -> None:
        """Ask the database again from now on: a key has changed."""
        self._known.clear()
        self._epoch += 1
