"""The routes about the server itself: health, its capabilities, its metrics."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

from litestar import Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Meta
from prometheus_client import CONTENT_TYPE_LATEST

import banatie
from banatie.api.browser import cookie_of
from banatie.api.dependencies import AppState, HttpRequest, app_state_of, in_thread
from banatie.api.query import check_query
from banatie.api.rate_limit import UNLIMITED, Quota
from banatie.api.responses import failures, json_response
from banatie.api.schemas import ErrorBody, Id, No, Success, Time, Wire, timestamp
from banatie.errors import DatabaseUnusable, DiskFull, ServiceUnavailable, Unauthorized
from banatie.limits import MAX_REFERENCES, MAX_UPLOAD_BYTES
from banatie.records import (
    ASPECT_RATIOS,
    TEMPLATE_NAMES,
    AspectRatio,
    Key,
    KeyType,
    TemplateName,
)
from banatie.store.disk import is_full
from banatie.store.locks import is_alive
from banatie.store.workers import WorkerState, state_of

logger = logging.getLogger(__name__)

UPLOAD_TYPES = ("image/png", "image/jpeg", "image/webp")
ServiceState = Literal["ready", "starting", "broken", "gone", "database gone"]


class ModelsView(Wire):
    """The models in use, as the worker has loaded them; null while it has not."""

    enhancement: str | None
    painting: str | None


class WorkerView(Wire):
    """A worker process, which has a device of its own."""

    device: str | None
    state: Literal["ready", "starting", "broken"]
    reason: str | None
    models: ModelsView
    memory: Annotated[
        str | None, Meta(description="Its memory plan: where its models lie, and why.")
    ]


class HealthView(Wire):
    """The state of the service."""

    status: Literal["ok", "starting", "unavailable"]
    version: str
    uptime: float
    timestamp: Time
    worker: ServiceState
    models: ModelsView
    device: str | None
    workers: list[WorkerView]


class LimitsView(Wire):
    """The limits of a request."""

    requests_per_hour: int
    queue_size: int
    prompt_characters: int
    meta_bytes: int
    max_file_size: Annotated[int, Meta(description="Of an upload, in bytes.")]
    max_files: Annotated[int, Meta(description="Reference images of a generation.")]
    supported_formats: Annotated[list[str], Meta(description="Media types of uploads.")]


class KeyView(Wire):
    """The API key of the request."""

    type: KeyType
    name: str
    organization: str
    project: str
    project_id: Id
    requests_per_hour: int
    requests_remaining: int
    expires_at: Time | None


class InfoView(Wire):
    """The capabilities of this server."""

    name: str
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
    summary="Check the health of the service",
    response_description="A worker is ready.",
    responses={
        503: ResponseSpec(
            Unhealthy,
            description="SERVICE_UNAVAILABLE and the reason",
            generate_examples=False,
        ),
        **failures("VALIDATION_ERROR"),
    },
)
async def health(request: HttpRequest) -> Response[Success[HealthView]]:
    """200 when a worker is ready; 503 and the reason otherwise."""
    app = app_state_of(request)
    workers: list[WorkerState] = []
    state: ServiceState
    problem: ServiceUnavailable | None = None
    try:
        workers = await in_thread(_workers, app)
        state = state_of(workers)
    except (ServiceUnavailable, DatabaseUnusable) as found:
        logger.error("the database cannot be used: %s", found)
        state, problem = "database gone", found if isinstance(found, ServiceUnavailable) else None
    if await in_thread(is_full, app.config.storage.data):
        problem = DiskFull()
    status: Literal["ok", "starting", "unavailable"] = "unavailable"
    if problem is None:
        status = "ok" if state == "ready" else "starting" if state == "starting" else status
    shown = HealthView(
        status=status,
        version=banatie.__version__,
        uptime=round(time.monotonic() - app.started, 1),
        timestamp=timestamp(app.clock()),
        worker=state,
        models=_models(workers),
        device=workers[0].device if workers else None,
        workers=_views(workers),
    )
    if status == "ok":
        return json_response(Success(data=shown))
    reason = {
        "starting": "The worker is loading its models",
        "database gone": "The database cannot be used; the log says why",
        "gone": "No worker is running; `banatie serve` or `banatie worker` starts one",
    }.get(state) or next((worker.reason for worker in workers if worker.reason), None)
    message = str(problem or reason or "The worker is broken; its log says why")
    error = ErrorBody("SERVICE_UNAVAILABLE", message)
    return json_response(Unhealthy(error=error, data=shown), status=503)


@get(
    "/api/info",
    operation_id="info",
    summary="Get limits, templates, aspect ratios and models",
    guards=[check_query],
    security=[{}, {"apiKey": []}],
    response_description="The capabilities.",
    responses=failures(
        *("VALIDATION_ERROR", "UNAUTHORIZED", "RATE_LIMIT_EXCEEDED"),
        *("INTERNAL_ERROR", "SERVICE_UNAVAILABLE"),
    ),
)
async def info(request: HttpRequest) -> Response[Success[InfoView]]:
    """The capabilities of this server; with a key, also its remaining requests.

    A session that has ended is no error here: the page asks whether it is signed in.
    """
    app, key_view = app_state_of(request), None
    if (found := await _key_and_quota(app, request)) is not None:
        key, quota = found
        key_view = KeyView(
            type=key.type,
            name=key.name,
            organization=key.project.organization_slug,
            project=key.project.slug,
            project_id=key.project.id,
            requests_per_hour=quota.limit,
            requests_remaining=quota.remaining,
            expires_at=None if key.expires_at is None else timestamp(key.expires_at),
        )
    workers = await in_thread(_workers, app)
    limits_view = LimitsView(
        requests_per_hour=app.config.limits.requests_per_hour,
        queue_size=app.config.limits.queue_size,
        prompt_characters=app.config.limits.prompt_characters,
        meta_bytes=app.config.limits.meta_bytes,
        max_file_size=MAX_UPLOAD_BYTES,
        max_files=MAX_REFERENCES,
        supported_formats=list(UPLOAD_TYPES),
    )
    return json_response(
        Success(
            data=InfoView(
                name="Banatie",
                version=banatie.__version__,
                aspect_ratios=list(ASPECT_RATIOS),
                templates=list(TEMPLATE_NAMES),
                limits=limits_view,
                loras=await in_thread(app.intake.loras),
                models=_models(workers),
                workers=_views(workers),
                key=key_view,
            )
        )
    )


@get("/metrics", include_in_schema=False)
async def metrics(request: HttpRequest) -> Response[bytes]:
    """Metrics in Prometheus' text format; 404 when `server.metrics` is off."""
    figures = app_state_of(request).metrics
    if figures is None:
        raise NotFoundException()
    return Response(await in_thread(figures.render), media_type=CONTENT_TYPE_LATEST)


