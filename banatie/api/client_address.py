"""The client's address, and a limit for unknown keys (brute force) from one address.

A key is 256 random bits, so no number of attempts finds one. The limit keeps attempts cheap for the
server: past it the response is 429 and nothing more is logged. A valid key is accepted from every
address at all times, since several clients may share an address.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Sequence

from litestar.types import HTTPScope

from banatie.errors import TooManyFailedKeys

logger = logging.getLogger(__name__)

WINDOW_MILLISECONDS = 60_000
MAX_ADDRESSES = 10_000
"""How many are remembered; the oldest makes room for a new one."""


class FailedKeyLimiter:
    """Counts unknown keys by client address."""

    def __init__(
        self, failed_keys_per_minute: int, trusted_proxies: Sequence[str], clock: Callable[[], int]
    ) -> None:
        self._limit = failed_keys_per_minute
        self._proxies = [ipaddress.ip_network(proxy, strict=False) for proxy in trusted_proxies]
        self._clock = clock
        self._windows: dict[str, tuple[int, int]] = {}

    def count_failed_key(self, scope: HTTPScope) -> None:
        """Count an unknown key of the client. Raises TooManyFailedKeys beyond the limit."""
        if not self._limit:
            return
        address = self.address_of(scope)
        now = self._clock()
        start, tries = self._windows.get(address, (now, 0))
        if not start <= now < start + WINDOW_MILLISECONDS:
            start, tries = now, 0
        if not tries:
            # A new window goes to the end, so that the first in the dictionary is the oldest.
            self._windows.pop(address, None)
            if len(self._windows) >= MAX_ADDRESSES:
                del self._windows[next(iter(self._windows))]
        # No further than one too many: the number cannot grow for ever.
        self._windows[address] = (start, min(tries, self._limit) + 1)
        if tries == self._limit:
            logger.warning("%d unknown API keys from %s within a minute", tries, address)
        if tries >= self._limit:
            raise TooManyFailedKeys(-(-(start + WINDOW_MILLISECONDS - now) // 1000))

    def address_of(self, scope: HTTPScope) -> str:
        """The client's address; for IPv6 its /64 network, all of which one client has.

        Of `X-Forwarded-For` only the part that a trusted proxy has written counts.
        """
        client = scope.get("client")
        address = _parsed(client[0] if client else "")
        if address is not None and self._proxies and self._is_trusted(address):
            address = self._forwarded(scope, address)
        if address is None:
            return "unknown"
        if address.version == 6:
            return str(ipaddress.ip_network((address, 64), strict=False))
        return str(address)

    def _forwarded(self, scope: HTTPScope, proxy: Address) -> Address:
        # Each proxy appends the address that called it, so the first from the right that is not a
        # trusted proxy is the client; entries to its left can be forged.
        value = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
        address = proxy
        for text in reversed(value.decode("latin-1").split(",")):
            forwarded = _parsed(text.strip())
            if forwarded is None:
                break
            address = forwarded
            if not self._is_trusted(address):
                break
        return address

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._proxies)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _parsed(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
