"""What the routes work with, in one object that the application carries.

Litestar's dependency injection is not used: it starts a task for each dependency of each request,
which costs more than reading a generation does (`scripts/bench service` shows it).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from litestar import Request

from banatie.api.auth import Authentication
from banatie.api.client_address import AddressCounter, ClientAddresses, FailedKeyLimiter
from banatie.api.metrics import Metrics
from banatie.api.rate_limit import RateLimiter
from banatie.api.waiters import Waiters
from banatie.config import Config
from banatie.errors import BanatieError
from banatie.installer import Installer
from banatie.intake import Intake
from banatie.library import Library
from banatie.live import Live
from banatie.model_choice import PaintingModelChoice
from banatie.records import Key, Session
from banatie.services import Services
from banatie.store.database import Database
from banatie.store.files import Files
from banatie.store.gallery import Gallery
from banatie.store.keys import Keys
from banatie.store.overview import Overview
from banatie.store.previews import Previews
from banatie.store.projects import Projects
from banatie.store.sessions import Sessions
from banatie.store.workers import Workers

logger = logging.getLogger(__name__)

HOUR_MILLISECONDS = 3_600_000
COPY_THREADS = 2
WRITE_THREADS = 16
"""How many requests may wait to write at once; those that do share one wait for the disk."""

P = ParamSpec("P")
T = TypeVar("T")
HttpRequest = Request[Any, Any, Any]


@dataclass(frozen=True)
class AppState:
    """The services behind the routes."""

    config: Config
    intake: Intake
    library: Library
    waiters: Waiters
    rate_limiter: RateLimiter
    authentication: Authentication
    failed_keys: FailedKeyLimiter
    keys: Keys
    sessions: Sessions
    projects: Projects
    live: Live
    files: Files
    gallery: Gallery
    addresses: ClientAddresses
    new_images: AddressCounter
    """By live URLs."""
    workers: Workers
    previews: Previews
    metrics: Metrics | None
    database: Database
    overview: Overview
    painting_model: PaintingModelChoice
    installer: Installer
    command: tuple[str, ...]
    """Starts the command line with the server's settings."""
    clock: Callable[[], int]
    started: float = field(default_factory=time.monotonic)
    doctor: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """One examination at a time: it takes a processor for seconds."""
    _write_threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(WRITE_THREADS, thread_name_prefix="write")
    )
    _copy_threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(COPY_THREADS, thread_name_prefix="copy")
    )

    @classmethod
    def of(cls, services: Services) -> AppState:
        """The state of an application over these services."""
        config, clock = services.config, services.clock
        addresses = ClientAddresses(config.server.trusted_proxies)
        failed_keys = FailedKeyLimiter(config.limits.failed_keys_per_minute, addresses, clock)
        metrics = None
        if config.server.metrics:
            metrics = Metrics(services.database, services.workers, clock)
        return cls(
            config=config,
            intake=services.intake,
            library=services.library,
            waiters=Waiters(services.generations.find),
            rate_limiter=RateLimiter(services.keys, config.limits.requests_per_hour, clock),
            authentication=Authentication(services.keys, services.sessions, failed_keys, clock),
            failed_keys=failed_keys,
            keys=services.keys,
            sessions=services.sessions,
            projects=services.projects,
            live=services.live,
            files=services.files,
            gallery=Gallery(services.database),
            addresses=addresses,
            new_images=AddressCounter(config.live.new_per_hour_address, HOUR_MILLISECONDS, clock),
            workers=services.workers,
            previews=Previews(services.database),
            metrics=metrics,
            database=services.database,
            overview=Overview(services.database, config.storage.data),
            painting_model=services.painting_model,
            installer=services.installer,
            command=services.command,
            clock=clock,
        )

    async def write(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Call what changes the database, in threads of their own.

        While another process has locked the database these wait, and those that only read must not.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._write_threads, lambda: work(*arguments, **options))

    def write_detached(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> None:
        """Call what changes the database without waiting; a failure is logged.

        For what has to happen although the request that asks for it is being cancelled.
        """

        def logged() -> None:
            try:
                work(*arguments, **options)
            except BanatieError as error:
                logger.warning("a change that nobody waits for failed: %s", error)

        self._write_threads.submit(logged)

    async def copy(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Call what may make a smaller copy of a picture, in threads of their own.

        That takes a while, and what only reads the database must not wait for it.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._copy_threads, lambda: work(*arguments, **options))

    def close(self) -> None:
        """End the threads, without waiting for one that the database holds up."""
        self._write_threads.shutdown(wait=False)
        self._copy_threads.shutdown(wait=False)

    def public_url(self, request: HttpRequest) -> str:
        """Where the client finds pictures: as configured, or as its own Host header says."""
        server = self.config.server
        if configured := server.cdn_url or server.public_url:
            return configured.rstrip("/")
        host = request.scope["state"]["headers"].get(b"host", b"").decode("latin-1")
        return f"{request.scope['scheme']}://{host or f'{server.host}:{server.port}'}"


def app_state_of(request: HttpRequest) -> AppState:
    """The services of the application that received the request."""
    state: AppState = request.app.state.app_state
    return state


def key_of(request: HttpRequest) -> Key:
    """The key that the middleware has authenticated."""
    key: Key = request.scope["state"]["key"]
    return key


def session_of(request: HttpRequest) -> Session | None:
    """The browser's session, if the request came with one and not with a key."""
    session: Session | None = request.scope["state"].get("session")
    return session


async def in_thread(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call what reads from the disk in a thread, without holding up other requests."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, lambda: work(*arguments, **options))
