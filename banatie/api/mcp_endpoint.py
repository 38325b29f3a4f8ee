"""The endpoint at `/mcp`: it checks the API key and passes the request to the MCP server.

The MCP server is given from outside, and starts with the first request: its package is an extra,
and takes a while and some memory to import. What it answers is unknown here. Its tools call the
API, which counts them for the rate limit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from banatie.api.auth import Authentication
from banatie.api.errors import send_failure
from banatie.api.request_bodies import RequestBodies
from banatie.errors import BanatieError, NotFound, ServiceUnavailable

MCP_PATH = "/mcp"
MAX_BODY_BYTES = 8 * 1024 * 1024
"""Of a request: an image of 5 MB in base64."""
NOT_INSTALLED = (
    "MCP is an extra that is not installed here; install the package mcp beside Banatie "
    "(pip install 'banatie[mcp]') and restart the server"
)

OpenMcp = Callable[[ASGIApp], AbstractAsyncContextManager[ASGIApp]]
"""Opens the MCP server over the application that its tools call."""
LoadMcp = Callable[[], Awaitable[OpenMcp]]


class McpEndpoint:
    """An ASGI application that answers `/mcp`, and passes everything else on to `app`."""

    def __init__(
        self,
        app: ASGIApp,
        whole: ASGIApp,
        authentication: Authentication,
        bodies: RequestBodies,
        load: LoadMcp | None,
    ) -> None:
        """`whole` is the application that the tools call; without `load` there is no MCP."""
        self._app = app
        self._whole = whole
        self._authentication = authentication
        self._bodies = bodies
        self._load = load
        self._handler: asyncio.Future[ASGIApp] | None = None
        self._server: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != ScopeType.HTTP or scope["path"].rstrip("/") != MCP_PATH:
            await self._app(scope, receive, send)
            return
        try:
            if self._load is None:
                raise NotFound(NOT_INSTALLED)
            await self._authentication.key_of(key_text(scope), scope)
            handler = await self._start(self._load)
        except BanatieError as error:
            await send_failure(error, scope, send)
            return
        if scope["method"] == "POST":
            receive = self._bodies.limited(receive)
        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        try:
            await handler(scope, receive, send)
        finally:
            self._requests.discard(task)

    def end(self) -> None:
        """End the requests that are being answered: their generations go on without them."""
        self._is_closed = True
        for task in self._requests:
            task.cancel()

    async def close(self) -> None:
        """End the MCP server."""
        self.end()
        if self._server is not None:
            self._server.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._server

    async def _start(self, load: LoadMcp) -> ASGIApp:
        """The MCP server's application; the first request starts it."""
        if self._is_closed:
            raise ServiceUnavailable("The server is stopping; try again")
        if self._handler is None:
            self._handler = asyncio.get_running_loop().create_future()
            self._server = asyncio.create_task(self._serve(load, self._handler))
        # A request that ends while the server starts does not end it for the others.
        return await asyncio.shield(self._handler)

    async def _serve(self, load: LoadMcp, started: asyncio.Future[ASGIApp]) -> None:
        # In one task from beginning to end, as the server's task group has to be.
        try:
            async with (await load())(self._whole) as handler:
                started.set_result(handler)
                await asyncio.get_running_loop().create_future()
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)
            self._handler = None


def key_text(scope: HTTPScope) -> str:
    """The API key in `X-API-Key`, or else the bearer token, as which MCP's clients send it."""
    headers = dict(scope["headers"])
    if text := headers.get(b"x-api-key", b"").decode("latin-1"):
        return text
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