def system_router() -> Router:
    """The routes that need no API key."""
    return Router("/", route_handlers=[health, info, metrics], tags=["System"])


async def _key_and_quota(app: AppState, request: HttpRequest) -> tuple[Key, Quota] | None:
    """The key of the request or of its session, if there is one, and its remaining requests."""
    headers = dict(request.scope["headers"])
    if text := headers.get(b"x-api-key", b"").decode("latin-1"):
        key = await app.authentication.key_of(text, request.scope)
        return key, app.rate_limiter.quota(key)
    cookie = cookie_of(headers) if app.config.server.studio else None
    if cookie is None:
        return None
    with contextlib.suppress(Unauthorized):
        return (await app.authentication.session_of(cookie)).key, UNLIMITED
    return None


def _workers(app: AppState) -> list[WorkerState]:
    """Those with a recent heartbeat, then those that live and don't answer."""
    now, is_ours_alive = app.clock(), partial(is_alive, app.config.storage.data)
    return app.workers.present(now) + app.workers.silent(now, is_ours_alive)


def _models(workers: Sequence[WorkerState]) -> ModelsView:
    """The models of all of them: the language model is in one worker only."""
    language = (worker.language_model for worker in workers)
    painting = (worker.painting_model for worker in workers)
    return ModelsView(next(filter(None, language), None), next(filter(None, painting), None))


def _views(workers: Sequence[WorkerState]) -> list[WorkerView]:
    return [
        WorkerView(worker.device, worker.state, worker.reason, _models([worker]), worker.plan)
        for worker in workers
    ]
