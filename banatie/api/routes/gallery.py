"""The routes that read many generations: the list, its months, and their pictures as a zip."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromQuery, QueryParameter
from litestar.response import Stream

from banatie.api.dependencies import HttpRequest, app_state_of, in_thread, key_of
from banatie.api.requests import flow_of
from banatie.api.responses import COMMON_ERRORS, failures, json_response
from banatie.api.schemas import (
    GenerationView,
    MonthsView,
    MonthView,
    Page,
    Pagination,
    Success,
    view,
)
from banatie.api.zip_stream import ZipEntry, zip_stream
from banatie.errors import ValidationError
from banatie.limits import (
    MAX_PAGE_SIZE,
    MAX_SAFE_INTEGER,
    MAX_SEARCH_LENGTH,
    MAX_ZIP_PICTURES,
)
from banatie.records import Generation, Status, TemplateName
from banatie.store.aliases import as_uuid
from banatie.store.files import Files
from banatie.store.gallery import Filters, Position

FILTERS = ("status", "flowId", "includeDeleted", "q", "favourite", "template", "model")
MAX_NAME_WORDS = 6

_POSITION = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,3})?)Z(?:_(.+))?", re.ASCII)
_POSITION_TEXT = "a time such as 2025-11-28T10:00:00.000Z, or with _ and an id behind it"

FlowId = Annotated[str | None, QueryParameter(name="flowId", schema_extra={"format": "uuid"})]
IncludeDeleted = Annotated[bool, QueryParameter(name="includeDeleted")]
Search = Annotated[
    str | None,
    QueryParameter(
        schema_extra={"minLength": 1, "maxLength": MAX_SEARCH_LENGTH},
        description='Words of the prompt, by their beginnings; "words in quotes"; -word for not.',
    ),
]
Place = Annotated[
    str | None,
    QueryParameter(
        schema_extra={"pattern": f"^{_POSITION.pattern}$"},
        description="A generation's `createdAt`, `_` and `id`, or a time alone.",
    ),
]


@get(
    "/",
    operation_id="listGenerations",
    summary="List the project's generations, newest first",
    response_description="A page of generations.",
    responses=failures(*COMMON_ERRORS),
    query=(*FILTERS, "limit", "offset", "before", "after"),
)
async def list_generations(
    request: HttpRequest,
    status: FromQuery[Status | None] = None,
    flow_id: FlowId = None,
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE_SIZE)] = 20,
    offset: Annotated[int, QueryParameter(ge=0, le=MAX_SAFE_INTEGER)] = 0,
    include_deleted: IncludeDeleted = False,
    q: Search = None,
    favourite: FromQuery[bool | None] = None,
    template: FromQuery[TemplateName | None] = None,
    model: FromQuery[str | None] = None,
    before: Place = None,
    after: Place = None,
) -> Response[Page[GenerationView]]:
    """A page of the list; with `before` or `after`, the generations next to that place."""
    filters = _filters(request, status, flow_id, include_deleted, q, favourite, template, model)
    app, key = app_state_of(request), key_of(request)
    if offset and (before is not None or after is not None):
        raise ValidationError.of("offset", "stands instead of before and after; leave it out")
    page = await in_thread(
        app.gallery.page,
        key.project.id,
        filters,
        limit=limit,
        offset=offset,
        before=_position("before", before),
        after=_position("after", after),
    )
    url = app.public_url(request)
    pagination = Pagination(limit, offset, page.total, page.has_more)
    return json_response(
        Page(data=[view(each, url) for each in page.generations], pagination=pagination)
    )


@get(
    "/months",
    operation_id="listGenerationMonths",
    summary="Count the project's generations by month",
    response_description="The months of UTC that have generations, newest first.",
    responses=failures(*COMMON_ERRORS),
    query=FILTERS,
)
async def list_months(
    request: HttpRequest,
    status: FromQuery[Status | None] = None,
    flow_id: FlowId = None,
    include_deleted: IncludeDeleted = False,
    q: Search = None,
    favourite: FromQuery[bool | None] = None,
    template: FromQuery[TemplateName | None] = None,
    model: FromQuery[str | None] = None,
) -> Response[Success[MonthsView]]:
    """Of the list with the same filters: where to jump to, and how much is there."""
    filters = _filters(request, status, flow_id, include_deleted, q, favourite, template, model)
    app, key = app_state_of(request), key_of(request)
    months = await in_thread(app.gallery.months, key.project.id, filters)
    shown = [MonthView(each.month, each.count) for each in months]
    return json_response(Success(data=MonthsView(shown)))


@get(
    "/zip",
    operation_id="downloadGenerations",
    media_type="application/zip",
    summary="Download the pictures of several generations as a zip",
    responses={
        200: ResponseSpec(
            None,
            description="The zip file, streamed.",
            generate_examples=False,
        ),
        **failures(*COMMON_ERRORS),
    },
    query=("ids",),
)
async def download_generations(
    request: HttpRequest,
    ids: Annotated[
        str,
        QueryParameter(
            description=f"Ids of generations with pictures, separated by commas; at most "
            f"{MAX_ZIP_PICTURES}."
        ),
    ],
) -> Stream:
    """Pictures as they are stored, each named by its time, its prompt and its id."""
    wanted = ids.split(",")
    if len(wanted) > MAX_ZIP_PICTURES:
        raise ValidationError.of("ids", f"are more than {MAX_ZIP_PICTURES}; ask several times")
    app, key = app_state_of(request), key_of(request)
    generations = await in_thread(app.gallery.with_pictures, key.project.id, wanted)
    entries = await in_thread(_entries, generations, app.files)
    now = datetime.fromtimestamp(app.clock() / 1000, UTC)
    name = f"banatie-{now:%Y-%m-%d-%H%M%S}.zip"
    return Stream(
        zip_stream(entries),
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _entries(generations: list[Generation], files: Files) -> list[ZipEntry]:
    """The files of the generations' pictures. Raises ValidationError if one is missing."""
    entries = []
    for generation in generations:
        if (
            generation.image is None
            or not (path := files.path(generation.image.storage_key)).exists()
        ):
            raise ValidationError.of("ids", f"the picture of {generation.id} is missing")
        seconds = generation.created_at / 1000
        moment = datetime.fromtimestamp(seconds, UTC)
        words = re.findall(r"[a-z0-9]+", generation.original_prompt.lower())[:MAX_NAME_WORDS]
        parts = [f"{moment:%Y-%m-%d-%H%M%S}", "-".join(words)[:60], generation.id[:8]]
        name = "-".join(part for part in parts if part)
        entries.append(ZipEntry(f"{name}{path.suffix}", path, seconds))
    return entries


def _filters(
    request: HttpRequest,
    status: Status | None,
    flow_id: str | None,
    include_deleted: bool,
    search: str | None,
    favourite: bool | None,
    template: TemplateName | None,
    model: str | None,
) -> Filters:
    for name in ("status", "favourite", "template"):
        if "null" in request.query_params.getall(name, []):
            # Litestar reads it as None, which stands for "not given".
            raise ValidationError.of(name, "Invalid enum value 'null'")
    return Filters(
        status=status,
        flow_id=flow_of(flow_id)[0] if flow_id is not None else None,
        template=template,
        model=model,
        favourite=favourite,
        search=search,
        include_deleted=include_deleted,
    )


def _position(name: str, text: str | None) -> Position | None:
    """The place that a client names. Raises ValidationError."""
    if text is None:
        return None
    match = _POSITION.fullmatch(text)
    try:
        moment = datetime.fromisoformat(match[1]).replace(tzinfo=UTC) if match else None
    except ValueError:
        moment = None
    generation_id = as_uuid(match[2]) if match and match[2] else None
    if match is None or moment is None or (match[2] and generation_id is None):
        raise ValidationError.of(name, f"is not {_POSITION_TEXT}")
    return Position(round(moment.timestamp() * 1000), generation_id)
