"""The routes about models: which there are, which one paints, downloads and imports.

The middleware admits master keys alone below `/api/admin`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import Response, Router, get, post, put
from litestar.params import PathParameter, QueryParameter
from msgspec import Meta

from banatie.api.dependencies import AppState, HttpRequest, app_state_of, in_thread
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
from banatie.api.schemas import Id, Page, Success, Time, Wire, WireIn, timestamp
from banatie.errors import ValidationError
from banatie.limits import MAX_PAGE_SIZE, MAX_SAFE_INTEGER
from banatie.model_choice import is_reference_to
from banatie.models.install import is_partly_installed
from banatie.models.manage import size_of
from banatie.models.manifest import Kind
from banatie.models.types import Entry, HubSource
from banatie.store.installations import InstallationKind, InstallationRow, InstallationState

BODY_ERRORS = (*CHANGE_ERRORS, "FORBIDDEN", "REQUEST_TIMEOUT", "PAYLOAD_TOO_LARGE")

InstallationId = Annotated[str, PathParameter(schema_extra={"format": "uuid"})]


class ModelView(Wire):
    """A model of the catalog, installed or not, or another one that is installed."""

    name: str
    title: str
    kind: Kind
    licence: str
    note: Annotated[str, Meta(description="What the licence asks, in one line.")]
    state: Literal["installed", "broken", "partly", "absent"]
    problem: Annotated[str, Meta(description="Why it is broken.")]
    bytes: Annotated[int, Meta(description="On the disk, or about what would be downloaded.")]
    in_use: bool
    refusal: Annotated[str, Meta(description="Why it cannot be switched to; empty if it can.")]
    can_pull: bool
    needs_token: Annotated[
        bool, Meta(description="The hub wants its licence accepted, and HF_TOKEN set.")
    ]


class ModelChoiceView(Wire):
    """The painting model, and where it was chosen."""

    name: str
    configured: Annotated[str, Meta(description="The setting painting.model.")]
    is_chosen: Annotated[
        bool, Meta(description="At run time; the choice holds until the setting is changed.")
    ]


class ModelList(Wire):
    """All models, and those in use."""

    painting: ModelChoiceView
    language: Annotated[str, Meta(description="The setting enhancement.model.")]
    models: list[ModelView]


class ModelSwitch(WireIn):
    """The body of PUT /api/admin/models/painting."""

    name: Annotated[str, Meta(description="Of an installed painting model.")]


class InstallationCreate(WireIn):
    """The body of POST /api/admin/models/installations: what to pull, or what to import."""

    pull: (
        Annotated[str, Meta(description="A name of the catalog, or a hub's OWNER/REPOSITORY.")]
        | None
    ) = None
    path: (
        Annotated[
            str,
            Meta(description="Of a folder, checkpoint, LoRA or archive on the server's machine."),
        ]
        | None
    ) = None
    name: (
        Annotated[str, Meta(description="For an import. Default: the name of the file or folder.")]
        | None
    ) = None


class InstallationView(Wire):
    """A model that is, or was, downloaded or imported."""

    id: Id
    kind: InstallationKind
    source: str
    name: str | None
    state: InstallationState
    message: Annotated[str, Meta(description="The step that is done, or why it has failed.")]
    bytes_done: int
    bytes_total: Annotated[int, Meta(description="0 as long as it is not known.")]
    created_at: Time
    updated_at: Time


@get(
    "/",
    operation_id="listModels",
    summary="List the models, and which are in use",
    response_description="The models of the catalog and the installed ones.",
    responses=failures(*COMMON_ERRORS, "FORBIDDEN"),
)
async def list_models(request: HttpRequest) -> Response[Success[ModelList]]:
    """The models of the catalog, installed or not, and the others that are installed."""
    return json_response(Success(data=await in_thread(_models, app_state_of(request))))


@put(
    "/painting",
    operation_id="switchPaintingModel",
    operation_class=documented_body("ModelSwitch"),
    summary="Paint with another installed model",
    response_description="It is chosen; workers load it after the pictures they have begun.",
    responses=failures(*BODY_ERRORS),
)
async def switch_model(request: HttpRequest) -> Response[Success[ModelChoiceView]]:
    """Choose the painting model, also for after a restart."""
    app = app_state_of(request)
    data = decode_body(await request.body(), ModelSwitch)
    await app.write(app.painting_model.switch, data.name)
    return json_response(Success(data=await in_thread(_choice, app)))


@get(
    "/installations",
    operation_id="listInstallations",
    summary="List the downloads and imports of models, newest first",
    response_description="A page of installations, with their progress.",
    responses=failures(*COMMON_ERRORS, "FORBIDDEN"),
    query=("limit", "offset"),
)
async def list_installations(
    request: HttpRequest,
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE_SIZE)] = 20,
    offset: Annotated[int, QueryParameter(ge=0, le=MAX_SAFE_INTEGER)] = 0,
) -> Response[Page[InstallationView]]:
    """Those that wait or run, and those that ended lately."""
    rows = await in_thread(app_state_of(request).installer.all)
    shown = [_view(row) for row in rows[offset : offset + limit]]
    return page_response(shown, limit, offset, len(rows))


@post(
    "/installations",
    operation_id="installModel",
    operation_class=documented_body("InstallationCreate"),
    summary="Download or import a model, in the background",
    response_description="It waits for its turn; one is installed at a time.",
    responses=failures(*BODY_ERRORS),
)
async def install_model(request: HttpRequest) -> Response[Success[InstallationView]]:
    """Install a model. It goes on after a restart, and a download where it was interrupted."""
    app = app_state_of(request)
    data = decode_body(await request.body(), InstallationCreate)
    row = await app.write(_ask, app, data)
    app.installer.wake()
    return json_response(Success(data=_view(row)), status=201)


@get(
    "/installations/{installation_id:str}",
    operation_id="getInstallation",
    summary="Get a download or an import of a model",
    response_description="The installation, with its progress.",
    responses=failures(*COMMON_ERRORS, "FORBIDDEN", "NOT_FOUND"),
)
async def get_installation(
    installation_id: InstallationId, request: HttpRequest
) -> Response[Success[InstallationView]]:
    """The installation as it is now."""
    row = await in_thread(app_state_of(request).installer.get, installation_id)
    return json_response(Success(data=_view(row)))


@post(
    "/installations/{installation_id:str}/cancel",
    operation_id="cancelInstallation",
    summary="Cancel a download or an import of a model",
    response_description="The installation; one that has ended stays as it is.",
    responses=failures(*CHANGE_ERRORS, "FORBIDDEN", "NOT_FOUND"),
    status_code=200,
)
async def cancel_installation(
    installation_id: InstallationId, request: HttpRequest
) -> Response[Success[InstallationView]]:
    """Stop it. What was downloaded is kept, and used when it is asked for again."""
    app = app_state_of(request)
    row = await app.write(app.installer.cancel, installation_id)
    app.installer.stop(row.id)
    return json_response(Success(data=_view(row)))


def models_router() -> Router:
    """The routes below /api/admin/models."""
    return Router(
        "/api/admin/models",
        route_handlers=[
            options("/", "GET"),
            options("/painting", "PUT"),
            options("/installations", "GET", "POST"),
            options("/installations/{installation_id:str}", "GET"),
            options("/installations/{installation_id:str}/cancel", "POST"),
            list_models,
            switch_model,
            list_installations,
            install_model,
            get_installation,
            cancel_installation,
        ],
        guards=[check_query],
        security=[{"apiKey": []}],
        tags=["Administration"],
    )


def _ask(app: AppState, data: InstallationCreate) -> InstallationRow:
    if (data.pull is None) == (data.path is None):
        raise ValidationError.of("pull", "give either pull or path")
    if data.path is not None:
        return app.installer.import_path(data.path, data.name)
    if data.name is not None:
        raise ValidationError.of("name", "is for an import; a download keeps its name")
    return app.installer.pull(data.pull or "")


def _models(app: AppState) -> ModelList:
    language, catalog = app.config.enhancement.model, app.installer.catalog
    return ModelList(
        painting=_choice(app),
        language=language,
        models=[_model(app, entry, language) for entry in catalog.entries()],
    )


def _choice(app: AppState) -> ModelChoiceView:
    reference, configured = app.painting_model.reference(), app.painting_model.configured
    return ModelChoiceView(reference, configured, reference != configured)


def _model(app: AppState, entry: Entry, language: str) -> ModelView:
    source = entry.model.source if entry.model else None
    state: Literal["installed", "broken", "partly", "absent"] = "absent"
    if entry.problem:
        state = "broken"
    elif entry.installed:
        state = "installed"
    elif is_partly_installed(app.config.storage.models, entry.name):
        state = "partly"
    is_painting = entry.kind == "painting"
    used = {"language": language, "ip-adapter": app.config.painting.ip_adapter}.get(entry.kind)
    return ModelView(
        name=entry.name,
        title=entry.title,
        kind=entry.kind,
        licence=entry.licence,
        note=entry.model.note if entry.model else "",
        state=state,
        problem=entry.problem,
        bytes=size_of(entry),
        in_use=(
            app.painting_model.is_current(entry)
            if is_painting
            else used is not None and is_reference_to(used, entry)
        ),
        refusal=app.painting_model.refusal(entry),
        can_pull=source is not None and not entry.installed,
        needs_token=isinstance(source, HubSource) and source.gated,
    )


def _view(row: InstallationRow) -> InstallationView:
    return InstallationView(
        id=row.id,
        kind=row.kind,
        source=row.source,
        name=row.name,
        state=row.state,
        message=row.message,
        bytes_done=row.bytes_done,
        bytes_total=row.bytes_total,
        created_at=timestamp(row.created_at),
        updated_at=timestamp(row.updated_at),
    )
