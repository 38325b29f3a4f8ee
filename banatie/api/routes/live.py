"""Live URLs: `/cdn/:org/:project/live/:scope?prompt=…`, the image of a prompt, made once.

An image that is there is sent before Litestar sees the request, since most requests are for those.
The first request for an image, and every error, is answered by the route.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from litestar import Response, Router, get
from litestar.enums import ScopeType
from litestar.openapi.spec import OpenAPIType, Operation, Parameter, Schema
from litestar.params import PathParameter
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from banatie.api.dependencies import HttpRequest, app_state_of, in_thread
from banatie.api.error_picture import to_picture
from banatie.api.file_response import UNCHANGED, PictureResponse, send_file, status_of
from banatie.api.query import read_query
from banatie.api.responses import failures, options
from banatie.errors import (
    GenerationFailed,
    GenerationNotFound,
    StillGenerating,
    TooManyNewImages,
    ValidationError,
)
from banatie.live import SCOPE_SLUG, Live, LiveQuery
from banatie.records import ASPECT_RATIOS, TEMPLATE_NAMES, AspectRatio, Generation, TemplateName
from banatie.store.files import Files
from banatie.store.live_images import LiveImage

PATH = "/cdn/{organization_slug:str}/{project_slug:str}/live"
TEMPLATE = "/cdn/{organization_slug}/{project_slug}/live/{scope_slug}"
PARAMETERS = ("prompt", "aspectRatio", "autoEnhance", "template")
RETRY_SECONDS = 5
CACHE_CONTROL = "public, max-age=31536000"

Slug = Annotated[str, PathParameter(schema_extra={"pattern": "^[a-z0-9][a-z0-9-]{0,63}$"})]
ScopeSlug = Annotated[str, PathParameter(schema_extra={"pattern": f"^{SCOPE_SLUG.pattern}$"})]


@dataclass
class LiveOperation(Operation):
    """Documents the query, which is read before Litestar (see `LiveFiles`)."""

    def __post_init__(self) -> None:
        """Add the parameters."""
        string, boolean = OpenAPIType.STRING, OpenAPIType.BOOLEAN
        schemas = {
            "prompt": Schema(type=string, min_length=1, pattern=r"\S"),
            "aspectRatio": Schema(type=string, enum=list(ASPECT_RATIOS), default="1:1"),
            "autoEnhance": Schema(type=boolean, default=True),
            "template": Schema(type=string, enum=list(TEMPLATE_NAMES), default="general"),
        }
        self.parameters = [
            *(self.parameters or ()),
            *(
                Parameter(name, "query", schema=schema, required=name == "prompt")
                for name, schema in schemas.items()
            ),
        ]


class LiveFiles:
    """An ASGI application around `app` that sends the live images that are there."""

    def __init__(self, app: ASGIApp, live: Live, files: Files) -> None:
        self._app = app
        self._live = live
        self._files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the image, or pass the request on."""
        wanted = _wanted(scope) if scope["type"] == ScopeType.HTTP else None
        found = None if wanted is None else await in_thread(self._find, wanted)
        if wanted is None or found is None or scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        scope["path_template"] = TEMPLATE
        path, status, image = found
        headers = _headers(
            wanted.scope_slug, "HIT", image.generation_id, image.image_id, image.mime_type
        )
        await send_file(path, status, scope, send, headers)

    def _find(self, wanted: LiveQuery) -> tuple[Path, os.stat_result, LiveImage] | None:
        image = self._live.find(wanted)
        if image is None:
            return None
        path = self._files.path(image.storage_key)
        try:
            return path, status_of(path), image
        except OSError:
            # The route answers it: perhaps the image has just been made again or deleted.
            return None


