"""Who calls: the address a request comes from, and how many wrong keys were tried from there.

A key is 256 random bits, so no number of tries finds one. The limit is there so that trying costs
the one who tries: past it the answer is 429 and the log gets no more lines. A good key counts from
every address at all times, since others may share it.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Sequence

from litestar.types import Scope

from banatie.errors import TooManyFailedKeys

logger = logging.getLogger(__name__)

WINDOW_MILLISECONDS = 60_000
MOST_ADDRESSES = 10_000
"""How many are remembered; the one that began first is forgotten for one more."""


class FailedKeyLimiter:
    """The addresses that wrong keys come from."""

    def __init__(
        self, failed_keys_per_minute: int, trusted_proxies: Sequence[str], clock: Callable[[], int]
    ) -> None:
        self._limit = failed_keys_per_minute
        self._proxies = [ipaddress.ip_network(proxy, strict=False) for proxy in trusted_proxies]
        self._clock = clock
        self._windows: dict[str, tuple[int, int]] = {}

    def count_failed_key(self, scope: Scope) -> None:
        """Count one more wrong key of the caller. Raises TooManyFailedKeys beyond the limit."""
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
            if len(self._windows) >= MOST_ADDRESSES:
                del self._windows[next(iter(self._windows))]
        # Not beyond one too many: nobody's number grows for ever.
        self._windows[address] = (start, min(tries, self._limit) + 1)
        if tries == self._limit:
            logger.warning("%d wrong keys from %s within a minute", tries, address)
        if tries >= self._limit:
            raise TooManyFailedKeys(-(-(start + WINDOW_MILLISECONDS - now) // 1000))

    def address_of(self, scope: Scope) -> str:
        """The caller's address; for IPv6 its network, of which one caller has all addresses.

        Of what `X-Forwarded-For` says, only the part that a trusted proxy has written is believed.
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

    def _forwarded(self, scope: Scope, proxy: Address) -> Address:
        # Each proxy adds to the right whom it was called by, so that the first from the right
        # that is no proxy of ours is the caller; what stands left of it, anybody can write.
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
