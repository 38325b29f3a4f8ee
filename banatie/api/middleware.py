"""The middleware that every request passes before any route.

It gives the request its id, answers CORS preflights, checks the API key, applies the rate limit and
the time limit of the body, and completes the headers of every response. It is plain ASGI middleware
around Litestar (see `app`): Litestar runs its own for matched routes only, and a wrong route or
method must be authenticated, counted and answered like everything else.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time

from litestar.enums import ScopeType
from litestar.types import (
    ASGIApp,
    HTTPResponseStartEvent,
    HTTPScope,
    Message,
    Receive,
    ReceiveMessage,
    Scope,
    Send,
)

from banatie.api.auth import NEW_MASTER_KEY, Authentication
from banatie.api.browser import SAFE_METHODS, cookie_of, require_own_page
from banatie.api.cors import PREFLIGHT_HEADERS, CorsPolicy
from banatie.api.dialects import dialect_of
from banatie.api.dialects.dialect import Dialect
from banatie.api.errors import encoded_answer, send_failure
from banatie.api.metrics import Metrics
from banatie.api.rate_limit import RateLimiter, may_be_poll
from banatie.api.request_bodies import RequestBodies
from banatie.config import Config
from banatie.errors import BanatieError, Forbidden, UnsupportedMediaType, ValidationError
from banatie.logs import log_context
from banatie.records import Key

logger = logging.getLogger(__name__)

API_PREFIX = "/api/v1"
ADMIN_PREFIX = "/api/admin"
"""Paths under these prefixes require an API key, under the second a master key."""
SIGN_IN_PATH = f"{API_PREFIX}/sessions"
"""Where a POST carries the key in its body, and needs none in a header."""

JSON, FORM = b"application/json", b"multipart/form-data"
FORM_PATHS = {f"{API_PREFIX}/images/upload"}
"""The paths whose requests carry a form and not JSON."""

DEFAULT_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # No script, frame or cache needs these responses; pages and files set their own values.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
"""The headers of every response that does not set them itself."""

_HOST = re.compile(rb"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])?(:\d{1,5})?")
_EMPTY_BODY: Message = {"type": "http.response.body", "body": b"", "more_body": False}


class RequestMiddleware:
    """An ASGI application around `app`."""

    def __init__(
        self,
        app: ASGIApp,
        authentication: Authentication,
        rate_limiter: RateLimiter,
        metrics: Metrics | None,
        bodies: RequestBodies,
        config: Config,
    ) -> None:
        self._app = app
        self._authentication = authentication
        self._rate_limiter = rate_limiter
        self._metrics = metrics
        self._bodies = bodies
        self._has_sessions = config.server.studio
        self._base_url = config.server.base_url
        origins = config.server.cors_origins
        self._cors = CorsPolicy(origins) if origins else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it here."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            await self._answer_head(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        # Ids must be unique, not secret, so that a PRNG without a system call will do.
        state["request_id"] = f"{random.getrandbits(96):024x}"
        started = time.monotonic()
        has_answered = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_answered
            if message["type"] == "http.response.start":
                has_answered = True
                self._complete(message, scope, started)
            await send(message)

        if self._cors is not None and self._cors.is_preflight(scope):
            await send_with_headers(
                {"type": "http.response.start", "status": 204, "headers": PREFLIGHT_HEADERS}
            )
            await send(_EMPTY_BODY)
            return
        # Litestar's router collapses repeated slashes.
        if "//" in scope["path"]:
            scope["path"] = re.sub("/{2,}", "/", scope["path"])
        dialect = dialect_of(scope["path"])
        answer = encoded_answer if dialect is None else dialect.answer
        if needs_key(scope["path"]):
            try:
                receive = await self._admit(scope, receive)
            except BanatieError as error:
                await send_failure(error, scope, send_with_headers, answer)
                return
        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            if has_answered:
                raise
            await send_failure(error, scope, send_with_headers, answer)

    async def _answer_head(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answer HEAD as GET without the body (RFC 9110, section 9.3.2)."""
        ended = asyncio.Event()
        is_read = False

        async def receive_once() -> ReceiveMessage:
            nonlocal is_read
            if not is_read:
                is_read = True
                return await receive()
            # Ends a stream, such as events, once its headers are sent.
            await ended.wait()
            return {"type": "http.disconnect"}

        async def send_start(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send(_EMPTY_BODY)
                ended.set()

        # Ranges are for GET alone (section 14.2).
        headers = [pair for pair in scope["headers"] if pair[0] != b"range"]
        as_get: HTTPScope = {**scope, "method": "GET", "headers": headers}
        await self(as_get, receive_once, send_start)

    async def _admit(self, scope: HTTPScope, receive: Receive) -> Receive:
        """Authenticate and count the request; return the `receive` to read its body with.

        Raises ValidationError, Unauthorized, TooManyFailedKeys, RateLimitExceeded, Forbidden or
        UnsupportedMediaType.
        """
        state = scope["state"]
        _require_host(scope)
        state["headers"] = headers = dict(scope["headers"])
        if self._has_sessions and _signs_in(scope):
            _require_media_type(headers, JSON)
            return self._bodies.limited(receive)
        dialect = dialect_of(scope["path"])
        key = await self._authenticate(scope, headers, dialect)
        if key.type != "master" and _is_below(scope["path"], ADMIN_PREFIX):
            raise Forbidden(f"This takes a master key; {NEW_MASTER_KEY}")
        if scope["method"] == "GET":
            return receive
        form_paths = FORM_PATHS if dialect is None else dialect.form_paths
        _require_media_type(headers, FORM if scope["path"] in form_paths else JSON)
        return self._bodies.limited(receive)

    async def _authenticate(
        self, scope: HTTPScope, headers: dict[bytes, bytes], dialect: Dialect | None
    ) -> Key:
        """The key of the request, by its header or its session, after counting the request.

        Raises Unauthorized, TooManyFailedKeys, RateLimitExceeded or Forbidden.
        """
        state = scope["state"]
        if (open_key := state.get("open_key")) is not None:
            # A dialect lets this address in without a key.
            state["key"], state["reservation"] = open_key, self._rate_limiter.exempt(open_key)
            return open_key
        if dialect is None:
            text = headers.get(b"x-api-key", b"").decode("latin-1")
        else:
            text = dialect.key_text(headers)
        # The page speaks Banatie's own API alone.
        may_have_session = self._has_sessions and dialect is None and not text
        cookie = cookie_of(headers) if may_have_session else None
        if cookie is not None:
            if scope["method"] not in SAFE_METHODS:
                require_own_page(headers, self._base_url, needed=True)
            state["session"] = session = await self._authentication.session_of(cookie)
            # The limit is for programs; a page asks for many things at once.
            state["key"], state["reservation"] = session.key, self._rate_limiter.exempt(session.key)
            return session.key
        state["key"] = key = await self._authentication.key_of(text, scope)
        state["reservation"] = reservation = self._rate_limiter.reserve(key)
        if not may_be_poll(scope):
            reservation.require()
        return key

    def _complete(self, message: HTTPResponseStartEvent, scope: HTTPScope, started: float) -> None:
        """Add the headers of every response, and count it."""
        state = scope["state"]
        headers: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
        present = {name for name, _ in headers}
        headers += [pair for pair in DEFAULT_HEADERS if pair[0] not in present]
        headers.append((b"x-request-id", state["request_id"].encode()))
        if "key" in state and "session" not in state:
            headers += self._rate_limiter.quota(state["key"]).headers()
        if self._cors is not None:
            headers += self._cors.headers(scope)
        message["headers"] = headers
        if self._metrics is not None:
            self._metrics.count(scope, message["status"], time.monotonic() - started)
        if logger.isEnabledFor(logging.DEBUG):
            with log_context(request_id=state["request_id"]):
                logger.debug(
                    "%s %s %s",
                    scope["method"],
                    scope["path"],
                    message["status"],
                    extra={"seconds": round(time.monotonic() - started, 4)},
                )


def needs_key(path: str) -> bool:
    """Whether requests for this path must carry an API key."""
    return (
        _is_below(path, API_PREFIX) or _is_below(path, ADMIN_PREFIX) or dialect_of(path) is not None
    )


def _signs_in(scope: HTTPScope) -> bool:
    return scope["method"] == "POST" and scope["path"].rstrip("/") == SIGN_IN_PATH


def _is_below(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/")


def _require_media_type(headers: dict[bytes, bytes], wanted: bytes) -> None:
    has_body = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if has_body and media_type != wanted:
        what = "JSON" if wanted == JSON else "a form with the file"
        raise UnsupportedMediaType(f"Send {what}, with Content-Type: {wanted.decode()}")
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise UnsupportedMediaType("Send the body uncompressed, without Content-Encoding")


def _require_host(scope: HTTPScope) -> None:
    """A Host header becomes part of URLs in answers, so it must be one name and port."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) > 1 or (hosts and not _HOST.fullmatch(hosts[0])):
        raise ValidationError.of("Host", "must be one host name or address, with or without a port")
