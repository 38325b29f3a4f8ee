"""Webhooks: which addresses may be called, and how a message is signed (Standard Webhooks).

A message goes to machines that whoever holds a key has named, so it must not reach what only this
machine can reach: private, loopback and link-local addresses are refused unless the configuration
allows them. A name is resolved once for each attempt, and the connection is made to the very
address that was checked, so that no second answer of its DNS server counts (DNS rebinding). When
messages are sent is unknown here.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from banatie.config import WebhookSettings
from banatie.errors import ValidationError

RESOLVE_SECONDS = 5.0
DOOR_RESOLVE_SECONDS = 2.0
"""A name that is not resolved by then is accepted: it is resolved and checked again on sending."""
RESOLVE_THREADS = 4
MAX_URL_LENGTH = 2000
NO_SECRET = (
    'webhooks are off; set webhooks.secret in config.toml to "whsec_…", with the output of '
    "`openssl rand -base64 32` behind whsec_"
)

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Unreachable(Exception):
    """The receiver cannot be called now; its text says why."""


@dataclass(frozen=True)
class Target:
    """Where to connect for a URL."""

    url: str
    host: str
    """For the Host header and the certificate."""
    addresses: tuple[str, ...]
    """All of them checked."""


class WebhookRules:
    """Which URLs may be called, under the settings."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings
        self._resolvers = ThreadPoolExecutor(RESOLVE_THREADS, thread_name_prefix="resolve")

    def check(self, url: str) -> None:
        """Raise ValidationError for a URL that would not be called. May look its host up."""
        if not self._settings.secret:
            raise ValidationError.of("webhook", NO_SECRET)
        try:
            parts = parse_url(url)
        except ValueError as error:
            raise ValidationError.of("webhook", str(error)) from None
        try:
            addresses = _addresses(self._look_up(parts).result(DOOR_RESOLVE_SECONDS))
        except (OSError, UnicodeError, TimeoutError):
            return
        if (refused := self._refused(addresses)) is not None:
            raise ValidationError.of("webhook", _refusal(parts.hostname or "", refused))

    async def target(self, url: str) -> Target:
        """Where to connect, looked up anew. Raises Unreachable."""
        parts = parse_url(url)
        host = parts.hostname or ""
        try:
            looking = asyncio.wrap_future(self._look_up(parts))
            addresses = _addresses(await asyncio.wait_for(looking, RESOLVE_SECONDS))
        except TimeoutError:
            raise Unreachable(f"{host} was not resolved within {RESOLVE_SECONDS:g} s") from None
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"{host} cannot be resolved: {error}") from error
        if (refused := self._refused(addresses)) is not None:
            raise Unreachable(_refusal(host, refused))
        return Target(url, host, addresses)

    def close(self) -> None:
        """End the threads, without waiting for a look-up."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    def _refused(self, addresses: Sequence[str]) -> str | None:
        """The first address that may not be called."""
        if self._settings.allow_private:
            return None
        return next((address for address in addresses if not is_public(address)), None)

    def _look_up(self, parts: SplitResult) -> Future[list[Any]]:
        # getaddrinfo has no time limit of its own.
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return self._resolvers.submit(
            socket.getaddrinfo, parts.hostname, port, type=socket.SOCK_STREAM
        )


def parse_url(url: str) -> SplitResult:
    """The parts of a webhook's URL. Raises ValueError saying what is wrong with it."""
    if len(url) > MAX_URL_LENGTH:
        raise ValueError(f"takes a URL of at most {MAX_URL_LENGTH} characters")
    if not url.isascii() or any(letter.isspace() or not letter.isprintable() for letter in url):
        raise ValueError("takes a URL of ASCII characters without spaces")
    try:
        parts = urlsplit(url)
        # Reading the port checks it.
        host = parts.hostname if parts.port is None or parts.port else None
    except ValueError as error:
        raise ValueError(f"takes a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("takes the URL of an HTTP server, such as https://example.org/hook")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("takes a URL without user, password or fragment")
    return parts


def is_public(address: str) -> bool:
    """Whether the IP address is one of the internet, also where it stands for one of IPv4."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour
        if embedded is None and ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(str(embedded))
        # Teredo and the site-local addresses of old lead to private networks, too.
        if ip.teredo is not None or ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` of a message, by Standard Webhooks 1.0; the time is in seconds."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _addresses(found: Sequence[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


def _refusal(host: str, address: str) -> str:
    shown = host if host == address else f"{host} ({address})"
    return (
        f"{shown} is not a public address; webhooks.allow_private = true allows receivers on this "
        "machine and its networks"
    )
