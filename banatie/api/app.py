"""Building the web application from the objects it is given; nothing is made at import."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from litestar import Litestar
from litestar.datastructures import State
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

import banatie
from banatie.api.auth import Authentication
from banatie.api.callers import Callers
from banatie.api.document import Document
from banatie.api.errors import to_response
from banatie.api.front import Front
from banatie.api.gate import Gate
from banatie.api.generations import generations_router
from banatie.api.limits import RequestLimits
from banatie.api.metrics import Metrics
from banatie.api.storage import StorageFiles
from banatie.api.system import system_router
from banatie.api.waiting import Waiters
from banatie.config import Config
from banatie.intake import Intake
from banatie.jobs import Bell, Stage
from banatie.store.changes import Changes
from banatie.store.database import Database
from banatie.store.files import Files
from banatie.store.generations import Generations
from banatie.store.keys import Keys
from banatie.store.previews import Previews
from banatie.store.workers import Workers

logger = logging.getLogger(__name__)

SAVE_SECONDS = 1.0


@dataclass(frozen=True)
class Services:
    """What the routes are given."""

    config: Config
    database: Database
    generations: Generations
    keys: Keys
    workers: Workers
    files: Files
    bells: Mapping[Stage, Bell]
    intake: Intake
    clock: Callable[[], int]

    def close(self) -> None:
        """Let go of the files and sockets that the calling thread holds."""
        for bell in self.bells.values():
            bell.close()
        self.database.close()


def create_app(services: Services) -> Litestar:
    """The ASGI application over these services."""
    server = services.config.server
    wrong_keys = services.config.limits.wrong_keys_per_minute
    callers = Callers(wrong_keys, server.trusted_proxies, services.clock)
    authentication = Authentication(services.keys, callers, services.clock)
    limits = RequestLimits(services.keys, services.config.limits.requests_per_hour, services.clock)
    waiters = Waiters(services.generations.find)
    metrics = None
    if server.metrics:
        metrics = Metrics(services.database, services.workers, services.clock)
    front = Front(
        config=services.config,
        intake=services.intake,
        waiters=waiters,
        limits=limits,
        authentication=authentication,
        workers=services.workers,
        previews=Previews(services.database),
        metrics=metrics,
        clock=services.clock,
    )

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def on_change(changed: list) -> None:
            loop.call_soon_threadsafe(waiters.publish, changed)

        def on_keys() -> None:
            loop.call_soon_threadsafe(authentication.forget)

        changes = Changes(services.database, waiters.anyone, on_change, on_keys)
        changes.start()
        saving = asyncio.create_task(_save_limits(front))
        try:
            yield
        finally:
            saving.cancel()
            await asyncio.to_thread(changes.stop)
            await front.write(limits.save)

    app = Litestar(
        route_handlers=[generations_router(), system_router()],
        state=State({"front": front}),
        exception_handlers={Exception: to_response},
        lifespan=[lifespan],
        request_max_body_size=services.config.limits.body_bytes,
        openapi_config=OpenAPIConfig(
            title="Banatie",
            version=banatie.__version__,
            description="Self-hosted image generation with local models.",
            path="/openapi.json",
            use_handler_docstrings=True,
            render_plugins=[Document(services.config.limits)],
            components=Components(
                security_schemes={
                    "apiKey": SecurityScheme(
                        type="apiKey", name="X-API-Key", security_scheme_in="header"
                    )
                }
            ),
        ),
        logging_config=None,
    )
    files = StorageFiles(app.asgi_handler, services.files)
    app.asgi_handler = Gate(files, authentication, limits, metrics, services.config)
    return app


async def _save_limits(front: Front) -> None:
    while True:
        await asyncio.sleep(SAVE_SECONDS)
        await front.write(front.limits.save)
