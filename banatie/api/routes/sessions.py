"""The routes of sessions: signing in and out in a browser, and who is signed in.

Signing in needs no key: the body has it, or a token that works once.
"""

from __future__ import annotations

from typing import Annotated

from litestar import Response, Router, delete, get, post
from litestar.params import PathParameter, QueryParameter
from msgspec import Meta

from banatie.api.browser import require_own_page, set_cookie
from banatie.api.dependencies import (
    AppState,
    HttpRequest,
    app_state_of,
    in_thread,
    key_of,
    session_of,
)
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
from banatie.errors import NotFound, Unauthorized, ValidationError
from banatie.limits import MAX_PAGE_SIZE, MAX_SAFE_INTEGER
from banatie.records import KeyType, Session
from banatie.store.sessions import SESSION_MILLISECONDS

SESSIONS_PATH = "/api/v1/sessions"
CURRENT = "current"
SECURITY = [{"apiKey": list[str]()}]
SessionId = Annotated[
    str, PathParameter(description="A session's id, or `current`: the one of the request.")
]


class SessionCreate(WireIn):
    """The body of POST /api/v1/sessions: one of the two."""

    token: (
        Annotated[str, Meta(description="From the address that `banatie open` prints.")] | None
    ) = None
    api_key: Annotated[str, Meta(examples=["bnt_7Qk…"])] | None = None


class SessionView(Wire):
    """A browser that is signed in."""

    id: Id
    name: Annotated[str, Meta(description="What the browser calls itself (User-Agent).")]
    is_current: Annotated[bool, Meta(description="It is the one that asks.")]
    key_name: Annotated[str, Meta(description="The key whose rights it has.")]
    key_type: KeyType
    organization_slug: str
    project_slug: str
    created_at: Time
    expires_at: Time


@post(
    "/",
    operation_id="createSession",
    operation_class=documented_body("SessionCreate"),
    summary="Sign in from a browser",
    response_description="The session; its cookie is in Set-Cookie.",
    responses=failures(*CHANGE_ERRORS, "REQUEST_TIMEOUT", "PAYLOAD_TOO_LARGE"),
)
async def create_session(request: HttpRequest) -> Response[Success[SessionView]]:
    """Sign in with an API key, or with a token that works once, and get a cookie."""
    app, headers = app_state_of(request), request.scope["state"]["headers"]
    base_url = app.config.server.base_url
    require_own_page(headers, base_url, needed=False)
    data = decode_body(await request.body(), SessionCreate)
    cookie = await _sign_in(request, data, headers.get(b"user-agent", b"").decode("latin-1"))
    session = await in_thread(app.sessions.authenticate, cookie)
    if session is None:
        raise NotFound("The session was deleted as soon as it was made")
    seconds = SESSION_MILLISECONDS // 1000
    return json_response(
        Success(data=_view(session, session)),
        status=201,
        headers={"Set-Cookie": set_cookie(cookie, seconds, headers, base_url)},
    )


@get(
    "/",
    operation_id="listSessions",
    summary="List the browsers that are signed in, newest first",
    response_description="A page of the sessions of the key; for a master key, of all.",
    responses=failures(*COMMON_ERRORS),
    query=("limit", "offset"),
    security=SECURITY,
)
async def list_sessions(
    request: HttpRequest,
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE_SIZE)] = 20,
    offset: Annotated[int, QueryParameter(ge=0, le=MAX_SAFE_INTEGER)] = 0,
) -> Response[Page[SessionView]]:
    """A page of the sessions that have not ended."""
    app, own = app_state_of(request), session_of(request)
    found = await in_thread(app.sessions.page, key_of(request), app.clock(), limit, offset)
    sessions, total = found
    return page_response([_view(session, own) for session in sessions], limit, offset, total)


@delete(
    "/{session_id:str}",
    operation_id="deleteSession",
    summary="Sign a browser out",
    response_description="It is signed out.",
    responses=failures(*CHANGE_ERRORS, "NOT_FOUND"),
    status_code=200,
    security=SECURITY,
)
async def delete_session(session_id: SessionId, request: HttpRequest) -> Response[Done]:
    """End a session immediately: `current`, or one of the list."""
    app, own = app_state_of(request), session_of(request)
    if session_id == CURRENT:
        if own is None:
            raise NotFound("This request came with an API key and not with a session")
        session_id = own.id
    await app.write(app.sessions.revoke, session_id.lower(), key_of(request), app.clock())
    headers = {}
    if own is not None and own.id == session_id.lower():
        state, base_url = request.scope["state"], app.config.server.base_url
        headers["Set-Cookie"] = set_cookie("", 0, state["headers"], base_url)
    return json_response(Done(message="Signed out"), headers=headers)


def sessions_router() -> Router:
    """The routes below /api/v1/sessions."""
    return Router(
        SESSIONS_PATH,
        route_handlers=[
            options("/", "GET", "POST"),
            options("/{session_id:str}", "DELETE"),
            create_session,
            list_sessions,
            delete_session,
        ],
        guards=[check_query],
        tags=["Sessions"],
    )


async def _sign_in(request: HttpRequest, data: SessionCreate, browser: str) -> str:
    """The cookie of a new session. Raises ValidationError, Unauthorized or TooManyFailedKeys."""
    app: AppState = app_state_of(request)
    if (data.token is None) == (data.api_key is None):
        raise ValidationError.of("token", "or apiKey is required, and not both")
    if data.token is None:
        key = await app.authentication.key_of(data.api_key, request.scope)
        return await app.write(app.sessions.create_by_key, key, browser, app.clock())
    cookie = await app.write(app.sessions.create_by_token, data.token, browser, app.clock())
    if cookie is None:
        app.failed_keys.count_failed_key(request.scope)
        raise Unauthorized(
            "This address has been used, or is too old; `banatie open` prints a new one"
        )
    return cookie


def _view(session: Session, own: Session | None) -> SessionView:
    return SessionView(
        id=session.id,
        name=session.name,
        is_current=own is not None and own.id == session.id,
        key_name=session.key.name,
        key_type=session.key.type,
        organization_slug=session.key.project.organization_slug,
        project_slug=session.key.project.slug,
        created_at=timestamp(session.created_at),
        expires_at=timestamp(session.expires_at),
    )
