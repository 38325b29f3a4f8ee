"""The web application: Litestar's routes inside the middleware, over the services it is given."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from litestar import Litestar, Response
from litestar.datastructures import State
from litestar.enums import ScopeType
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, Reference, SecurityScheme
from litestar.types import Receive, Scope, Send

import banatie
from banatie.api.browser import COOKIE
from banatie.api.dependencies import AppState, HttpRequest
from banatie.api.dialects import dialect_of
from banatie.api.dialects.openai.routes import openai_router
from banatie.api.dialects.webui.access import WebuiAccess
from banatie.api.dialects.webui.active import ActiveRequests
from banatie.api.dialects.webui.router import webui_router
from banatie.api.errors import to_response
from banatie.api.mcp_endpoint import LoadMcp, McpEndpoint
from banatie.api.middleware import RequestMiddleware
from banatie.api.openapi import OpenApiDocument
from banatie.api.request_bodies import RequestBodies
from banatie.api.responses import JsonResponse
from banatie.api.routes.admin import admin_router, bootstrap_router
from banatie.api.routes.docs_page import docs_router
from banatie.api.routes.flows import flows_router
from banatie.api.routes.generations import generations_router
from banatie.api.routes.images import ImageFiles
from banatie.api.routes.live import LiveFiles, live_router
from banatie.api.routes.machine import machine_router
from banatie.api.routes.models import models_router
from banatie.api.routes.project_images import project_images_router
from banatie.api.routes.public_images import public_images_router
from banatie.api.routes.scopes import scopes_router
from banatie.api.routes.sessions import sessions_router
from banatie.api.routes.studio import studio_router
from banatie.api.routes.system import system_router
from banatie.api.webhook_sender import WebhookSender
from banatie.config import Config
from banatie.records import Generation
from banatie.services import Services
from banatie.store.change_watcher import ChangeWatcher

logger = logging.getLogger(__name__)

SAVE_SECONDS = 1.0
"""Between two savings of the request counts."""


class WebApplication:
    """The ASGI application of one server, outermost part first: middleware, files, routes."""

    def __init__(self, services: Services, load_mcp: LoadMcp | None) -> None:
        self.state = AppState.of(services)
        self._bodies = RequestBodies(services.config.limits.body_seconds)
        self._litestar = _routes(services, self.state, self._close_mcp)
        files = ImageFiles(LiveFiles(self._litestar, services.live, services.files), services.files)
        self._mcp = McpEndpoint(files, self, self.state.authentication, self._bodies, load_mcp)
        middleware = RequestMiddleware(
            self._mcp,
            self.state.authentication,
            self.state.rate_limiter,
            self.state.metrics,
            self._bodies,
            services.config,
        )
        self._asgi = WebuiAccess(
            middleware,
            self.state.addresses,
            services.config.dialects.webui_without_key,
            services.projects,
            services.clock,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or run the lifespan."""
        try:
            await self._asgi(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] != ScopeType.HTTP:
                raise
            # The client has hung up, or the server stops before the body was there: no error of
            # the application, as which the server would log it.
            logger.debug("a request ended before it was answered: %s", scope["path"])

    def end_waiting(self) -> None:
        """Answer the clients that only wait, or are still sending, for a graceful shutdown."""
        self.state.waiters.close()
        self._bodies.close()
        self._mcp.end()

    async def _close_mcp(self, _: Litestar) -> None:
        await self._mcp.close()

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """What has to run while requests are answered; servers enter it by the ASGI protocol."""
        return self._litestar.lifespan()


def create_app(services: Services, load_mcp: LoadMcp | None = None) -> WebApplication:
    """The ASGI application over these services; `load_mcp` finds what answers at /mcp."""
    return WebApplication(services, load_mcp)


def _routes(
    services: Services, state: AppState, on_shutdown: Callable[[Litestar], Awaitable[None]]
) -> Litestar:
    limits = services.config.limits

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with _background_work(services, state):
            yield

    return Litestar(
        route_handlers=[
            generations_router(),
            project_images_router(),
            flows_router(),
            live_router(),
            public_images_router(),
            scopes_router(),
            admin_router(),
            bootstrap_router(),
            models_router(),
            machine_router(),
            system_router(),
            webui_router(),
            docs_router(),
            *([sessions_router(), studio_router()] if services.config.server.studio else []),
            openai_router(),
        ],
        state=State({"app_state": state, "webui_active": ActiveRequests()}),
        exception_handlers={Exception: _failure},
        lifespan=[lifespan],
        on_shutdown=[on_shutdown],
        request_max_body_size=limits.body_bytes,
        openapi_config=OpenAPIConfig(
            title="Banatie",
            version=banatie.__version__,
            description="Self-hosted image generation with local models.",
            path="/openapi.json",
            use_handler_docstrings=True,
            render_plugins=[OpenApiDocument(limits)],
            components=Components(security_schemes=_security_schemes(services.config)),
        ),
        logging_config=None,
    )


def _failure(request: HttpRequest, error: Exception) -> Response[Any]:
    """The answer to a request that ended in `error`, in the shape of its dialect."""
    dialect = dialect_of(request.scope["path"])
    if dialect is None:
        return to_response(request, error)
    status, content, headers = dialect.answer(error, request.scope)
    return JsonResponse(content, status_code=status, headers=headers)


def _security_schemes(config: Config) -> dict[str, SecurityScheme | Reference]:
    schemes: dict[str, SecurityScheme | Reference] = {
        "apiKey": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header")
    }
    if config.server.studio:
        schemes["session"] = SecurityScheme(type="apiKey", name=COOKIE, security_scheme_in="cookie")
    return schemes


@asynccontextmanager
async def _background_work(services: Services, state: AppState) -> AsyncIterator[None]:
    """Watch the database for those who wait, save the request counts, and send webhooks."""
    loop = asyncio.get_running_loop()

    def on_change(changed: list[Generation]) -> None:
        loop.call_soon_threadsafe(state.waiters.publish, changed)

    def on_keys() -> None:
        loop.call_soon_threadsafe(state.authentication.forget)

    watcher = ChangeWatcher(services.database, state.waiters.anyone, on_change, on_keys)
    watcher.start()
    saving = asyncio.create_task(_save_request_counts(state))
    installing = asyncio.create_task(services.installer.run())
    sending = asyncio.create_task(WebhookSender(services, state).run())
    try:
        yield
    finally:
        saving.cancel()
        installing.cancel()
        await asyncio.wait({installing})
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await asyncio.to_thread(watcher.stop)
        await state.write(state.rate_limiter.save)
        state.close()


async def _save_request_counts(state: AppState) -> None:
    while True:
        await asyncio.sleep(SAVE_SECONDS)
        await state.write(state.rate_limiter.save)
