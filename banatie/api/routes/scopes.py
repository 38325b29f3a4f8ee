"""The routes of the scopes of live URLs: `/api/v1/live/scopes` (docs/api.md)."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response, Router, delete, get, post, put
from litestar.params import PathParameter, QueryParameter
from msgspec import Meta

from banatie.api.dependencies import AppState, HttpRequest, app_state_of, in_thread, key_of
from banatie.api.errors import decode_body
from banatie.api.query import check_query
from banatie.api.responses import (
    CHANGE_ERRORS,
    COMMON_ERRORS,
    documented_body,
    failures,
    json_response,
    options,
    page_response,
)
from banatie.api.schemas import Done, Id, Page, Success, Time, Wire, WireIn, timestamp
from banatie.limits import MAX_PAGE_SIZE, MAX_SAFE_INTEGER, MAX_SCOPE_LIMIT
from banatie.live import SCOPE_SLUG
from banatie.records import Scope

BODY_ERRORS = (*CHANGE_ERRORS, "REQUEST_TIMEOUT", "PAYLOAD_TOO_LARGE")
_PATTERN = f"^{SCOPE_SLUG.pattern}$"

Slug = Annotated[str, PathParameter(schema_extra={"pattern": _PATTERN})]
Limit = Annotated[
    float,
    Meta(
        ge=1,
        le=MAX_SCOPE_LIMIT,
        multiple_of=1,
        description="New images an hour.",
        extra_json_schema={"type": "integer"},
    ),
]
OwnData = Annotated[dict[str, Any], Meta(description="Your own data, never interpreted.")]


class ScopeChange(WireIn):
    """The body of PUT /api/v1/live/scopes/:slug; what is null or left out stays."""

    allow_new_generations: bool | None = None
    new_generations_limit: Limit | None = None
    meta: OwnData | None = None

    def changes(self) -> dict[str, Any]:
        """The given fields by the names of their columns."""
        limit = self.new_generations_limit
        given = {
            "allow_new_generations": self.allow_new_generations,
            "new_generations_limit": None if limit is None else int(limit),
            "meta": self.meta,
        }
        return {name: value for name, value in given.items() if value is not None}


class ScopeCreate(ScopeChange, kw_only=True):
    """The body of POST /api/v1/live/scopes."""

    slug: Annotated[str, Meta(extra_json_schema={"pattern": _PATTERN})]


class ScopeRegenerate(WireIn):
    """The body of POST /api/v1/live/scopes/:slug/regenerate; without an image, all."""

    image_id: Id | None = None


class RegeneratedImage(Wire):
    """An image that is made again, and the generation that does it."""

    id: Id
    generation_id: Id


class RegeneratedView(Wire):
    """The images of a scope that are made again."""

    regenerated: Annotated[int, Meta(description="How many they are.")]
    images: list[RegeneratedImage]


class ScopeView(Wire):
    """A scope as a client sees it."""

    id: Id
    project_id: Id
    slug: str
    allow_new_generations: bool
    new_generations_limit: Annotated[int, Meta(description="New images an hour.")]
    current_generations: Annotated[int, Meta(description="Images in it.")]
    last_generated_at: Time | None
    meta: dict[str, Any]
    created_at: Time
    updated_at: Time


@post(
    "/",
    operation_id="createScope",
    operation_class=documented_body("ScopeCreate"),
    summary="Create a scope",
    response_description="The scope.",
    responses=failures(*BODY_ERRORS, "SCOPE_INVALID_FORMAT", "SCOPE_ALREADY_EXISTS"),
)
async def create_scope(request: HttpRequest) -> Response[Success[ScopeView]]:
    """Create a scope; the first use of a live URL does so by itself."""
    app, key = app_state_of(request), key_of(request)
    data = decode_body(await request.body(), ScopeCreate)
    scope = await app.write(app.live.create_scope, key.project.id, data.slug, **data.changes())
    return json_response(Success(data=_view(app, scope)), status=201)


@get(
    "/",
    operation_id="listScopes",
    summary="List the project's scopes, newest first",
    response_description="A page of scopes.",
    responses=failures(*COMMON_ERRORS),
    query=("slug", "limit", "offset"),
)
async def list_scopes(
    request: HttpRequest,
    slug: Annotated[str | None, QueryParameter(required=False)] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE_SIZE)] = 20,
    offset: Annotated[int, QueryParameter(ge=0, le=MAX_SAFE_INTEGER)] = 0,
) -> Response[Page[ScopeView]]:
    """A page of the list; `slug` finds one scope."""
    app, key = app_state_of(request), key_of(request)
    scopes, total = await in_thread(
        app.live.scopes, key.project.id, slug=slug, limit=limit, offset=offset
    )
    return page_response([_view(app, scope) for scope in scopes], limit, offset, total)


@get(
    "/{slug:str}",
    operation_id="getScope",
    summary="Get a scope",
    response_description="The scope.",
    responses=failures(*COMMON_ERRORS, "SCOPE_NOT_FOUND"),
)
async def get_scope(slug: Slug, request: HttpRequest) -> Response[Success[ScopeView]]:
    """The scope as it is now."""
    app, key = app_state_of(request), key_of(request)
    scope = await in_thread(app.live.scope, key.project.id, slug)
    return json_response(Success(data=_view(app, scope)))


@put(
    "/{slug:str}",
    operation_id="changeScope",
    operation_class=documented_body("ScopeChange"),
    summary="Change a scope",
    response_description="The scope as it is now.",
    responses=failures(*BODY_ERRORS, "SCOPE_NOT_FOUND"),
)
async def change_scope(slug: Slug, request: HttpRequest) -> Response[Success[ScopeView]]:
    """Set the given fields."""
    app, key = app_state_of(request), key_of(request)
    changes = decode_body(await request.body(), ScopeChange).changes()
    scope = await app.write(app.live.change_scope, key.project.id, slug, changes)
    return json_response(Success(data=_view(app, scope)))


@post(
    "/{slug:str}/regenerate",
    operation_id="regenerateScope",
    operation_class=documented_body("ScopeRegenerate", required=False),
    summary="Make a scope's images again",
    response_description="The images that are made again; until then each stays as it is.",
    responses=failures(*BODY_ERRORS, "IMAGE_NOT_IN_SCOPE", "SCOPE_NOT_FOUND", "QUEUE_FULL"),
    status_code=200,
)
async def regenerate_scope(slug: Slug, request: HttpRequest) -> Response[Success[RegeneratedView]]:
    """Make one of the scope's images again, or all of them."""
    app, key = app_state_of(request), key_of(request)
    body = await request.body()
    data = decode_body(body, ScopeRegenerate) if body else ScopeRegenerate()
    image_id = data.image_id and data.image_id.lower()
    again = await app.write(app.live.regenerate, key.project.id, slug, image_id)
    images = [
        RegeneratedImage(generation.image.id, generation.id)
        for generation in again
        if generation.image is not None
    ]
    return json_response(Success(data=RegeneratedView(len(images), images)))


