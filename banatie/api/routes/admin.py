"""The routes of administration: `/api/admin/keys`, and the first key of a new server.

The middleware admits master keys alone below `/api/admin`. `/api/bootstrap` needs no key, so it is
for programs of this machine, and neither for what a proxy passes on nor for pages in a browser.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any

from litestar import Response, Router, delete, get, post
from litestar.params import PathParameter, QueryParameter
from msgspec import Meta

from banatie.api.dependencies import AppState, HttpRequest, app_state_of, in_thread
from banatie.api.errors import decode_body
from banatie.api.query import check_query
from banatie.api.responses import documented_body, failures, json_response, options, page_response
from banatie.api.schemas import Done, Id, Page, Success, Time, Wire, WireIn, timestamp
from banatie.errors import Forbidden, NotFound, ValidationError
from banatie.limits import MAX_EXPIRY_DAYS, MAX_PAGE_SIZE, MAX_REQUESTS_PER_HOUR, MAX_SAFE_INTEGER
from banatie.records import DEFAULT_SLUG, Key, KeyType
from banatie.store.keys import DAY_MILLISECONDS, is_active

COMMON_ERRORS = (
    *("VALIDATION_ERROR", "UNAUTHORIZED", "FORBIDDEN", "RATE_LIMIT_EXCEEDED"),
    *("INTERNAL_ERROR", "SERVICE_UNAVAILABLE"),
)
CHANGE_ERRORS = (*COMMON_ERRORS, "UNSUPPORTED_MEDIA_TYPE")
PROJECT_KEY_DAYS = 90
"""After how many days a project key expires, unless the request says otherwise."""
FIRST_KEY_NAME = "Initial master key"
_FORWARDED = (b"forwarded", b"via", b"x-forwarded-for", b"x-real-ip")
_INTEGER = {"type": "integer"}

KeyId = Annotated[str, PathParameter(schema_extra={"format": "uuid"})]


class KeyCreate(WireIn):
    """The body of POST /api/admin/keys; null stands for "not given" in every optional field."""

    type: KeyType
    name: Annotated[str, Meta(description="What the key is for.")] | None = None
    organization_slug: (
        Annotated[str, Meta(description="Made when it is new. Default: `default`.")] | None
    ) = None
    project_slug: (
        Annotated[str, Meta(description="Made when it is new. Default: `default`.")] | None
    ) = None
    organization_id: Id | None = None
    project_id: Id | None = None
    expires_in_days: (
        Annotated[
            float,
            Meta(
                ge=1,
                le=MAX_EXPIRY_DAYS,
                multiple_of=1,
                description=f"For project keys; default {PROJECT_KEY_DAYS}.",
                extra_json_schema=_INTEGER,
            ),
        ]
        | None
    ) = None
    requests_per_hour: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=MAX_REQUESTS_PER_HOUR,
                multiple_of=1,
                description="The key's own rate limit; 0: no limit.",
                extra_json_schema=_INTEGER,
            ),
        ]
        | None
    ) = None


class AdminKeyView(Wire):
    """An API key, without its text."""

    id: Id
    type: KeyType
    name: str
    hint: Annotated[str, Meta(description="The key's first characters.")]
    organization_slug: str
    organization_id: Id
    project_slug: str
    project_id: Id
    requests_per_hour: Annotated[int | None, Meta(description="Null: the server's limit.")]
    is_active: Annotated[bool, Meta(description="It is neither revoked nor expired.")]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None


class CreatedKeyView(AdminKeyView, kw_only=True):
    """A new API key, with its text, which is shown only here."""

    api_key: Annotated[str, Meta(examples=["bnt_7Qk…"])]


@post(
    "/",
    operation_id="createKey",
    operation_class=documented_body("KeyCreate"),
    summary="Create an API key",
    response_description="The key. Its text cannot be shown again.",
    responses=failures(*CHANGE_ERRORS, "REQUEST_TIMEOUT", "PAYLOAD_TOO_LARGE"),
)
async def create_key(request: HttpRequest) -> Response[Success[CreatedKeyView]]:
    """Create a key, and its organisation and project if they are new."""
    app = app_state_of(request)
    data = decode_body(await request.body(), KeyCreate)
    organization, project = await in_thread(_place, app, data)
    now, expires_at = app.clock(), None
    if data.expires_in_days is not None or data.type == "project":
        expires_at = now + int(data.expires_in_days or PROJECT_KEY_DAYS) * DAY_MILLISECONDS
    text = await app.write(
        app.keys.create,
        f"{data.type} key" if data.name is None else data.name,
        now,
        type=data.type,
        organization_slug=organization,
        project_slug=project,
        requests_per_hour=None if data.requests_per_hour is None else int(data.requests_per_hour),
        expires_at=expires_at,
    )
    return await _created(app, text)


@get(
    "/",
    operation_id="listKeys",
    summary="List the API keys of all projects, oldest first",
    response_description="A page of keys, without their texts.",
    responses=failures(*COMMON_ERRORS),
    query=("limit", "offset"),
)
async def list_keys(
    request: HttpRequest,
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE_SIZE)] = 20,
    offset: Annotated[int, QueryParameter(ge=0, le=MAX_SAFE_INTEGER)] = 0,
) -> Response[Page[AdminKeyView]]:
    """A page of the list; revoked and expired keys are in it."""
    app = app_state_of(request)
    keys, total = await in_thread(app.keys.page, limit, offset)
    now = app.clock()
    return page_response([AdminKeyView(**_fields(key, now)) for key in keys], limit, offset, total)


@delete(
    "/{key_id:str}",
    operation_id="revokeKey",
    summary="Revoke an API key",
    response_description="It is revoked.",
    responses=failures(*CHANGE_ERRORS, "NOT_FOUND"),
    status_code=200,
)
async def revoke_key(key_id: KeyId, request: HttpRequest) -> Response[Done]:
    """Revoke a key immediately; it stays in the list."""
    app = app_state_of(request)
    await app.write(app.keys.revoke_id, key_id.lower(), app.clock())
    return json_response(Done(message="Key revoked"))


@post(
    "/initial-key",
    operation_id="createInitialKey",
    summary="Create the first API key, a master key",
    response_description="The key. Its text cannot be shown again.",
    responses=failures("FORBIDDEN", "VALIDATION_ERROR", "INTERNAL_ERROR", "SERVICE_UNAVAILABLE"),
)
async def create_initial_key(request: HttpRequest) -> Response[Success[CreatedKeyView]]:
    """Works once, while there is no key at all, and for programs of this machine only."""
    _require_this_machine(request)
    app = app_state_of(request)
    text = await app.write(
        app.keys.create, FIRST_KEY_NAME, app.clock(), type="master", only_first=True
    )
    return await _created(app, text)


def admin_router() -> Router:
    """The routes below /api/admin."""
    return Router(
        "/api/admin/keys",
        route_handlers=[
            options("/", "GET", "POST"),
            options("/{key_id:str}", "DELETE"),
            create_key,
            list_keys,
            revoke_key,
        ],
        guards=[check_query],
        security=[{"apiKey": []}],
        tags=["Administration"],
    )


def bootstrap_router() -> Router:
    """The route below /api/bootstrap."""
    return Router(
        "/api/bootstrap",
        route_handlers=[options("/initial-key", "POST"), create_initial_key],
        guards=[check_query],
        tags=["Administration"],
    )


def _place(app: AppState, data: KeyCreate) -> tuple[str, str]:
    """The slugs of the organisation and the project that the body names, by slug or by id."""
    for kind in ("organization", "project"):
        if getattr(data, f"{kind}_slug") is not None and getattr(data, f"{kind}_id") is not None:
            raise ValidationError.of(f"{kind}Id", f"cannot be given beside {kind}Slug")
    organization, project = data.organization_slug, data.project_slug
    if data.organization_id is not None:
        organization = app.projects.organization_slug(data.organization_id.lower())
        if organization is None:
            raise ValidationError.of("organizationId", "is no organization's id")
    if data.project_id is not None:
        found = app.projects.find(data.project_id.lower())
        if found is None or organization not in (None, found.organization_slug):
            raise ValidationError.of("projectId", "is no project's id, or not of this organization")
        return found.organization_slug, found.slug
    return (
        DEFAULT_SLUG if organization is None else organization,
        DEFAULT_SLUG if project is None else project,
    )


async def _created(app: AppState, text: str) -> Response[Success[CreatedKeyView]]:
    key = await in_thread(app.keys.authenticate, text)
    if key is None:
        raise NotFound("The key was deleted as soon as it was made")
    created = CreatedKeyView(**_fields(key, app.clock()), api_key=text)
    return json_response(Success(data=created), status=201)


def _fields(key: Key, now: int) -> dict[str, Any]:
    return {
        "id": key.id,
        "type": key.type,
        "name": key.name,
        "hint": key.hint,
        "organization_slug": key.project.organization_slug,
        "organization_id": key.project.organization_id,
        "project_slug": key.project.slug,
        "project_id": key.project.id,
        "requests_per_hour": key.requests_per_hour,
        "is_active": is_active(key, now),
        "created_at": timestamp(key.created_at),
        "expires_at": timestamp(key.expires_at) if key.expires_at is not None else None,
        "revoked_at": timestamp(key.revoked_at) if key.revoked_at is not None else None,
    }


def _require_this_machine(request: HttpRequest) -> None:
    """Raise Forbidden unless a program of this machine asks, under one of this machine's names.

    A proxy of this machine, too, calls from the loopback address: its headers give it away. A page
    in a browser sends its origin, and one that had its name point here (DNS rebinding) that name.
    """
    headers = dict(request.scope["headers"])
    client = request.scope.get("client")
    host = headers.get(b"host", b"").decode("latin-1")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if (
        client is None
        or not _is_loopback(client[0])
        or not (name == "localhost" or _is_loopback(name.strip("[]")))
        or b"origin" in headers
        or any(header in headers for header in _FORWARDED)
    ):
        raise Forbidden(
            "The first key is made on the server's machine alone, and not through a proxy: "
            "curl -X POST http://127.0.0.1:3000/api/bootstrap/initial-key"
        )


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
