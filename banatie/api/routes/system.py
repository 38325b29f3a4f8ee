"""Health, what the server can do, its figures, and the page to try it on."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from importlib import resources
from typing import Annotated, Any, Literal

from litestar import Request, Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from msgspec import Meta
from prometheus_client import CONTENT_TYPE_LATEST

import banatie
from banatie.api.dependencies import app_state_of, in_thread
from banatie.api.responses import failures, json_response
from banatie.api.schemas import ErrorBody, Id, No, Success, Wire
from banatie.errors import DatabaseUnusable, ServiceUnavailable
from banatie.records import ASPECT_RATIOS, TEMPLATE_NAMES, AspectRatio, TemplateName
from banatie.store.workers import WorkerState, state_of

logger = logging.getLogger(__name__)

DOCUMENTS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "start.js": "text/javascript",
}
PAGE_HEADERS = {
    # The page loads nothing from elsewhere, and could not if it tried.
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class ModelsView(Wire):
    """The models in use, as the worker has loaded them; null while it has not."""

    enhancement: str | None
    painting: str | None


class WorkerView(Wire):
    """One of the workers, each of which has a device of its own."""

    device: str | None
    state: Literal["ready", "starting", "broken"]
    reason: str | None
    models: ModelsView
    memory: Annotated[
        str | None, Meta(description="Where it has laid its models out, in words for people.")
    ]


class HealthView(Wire):
    """How the service is."""

    status: Literal["ok", "starting", "unavailable"]
    version: str
    uptime: float
    worker: Literal["ready", "starting", "broken", "gone", "database gone"]
    models: ModelsView
    device: str | None
    workers: list[WorkerView]


class LimitsView(Wire):
    """What a client may ask for."""

    requests_per_hour: int
    queue_size: int
    prompt_characters: int
    meta_bytes: int


class KeyView(Wire):
    """The key that was sent along."""

    name: str
    organization: str
    project: str
    project_id: Id
    requests_per_hour: int
    requests_remaining: int


class InfoView(Wire):
    """What this server can do."""

    version: str
    aspect_ratios: list[AspectRatio]
    templates: list[TemplateName]
    limits: LimitsView
    loras: list[str]
    models: ModelsView
    workers: list[WorkerView]
    key: KeyView | None


class Unhealthy(Wire, kw_only=True):
    """The answer while the worker or the database is gone."""

    success: No = False
    error: ErrorBody
    data: HealthView


@get(
    "/health",
    operation_id="health",
    summary="Whether the server can make pictures",
    response_description="A worker is ready.",
    responses={
        503: ResponseSpec(
            Unhealthy,
            description="SERVICE_UNAVAILABLE and the reason",
            generate_examples=False,
        ),
        **failures(400),
    },
)
async def health(request: Request[Any, Any, Any]) -> Response[Success[HealthView]]:
    """200 when a worker is ready; 503 and the reason otherwise."""
    front = app_state_of(request)
    workers, state = [], "gone"
    try:
        workers = await in_thread(front.workers.present, front.clock())
        state = state_of(workers)
    except (ServiceUnavailable, DatabaseUnusable) as error:
        logger.error("the database cannot be used: %s", error)
        state = "database gone"
    shown = HealthView(
        status="ok" if state == "ready" else "starting" if state == "starting" else "unavailable",
        version=banatie.__version__,
        uptime=round(time.monotonic() - front.started, 1),
        worker=state,
        models=_models(workers),
        device=workers[0].device if workers else None,
        workers=_views(workers),
    )
    if state == "ready":
        return json_response(Success(data=shown))
    reason = {
        "starting": "The worker is loading its models",
        "database gone": "The database cannot be used; the log says why",
        "gone": "No worker is running; `banatie serve` or `banatie worker` starts one",
    }.get(state) or next((worker.reason for worker in workers if worker.reason), None)
    error = ErrorBody("SERVICE_UNAVAILABLE", reason or "The worker is broken; its log says why")
    return json_response(Unhealthy(error=error, data=shown), status=503)


@get(
    "/api/info",
    operation_id="info",
    summary="Limits, templates, ratios and models",
    security=[{}, {"apiKey": []}],
    response_description="What there is.",
    responses=failures(400, 401, 429, 500, 503),
)
async def info(request: Request[Any, Any, Any]) -> Response[Success[InfoView]]:
    """What this server can do; with a key, also where that key stands."""
    front, key_view = app_state_of(request), None
    text = request.headers.get("x-api-key")
    if text:
        key = await front.authentication.key_of(text, request.scope)
        allowance = front.limits.allowance(key)
        key_view = KeyView(
            name=key.name,
            organization=key.project.organization_slug,
            project=key.project.slug,
            project_id=key.project.id,
            requests_per_hour=allowance.limit,
            requests_remaining=allowance.remaining,
        )
    workers = await in_thread(front.workers.present, front.clock())
    limits_view = LimitsView(
        requests_per_hour=front.config.limits.requests_per_hour,
        queue_size=front.config.limits.queue_size,
        prompt_characters=front.config.limits.prompt_characters,
        meta_bytes=front.config.limits.meta_bytes,
    )
    return json_response(
        Success(
            data=InfoView(
                version=banatie.__version__,
                aspect_ratios=list(ASPECT_RATIOS),
                templates=list(TEMPLATE_NAMES),
                limits=limits_view,
                loras=await in_thread(front.intake.loras),
                models=_models(workers),
                workers=_views(workers),
                key=key_view,
            )
        )
    )


@get("/metrics", include_in_schema=False)
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The figures for a monitor; nothing is here when `server.metrics` is off."""
    figures = app_state_of(request).metrics
    if figures is None:
        raise NotFoundException()
    return Response(await in_thread(figures.render), media_type=CONTENT_TYPE_LATEST)


@get("/docs", include_in_schema=False, media_type="text/html", sync_to_thread=False)
def docs_page() -> Response[bytes]:
    """The page to try the API on."""
    return Response(_document("index.html"), media_type="text/html", headers=PAGE_HEADERS)


@get("/docs/{name:str}", include_in_schema=False, sync_to_thread=False)
def docs_file(name: FromPath[str]) -> Response[bytes]:
    """What that page consists of."""
    if name not in DOCUMENTS:
        raise NotFoundException()
    compressed = not name.startswith("start")
    headers = {"Cache-Control": "public, max-age=86400"}
    if compressed:
        headers["Content-Encoding"] = "gzip"
    content = _document(name + ".gz" if compressed else name)
    return Response(content, media_type=DOCUMENTS[name], headers=headers)


def system_router() -> Router:
    """The routes that need no key."""
    handlers = [health, info, metrics, docs_page, docs_file]
    return Router("/", route_handlers=handlers, tags=["System"])


def _models(workers: Sequence[WorkerState]) -> ModelsView:
    """What they have between them: the language model is in one of them."""
    language = (worker.language_model for worker in workers)
    painting = (worker.painting_model for worker in workers)
    return ModelsView(next(filter(None, language), None), next(filter(None, painting), None))


def _views(workers: Sequence[WorkerState]) -> list[WorkerView]:
    return [
        WorkerView(worker.device, worker.state, worker.reason, _models([worker]), worker.plan)
        for worker in workers
    ]


def _document(name: str) -> bytes:
    return resources.files("banatie.api").joinpath("docs", name).read_bytes()
