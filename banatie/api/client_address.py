"""The client's address, and limits for one address: of unknown keys (brute force), and others.

A key is 256 random bits, so no number of attempts finds one. The limit keeps attempts cheap for the
server: past it the response is 429 and nothing more is logged. A valid key is accepted from every
address at all times, since several clients may share an address.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from litestar.types import HTTPScope

from banatie.errors import TooManyFailedKeys

logger = logging.getLogger(__name__)

WINDOW_MILLISECONDS = 60_000
MAX_ADDRESSES = 10_000
"""How many are remembered; the oldest makes room for a new one."""


class ClientAddresses:
    """Finds the address of a request's client, behind trusted proxies too."""

    def __init__(self, trusted_proxies: Sequence[str]) -> None:
        self._proxies = [ipaddress.ip_network(proxy, strict=False) for proxy in trusted_proxies]

    def address_of(self, scope: HTTPScope) -> str:
        """The client's address; for IPv6 its /64 network, all of which one client has.

        Of `X-Forwarded-For` only the part that a trusted proxy has written counts.
        """
        address = self.exact_address_of(scope)
        if address is None:
            return "unknown"
        if address.version == 6:
            return str(ipaddress.ip_network((address, 64), strict=False))
        return str(address)

    def exact_address_of(self, scope: HTTPScope) -> Address | None:
        """The client's own address; None if it is unknown."""
        client = scope.get("client")
        address = _parsed(client[0] if client else "")
        if address is not None and self._proxies and self._is_trusted(address):
            address = self._forwarded(scope, address)
        return address

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


class AddressCounter:
    """Counts something by client address, each in a window of its own; safe for any thread."""

    def __init__(self, limit: int, window_milliseconds: int, clock: Callable[[], int]) -> None:
        """`limit` 0: nothing is counted."""
        self.limit = limit
        self._window = window_milliseconds
        self._clock = clock
        self._windows: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def count(self, address: str) -> Count:
        """Count one more for the address."""
        if not self.limit:
            return Count(0, 0, is_over=False)
        with self._lock:
            now = self._clock()
            start, before = self._windows.get(address, (now, 0))
            if not start <= now < start + self._window:
                start, before = now, 0
            if not before:
                # A new window goes to the end, so that the first in the dictionary is the oldest.
                self._windows.pop(address, None)
                if len(self._windows) >= MAX_ADDRESSES:
                    del self._windows[next(iter(self._windows))]
            # No further than one too many: the number cannot grow for ever.
            self._windows[address] = (start, min(before, self.limit) + 1)
        return Count(before, start + self._window - now, is_over=before >= self.limit)


@dataclass(frozen=True)
class Count:
    """What an address has been counted for in its window."""

    before: int
    milliseconds_left: int
    """Until the window ends."""
    is_over: bool
    """Whether it is more than the limit."""


class FailedKeyLimiter:
    """Counts unknown keys by client address."""

    def __init__(
        self,
        failed_keys_per_minute: int,
        addresses: ClientAddresses,
        clock: Callable[[], int],
    ) -> None:
        self._counter = AddressCounter(failed_keys_per_minute, WINDOW_MILLISECONDS, clock)
        self._addresses = addresses

    def count_failed_key(self, scope: HTTPScope) -> None:
        """Count an unknown key of the client. Raises TooManyFailedKeys beyond the limit."""
        address = self._addresses.address_of(scope)
        count = self._counter.count(address)
        if not count.is_over:
            return
        if count.before == self._counter.limit:
            logger.warning("%d unknown API keys from %s within a minute", count.before, address)
        raise TooManyFailedKeys(-(-count.milliseconds_left // 1000))


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _parsed(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
