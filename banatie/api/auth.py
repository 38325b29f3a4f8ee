"""Authentication: from the text of an API key to the key, cached until any key changes.

Asking the database for every request would cost more than many a request itself. A key that another
process revokes leaves the cache as soon as that process has committed (see `store.change_watcher`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from litestar.types import HTTPScope

from banatie.api.client_address import FailedKeyLimiter
from banatie.errors import Unauthorized
from banatie.records import Key
from banatie.store.keys import Keys, hash_key, is_active

NEW_KEY = "make one on the server's machine: banatie keys create --name NAME"
NEW_MASTER_KEY = f"{NEW_KEY} --type master"
CACHE_SIZE = 1024


class Authentication:
    """The keys as the API asks for them."""

    def __init__(self, keys: Keys, failed_keys: FailedKeyLimiter, clock: Callable[[], int]) -> None:
        self._keys = keys
        self._failed_keys = failed_keys
        self._clock = clock
        self._cache: dict[str, Key] = {}
        self._by_id: dict[str, Key] = {}
        """Of the clients that follow events."""
        self._epoch = 0

    async def key_of(self, text: str | None, scope: HTTPScope) -> Key:
        """The key with this text. Raises Unauthorized or TooManyFailedKeys."""
        if not text:
            raise Unauthorized("Send an API key in the X-API-Key header")
        # By its hash: a key's text is kept nowhere, not in memory either, and the time of the
        # look-up reveals nothing of it.
        hashed = hash_key(text)
        key = self._cache.get(hashed)
        if key is None:
            epoch = self._epoch
            key = await asyncio.to_thread(self._keys.authenticate, text)
            if key is None:
                self._failed_keys.count_failed_key(scope)
                raise Unauthorized(f"Unknown API key; {NEW_KEY}")
            if len(self._cache) >= CACHE_SIZE:
                self._cache.clear()
            # What was read before a key changed may be what has changed.
            if epoch == self._epoch:
                self._cache[hashed] = key
        if not is_active(key, self._clock()):
            raise Unauthorized(f"This API key has been revoked or has expired; {NEW_KEY}")
        return key

    async def is_still_active(self, key: Key) -> bool:
        """Whether a key that was authenticated before is neither revoked nor expired by now."""
        latest = self._by_id.get(key.id)
        if latest is None:
            epoch = self._epoch
            latest = await asyncio.to_thread(self._keys.find, key.id) or key
            if epoch == self._epoch:
                self._by_id[key.id] = latest
        return is_active(latest, self._clock())

    def forget(self) -> None:
        """Empty the cache: a key has changed."""
        self._cache.clear()
        self._by_id.clear()
        self._epoch += 1
