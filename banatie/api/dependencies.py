"""What the routes work with, in one object that the application carries.

Litestar's own injection would start a task for each of these on every request, which costs more
than reading a generation does (`scripts/bench service` shows it).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from litestar import Request

from banatie.api.auth import Authentication
from banatie.api.metrics import Metrics
from banatie.api.rate_limit import RateLimiter
from banatie.api.waiters import Waiters
from banatie.config import Config
from banatie.intake import Intake
from banatie.records import Key
from banatie.store.previews import Previews
from banatie.store.workers import Workers

WRITING_THREADS = 16
"""How many requests may wait to write at once; those that do share one wait for the disk."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class AppState:
    """The services behind the routes."""

    config: Config
    intake: Intake
    waiters: Waiters
    limits: RateLimiter
    authentication: Authentication
    workers: Workers
    previews: Previews
    metrics: Metrics | None
    clock: Callable[[], int]
    started: float = field(default_factory=time.monotonic)
    _writers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(WRITING_THREADS, thread_name_prefix="writing")
    )

    async def write(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Call what changes the database, in threads of their own.

        While somebody else has locked the database these wait, and those that only read must not.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writers, lambda: work(*arguments, **options))

    def public_url(self, request: Request[Any, Any, Any]) -> str:
        """Where the client reaches this server: as configured, or as its own Host header says."""
        server = self.config.server
        if server.public_url:
            return server.public_url.rstrip("/")
        host = request.headers.get("host") or f"{server.host}:{server.port}"
        return f"{request.scope['scheme']}://{host}"


def app_state_of(request: Request[Any, Any, Any]) -> AppState:
    """The services of the application that got the request."""
    return request.app.state.front


def key_of(request: Request[Any, Any, Any]) -> Key:
    """The key that the gate has found good."""
    return request.scope["state"]["key"]


async def in_thread(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call what reads from the disk, without holding up other requests."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, lambda: work(*arguments, **options))
