"""CORS: which other origins' pages may read the answers (the Fetch standard, section 3.3).

None, unless `server.cors_origins` lists them. A page sends the key itself, never the browser on its
own, so that credentials are not allowed to any. Litestar's own CORS middleware would run behind
the authentication, which a preflight cannot pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from litestar.types import HTTPScope

RawHeaders = list[tuple[bytes, bytes]]

EXPOSED_HEADERS = (
    b"Preference-Applied, Retry-After, X-Request-Id, "
    b"X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"
)
PREFLIGHT_HEADERS: RawHeaders = [
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE"),
    (
        b"access-control-allow-headers",
        b"Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Prefer, X-API-Key",
    ),
    (b"access-control-max-age", b"600"),
    (b"content-length", b"0"),
]


class CorsPolicy:
    """The allowed origins."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = {origin.lower().encode() for origin in allowed}

    def headers(self, scope: HTTPScope) -> RawHeaders:
        """The CORS headers of an answer to this request."""
        # A cache must not give one origin's answer to another.
        headers: RawHeaders = [(b"vary", b"Origin")]
        origin = dict(scope["headers"]).get(b"origin")
        if origin is not None and (b"*" in self._allowed or origin.lower() in self._allowed):
            headers.append((b"access-control-allow-origin", origin))
            headers.append((b"access-control-expose-headers", EXPOSED_HEADERS))
        return headers

    @staticmethod
    def is_preflight(scope: HTTPScope) -> bool:
        """Whether the request is a CORS preflight."""
        return scope["method"] == "OPTIONS" and {
            b"origin",
            b"access-control-request-method",
        } <= {name for name, _ in scope["headers"]}
