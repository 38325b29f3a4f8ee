"""Authentication: from the text of an API key, or the cookie of a session, to the key.

Both are cached until any key or session changes: asking the database for every request would cost
more than many a request itself. A key that another process revokes leaves the cache as soon as that
process has committed (see `store.change_watcher`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from litestar.types import HTTPScope

from banatie.api.client_address import FailedKeyLimiter
from banatie.errors import Unauthorized
from banatie.records import Key, Session
from banatie.store.keys import Keys, hash_key, is_active
from banatie.store.sessions import Sessions, is_current

NEW_KEY = "make one on the server's machine: banatie keys create --name NAME"
NEW_MASTER_KEY = f"{NEW_KEY} --type master"
SIGN_IN = "sign in again: `banatie open` prints an address that does it"
CACHE_SIZE = 1024


class Authentication:
    """The keys as the API asks for them."""

    def __init__(
        self,
        keys: Keys,
        sessions: Sessions,
        failed_keys: FailedKeyLimiter,
        clock: Callable[[], int],
    ) -> None:
        self._keys = keys
        self._sessions = sessions
        self._failed_keys = failed_keys
        self._clock = clock
        self._cache: dict[str, Key] = {}
        self._by_id: dict[str, Key] = {}
        self._sessions_by_id: dict[str, Session] = {}
        """Both of the clients that follow events."""
        self._by_cookie: dict[str, Session] = {}
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

    async def session_of(self, cookie: str) -> Session:
        """The session with this cookie. Raises Unauthorized."""
        hashed = hash_key(cookie)
        session = self._by_cookie.get(hashed)
        if session is None:
            epoch = self._epoch
            session = await asyncio.to_thread(self._sessions.authenticate, cookie)
            if session is None:
                raise Unauthorized(f"Unknown session; {SIGN_IN}")
            if len(self._by_cookie) >= CACHE_SIZE:
                self._by_cookie.clear()
            if epoch == self._epoch:
                self._by_cookie[hashed] = session
        now = self._clock()
        if not (is_current(session, now) and is_active(session.key, now)):
            raise Unauthorized(f"This session has ended; {SIGN_IN}")
        return session

    async def is_still_active(self, key: Key, session: Session | None = None) -> bool:
        """Whether what was authenticated before, a key or its session, is still valid."""
        if session is not None and not await self._is_still_current(session):
            return False
        latest = self._by_id.get(key.id)
        if latest is None:
            epoch = self._epoch
            latest = await asyncio.to_thread(self._keys.find, key.id) or key
            if epoch == self._epoch:
                self._by_id[key.id] = latest
        return is_active(latest, self._clock())

    async def _is_still_current(self, session: Session) -> bool:
        latest = self._sessions_by_id.get(session.id)
        if latest is None:
            epoch = self._epoch
            latest = await asyncio.to_thread(self._sessions.find, session.id) or session
            if epoch == self._epoch:
                self._sessions_by_id[session.id] = latest
        return is_current(latest, self._clock())

    def forget(self) -> None:
        """Empty the caches: a key or a session has changed."""
        for cache in (self._cache, self._by_id, self._by_cookie, self._sessions_by_id):
            cache.clear()
        self._epoch += 1