@get(
    "/{scope_slug:str}",
    operation_id="getLiveImage",
    operation_class=LiveOperation,
    summary="Get the image of a prompt, which is made on the first request",
    media_type="image/png",
    response_description="The image, as X-Cache-Status HIT or, if it is new, MISS.",
    responses=UNCHANGED
    | failures(
        *("VALIDATION_ERROR", "SCOPE_INVALID_FORMAT", "FORBIDDEN", "NOT_FOUND", "SCOPE_NOT_FOUND"),
        *("GENERATION_NOT_FOUND", "RATE_LIMIT_EXCEEDED", "GENERATION_FAILED", "INTERNAL_ERROR"),
        *("SERVICE_UNAVAILABLE", "QUEUE_FULL"),
    ),
)
async def live_image(
    organization_slug: Slug, project_slug: Slug, scope_slug: ScopeSlug, request: HttpRequest
) -> Response[bytes]:
    """The image; the first request waits for it for `live.wait` seconds, then it is a 503."""
    app = app_state_of(request)
    wanted = parse(organization_slug, project_slug, scope_slug, request.scope["query_string"])
    address = app.addresses.address_of(request.scope)

    def admit() -> None:
        count = app.new_images.count(address)
        if count.is_over:
            limit = app.new_images.limit
            raise TooManyNewImages("for this address", limit, count.milliseconds_left)

    request_id = request.scope["state"]["request_id"]
    generation = await app.write(app.live.request, wanted, admit, request_id)
    latest = await app.waiters.until(generation, _is_decided, app.config.live.wait)
    if latest is None:
        raise GenerationNotFound(generation.id)
    image = latest.image
    if image is None:
        if latest.status == "failed":
            # Its record is the project's, and whoever asks here has no key for it.
            raise GenerationFailed(latest.error_message or "It failed", None)
        raise StillGenerating(RETRY_SECONDS)
    headers = _headers(scope_slug, "MISS", latest.id, image.id, image.mime_type)
    return PictureResponse(app.files.path(image.storage_key), headers)


def live_router() -> Router:
    """The routes of live URLs."""
    return Router(
        PATH,
        route_handlers=[options("/{scope_slug:str}", "GET"), live_image],
        exception_handlers={Exception: to_picture},
        security=[],
        tags=["Public images"],
    )


def parse(organization_slug: str, project_slug: str, scope_slug: str, query: bytes) -> LiveQuery:
    """What the URL asks for. Raises ValidationError naming the parameter."""
    given = read_query(query, PARAMETERS)
    if "prompt" not in given:
        raise ValidationError.of("prompt", "is required")
    ratio: Any = _one_of(given, "aspectRatio", get_args(AspectRatio), "1:1")
    template: Any = _one_of(given, "template", get_args(TemplateName), "general")
    enhance = _one_of(given, "autoEnhance", ("true", "false"), "true")
    return LiveQuery(
        organization_slug,
        project_slug,
        scope_slug,
        given["prompt"],
        ratio,
        enhance == "true",
        template,
    )


def _one_of(given: dict[str, str], name: str, values: tuple[str, ...], default: str) -> str:
    value = given.get(name, default)
    if value not in values:
        raise ValidationError.of(name, f"is {value!r}; it must be one of {', '.join(values)}")
    return value


def _wanted(scope: HTTPScope) -> LiveQuery | None:
    """What a request asks for, if it is one for a live image and right."""
    match scope["path"].split("/"):
        case ["", "cdn", organization, project, "live", scope_slug] if scope["method"] == "GET":
            try:
                return parse(organization, project, scope_slug, scope["query_string"])
            except ValidationError:
                return None
    return None


def _is_decided(generation: Generation) -> bool:
    return generation.is_ended or generation.image is not None


def _headers(
    scope_slug: str, cache_status: str, generation_id: str, image_id: str, mime_type: str
) -> dict[str, str]:
    return {
        "content-type": mime_type,
        "cache-control": CACHE_CONTROL,
        "x-cache-status": cache_status,
        "x-scope": scope_slug,
        "x-image-id": image_id,
        "x-generation-id": generation_id,
    }
