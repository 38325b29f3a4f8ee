"""Building the web application from the objects it is given; nothing is made at import."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.datastructures import State
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

import banatie
from banatie.api.auth import Authentication
from banatie.api.client_address import FailedKeyLimiter
from banatie.api.dependencies import AppState
from banatie.api.errors import to_response
from banatie.api.metrics import Metrics
from banatie.api.middleware import RequestMiddleware
from banatie.api.openapi import Document
from banatie.api.rate_limit import RateLimiter
from banatie.api.routes.generations import generations_router
from banatie.api.routes.images import ImageFiles
from banatie.api.routes.system import system_router
from banatie.api.waiters import Waiters
from banatie.services import Services
from banatie.store.change_watcher import ChangeWatcher
from banatie.store.previews import Previews

logger = logging.getLogger(__name__)

SAVE_SECONDS = 1.0


def create_app(services: Services) -> Litestar:
    """The ASGI application over these services."""
    server = services.config.server
    wrong_keys = services.config.limits.failed_keys_per_minute
    callers = FailedKeyLimiter(wrong_keys, server.trusted_proxies, services.clock)
    authentication = Authentication(services.keys, callers, services.clock)
    limits = RateLimiter(services.keys, services.config.limits.requests_per_hour, services.clock)
    waiters = Waiters(services.generations.find)
    metrics = None
    if server.metrics:
        metrics = Metrics(services.database, services.workers, services.clock)
    front = AppState(
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

        changes = ChangeWatcher(services.database, waiters.anyone, on_change, on_keys)
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
    files = ImageFiles(app.asgi_handler, services.files)
    app.asgi_handler = RequestMiddleware(files, authentication, limits, metrics, services.config)
    return app


async def _save_limits(front: AppState) -> None:
    while True:
        await asyncio.sleep(SAVE_SECONDS)
        await front.write(front.limits.save)
