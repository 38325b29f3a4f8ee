"""What every request passes before any route: its id, its key, its count, and the last headers.

It stands around Litestar instead of in it, because a wrong route or method must be asked for its
key, counted and answered like everything else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from banatie.api.auth import Authentication
from banatie.api.cors import PREFLIGHT, Origins
from banatie.api.errors import send_failure
from banatie.api.metrics import Metrics
from banatie.api.rate_limit import RateLimiter
from banatie.config import Config
from banatie.errors import BanatieError, RateLimitExceeded, RequestTimeout, ValidationError
from banatie.logs import log_context
from banatie.records import Generation, Key

logger = logging.getLogger(__name__)

PROTECTED = "/api/v1"
POLLED = re.compile(PROTECTED + r"/generations/[0-9a-fA-F-]{36}(/events)?/?")
ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # Nothing of an answer is to run, to be framed or to be kept; pages and files say otherwise.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
"""The headers of every answer, but for those that it has itself."""


class UnsupportedMediaType(BanatieError):
    """The body is not JSON."""

    code = "UNSUPPORTED_MEDIA_TYPE"


class RequestMiddleware:
    """An ASGI application around `inner`."""

    def __init__(
        self,
        inner: ASGIApp,
        authentication: Authentication,
        limits: RateLimiter,
        metrics: Metrics | None,
        config: Config,
    ) -> None:
        self._inner = inner
        self._authentication = authentication
        self._limits = limits
        self._metrics = metrics
        self._body_seconds = config.limits.body_seconds
        self._origins = Origins(config.server.cors_origins) if config.server.cors_origins else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request in, or answer it here."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = os.urandom(12).hex()
        started = time.monotonic()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._complete(message, scope, started)
            await send(message)

        if self._origins is not None and self._origins.is_preflight(scope):
            start = {"type": "http.response.start", "status": 204, "headers": PREFLIGHT}
            await send_with_headers(start)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        # As Litestar will read it: several slashes are one.
        if "//" in scope["path"]:
            scope["path"] = re.sub("/{2,}", "/", scope["path"])
        if scope["path"] == PROTECTED or scope["path"].startswith(PROTECTED + "/"):
            headers = dict(scope["headers"])
            try:
                key = await self._authentication.key_of(
                    headers.get(b"x-api-key", b"").decode("latin-1"), scope
                )
                state["key"] = key
                self._count(key, scope)
                if scope["method"] != "GET":
                    _expect_json(headers)
                    receive = _in_time(receive, self._body_seconds)
            except BanatieError as error:
                await send_failure(error, scope, send_with_headers)
                return
        await self._inner(scope, receive, send_with_headers)

    def _count(self, key: Key, scope: Scope) -> None:
        allowance = self._limits.allowance(key)
        if not allowance.limit:
            return
        if allowance.remaining:
            self._limits.count(key)
            scope["state"]["counted"] = True
        elif scope["method"] == "GET" and POLLED.fullmatch(scope["path"]):
            # Perhaps a poll, which is never refused: `finish_rate_limit` decides.
            scope["state"]["over_limit"] = allowance
        else:
            raise RateLimitExceeded(allowance.limit, allowance.reset_seconds)

    def _complete(self, message: Message, scope: Scope, started: float) -> None:
        state = scope["state"]
        own = dict(message.get("headers", ()))
        headers = [*message.get("headers", ()), *(pair for pair in ALWAYS if pair[0] not in own)]
        headers.append((b"x-request-id", state["request_id"].encode()))
        if "key" in state:
            headers += self._limits.allowance(state["key"]).headers()
        if self._origins is not None:
            headers += self._origins.headers(scope)
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


def finish_rate_limit(scope: Scope, limits: RateLimiter, generation: Generation | None) -> None:
    """Count a GET of a generation now that it is known: not at all while it has not ended.

    Raises RateLimitExceeded where the request was let in as a poll and is none.
    """
    state = scope["state"]
    if generation is not None and not generation.is_ended:
        if state.pop("counted", False):
            limits.refund(state["key"])
    elif "over_limit" in state:
        allowance = state["over_limit"]
        raise RateLimitExceeded(allowance.limit, allowance.reset_seconds)


def _in_time(receive: Receive, seconds: float) -> Receive:
    """`receive`, which gives up a body that has not come whole within `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    is_whole = False

    async def receive_in_time() -> Message:
        nonlocal is_whole
        if is_whole:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError as error:
            raise RequestTimeout(f"The body has not come within {seconds:g} seconds") from error
        if message["type"] == "http.disconnect":
            # The client has gone, or what it sent was no chunk.
            raise ValidationError.of("body", "ended before it was whole")
        is_whole = not message["more_body"]
        return message

    return receive_in_time


def _expect_json(headers: dict[bytes, bytes]) -> None:
    has_body = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if has_body and media_type != b"application/json":
        raise UnsupportedMediaType("Send JSON, with Content-Type: application/json")
