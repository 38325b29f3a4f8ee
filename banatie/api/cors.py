"""Pages of other origins: which of them may read the answers (the Fetch standard, section 3.3).

Nobody, unless `server.cors_origins` lists them. A key is sent by the page itself, never by the
browser on its own, so that credentials are not allowed to any. Litestar's own middleware would
stand within the gate, which asks for a key that a preflight cannot carry.
"""

from __future__ import annotations

from collections.abc import Sequence

from litestar.types import Scope

RawHeaders = list[tuple[bytes, bytes]]

EXPOSED = (
    b"Preference-Applied, Retry-After, X-Request-Id, "
    b"X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
)
PREFLIGHT: RawHeaders = [
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE"),
    (
        b"access-control-allow-headers",
        b"Content-Type, Idempotency-Key, Last-Event-ID, Prefer, X-API-Key",
    ),
    (b"access-control-max-age", b"600"),
    (b"content-length", b"0"),
]


class Origins:
    """The origins that are let in."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = {origin.lower().encode() for origin in allowed}

    def headers(self, scope: Scope) -> RawHeaders:
        """What an answer tells the browser about the origin that asked."""
        # An answer that was given to one origin is not to be taken from a cache for another.
        headers: RawHeaders = [(b"vary", b"Origin")]
        origin = dict(scope["headers"]).get(b"origin")
        if origin is not None and (b"*" in self._allowed or origin.lower() in self._allowed):
            headers.append((b"access-control-allow-origin", origin))
            headers.append((b"access-control-expose-headers", EXPOSED))
        return headers

    @staticmethod
    def is_preflight(scope: Scope) -> bool:
        """Whether the browser only asks what it may ask."""
        return scope["method"] == "OPTIONS" and {
            b"origin",
            b"access-control-request-method",
        } <= {name for name, _ in scope["headers"]}