@delete(
    "/{slug:str}",
    operation_id="deleteScope",
    summary="Delete a scope and its images",
    response_description="It is deleted.",
    responses=failures(*CHANGE_ERRORS, "SCOPE_NOT_FOUND"),
    status_code=200,
)
async def delete_scope(slug: Slug, request: HttpRequest) -> Response[Done]:
    """Delete the scope with its generations; an image with a project alias stays."""
    app, key = app_state_of(request), key_of(request)
    await app.write(app.live.delete_scope, key.project.id, slug)
    return json_response(Done(message="Scope deleted"))


def scopes_router() -> Router:
    """The routes below /api/v1/live/scopes."""
    return Router(
        "/api/v1/live/scopes",
        route_handlers=[
            options("/", "GET", "POST"),
            options("/{slug:str}", "DELETE", "GET", "PUT"),
            options("/{slug:str}/regenerate", "POST"),
            create_scope,
            list_scopes,
            get_scope,
            change_scope,
            regenerate_scope,
            delete_scope,
        ],
        guards=[check_query],
        security=[{"apiKey": []}],
        tags=["Live URLs"],
    )


def _view(app: AppState, scope: Scope) -> ScopeView:
    made = scope.last_generated_at
    return ScopeView(
        id=scope.id,
        project_id=scope.project_id,
        slug=scope.slug,
        allow_new_generations=scope.allow_new_generations,
        new_generations_limit=app.live.new_limit(scope),
        current_generations=scope.current_generations,
        last_generated_at=timestamp(made) if made is not None else None,
        meta=dict(scope.meta),
        created_at=timestamp(scope.created_at),
        updated_at=timestamp(scope.updated_at),
    )
