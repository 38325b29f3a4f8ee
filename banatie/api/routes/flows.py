"""The routes of flows: `/api/v1/flows` (docs/api.md). What a flow is, `library` knows."""

from __future__ import annotations

from typing import Annotated

from litestar import Response, Router, delete, get, post, put
from litestar.params import FromPath, PathParameter, QueryParameter

from banatie.api.dependencies import HttpRequest, app_state_of, in_thread, key_of
from banatie.api.errors import decode_body
from banatie.api.image_schemas import FlowView, ImageView, flow_view, image_view
from banatie.api.query import check_query
from banatie.api.requests import FlowAliasesUpdate
from banatie.api.responses import (
    CHANGE_ERRORS,
    COMMON_ERRORS,
    documented_body,
    failures,
    json_response,
    options,
    page_response,
)
from banatie.api.schemas import Done, GenerationView, Page, Success, view
from banatie.limits import MAX_PAGE_SIZE, MAX_SAFE_INTEGER
from banatie.store.gallery import Filters

FlowRef = Annotated[str, PathParameter(schema_extra={"format": "uuid"})]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE_SIZE)]
Offset = Annotated[int, QueryParameter(ge=0, le=MAX_SAFE_INTEGER)]
PAGED = ("limit", "offset")


@get(
    "/",
    operation_id="listFlows",
    summary="List the project's flows, newest first",
    response_description="A page of flows.",
    responses=failures(*COMMON_ERRORS),
    query=PAGED,
)
async def list_flows(
    request: HttpRequest, limit: Limit = 20, offset: Offset = 0
) -> Response[Page[FlowView]]:
    """A page of the list."""
    app, key = app_state_of(request), key_of(request)
    flows, total = await in_thread(
        app.library.flows.page, key.project.id, limit=limit, offset=offset
    )
    return page_response([flow_view(flow) for flow in flows], limit, offset, total)


@get(
    "/{flow_id:str}",
    operation_id="getFlow",
    summary="Get a flow",
    response_description="The flow.",
    responses=failures(*COMMON_ERRORS, "FLOW_NOT_FOUND"),
)
async def get_flow(flow_id: FlowRef, request: HttpRequest) -> Response[Success[FlowView]]:
    """The flow with its aliases and counts; it exists once its id has been used again."""
    app, key = app_state_of(request), key_of(request)
    flow = await in_thread(app.library.flows.get, key.project.id, flow_id)
    return json_response(Success(data=flow_view(flow)))


@get(
    "/{flow_id:str}/generations",
    operation_id="listFlowGenerations",
    summary="List a flow's generations, newest first",
    response_description="A page of generations.",
    responses=failures(*COMMON_ERRORS, "FLOW_NOT_FOUND"),
    query=PAGED,
)
async def list_flow_generations(
    flow_id: FlowRef, request: HttpRequest, limit: Limit = 20, offset: Offset = 0
) -> Response[Page[GenerationView]]:
    """A page of the flow's generations, without soft-deleted ones."""
    app, key = app_state_of(request), key_of(request)
    flow = await in_thread(app.library.flows.get, key.project.id, flow_id)
    page = await in_thread(
        app.gallery.page, key.project.id, Filters(flow_id=flow.id), limit=limit, offset=offset
    )
    url = app.public_url(request)
    shown = [view(each, url) for each in page.generations]
    return page_response(shown, limit, offset, page.total)


@get(
    "/{flow_id:str}/images",
    operation_id="listFlowImages",
    summary="List a flow's images, newest first",
    response_description="A page of images.",
    responses=failures(*COMMON_ERRORS, "FLOW_NOT_FOUND"),
    query=PAGED,
)
async def list_flow_images(
    flow_id: FlowRef, request: HttpRequest, limit: Limit = 20, offset: Offset = 0
) -> Response[Page[ImageView]]:
    """A page of the flow's images, uploaded and generated."""
    app, key = app_state_of(request), key_of(request)
    flow = await in_thread(app.library.flows.get, key.project.id, flow_id)
    images, total = await in_thread(
        app.library.images.page, key.project.id, flow_id=flow.id, limit=limit, offset=offset
    )
    url = app.public_url(request)
    return page_response([image_view(each, url) for each in images], limit, offset, total)


@put(
    "/{flow_id:str}/aliases",
    operation_id="updateFlowAliases",
    operation_class=documented_body("FlowAliasesUpdate"),
    summary="Name images within a flow",
    response_description="The flow as it is now.",
    responses=failures(
        *CHANGE_ERRORS,
        *("FLOW_NOT_FOUND", "IMAGE_NOT_FOUND", "ALIAS_NOT_FOUND"),
        *("REQUEST_TIMEOUT", "PAYLOAD_TOO_LARGE"),
    ),
)
async def update_flow_aliases(
    flow_id: FlowRef, request: HttpRequest
) -> Response[Success[FlowView]]:
    """Add these aliases to those of the flow; one that is taken moves to the image given here."""
    app, key = app_state_of(request), key_of(request)
    aliases = decode_body(await request.body(), FlowAliasesUpdate).aliases
    flow = await app.write(app.library.merge_flow_aliases, key.project.id, flow_id, aliases)
    return json_response(Success(data=flow_view(flow)))


@delete(
    "/{flow_id:str}/aliases/{alias:str}",
    operation_id="deleteFlowAlias",
    summary="Take an alias away within a flow",
    response_description="The flow as it is now.",
    responses=failures(*CHANGE_ERRORS, "FLOW_NOT_FOUND", "ALIAS_NOT_FOUND"),
    status_code=200,
)
async def delete_flow_alias(
    flow_id: FlowRef, alias: FromPath[str], request: HttpRequest
) -> Response[Success[FlowView]]:
    """The image itself stays."""
    app, key = app_state_of(request), key_of(request)
    flow = await app.write(app.library.remove_flow_alias, key.project.id, flow_id, alias)
    return json_response(Success(data=flow_view(flow)))


@post(
    "/{flow_id:str}/regenerate",
    operation_id="regenerateFlow",
    summary="Make the latest generation of a flow again",
    response_description="The generation, which waits again.",
    responses=failures(*CHANGE_ERRORS, "FLOW_NOT_FOUND", "GENERATION_NOT_FOUND", "QUEUE_FULL"),
    status_code=200,
)
async def regenerate_flow(
    flow_id: FlowRef, request: HttpRequest
) -> Response[Success[GenerationView]]:
    """Make its latest generation again, with the same parameters, under the same image id."""
    app, key = app_state_of(request), key_of(request)
    latest = await in_thread(app.library.latest_generation, key.project.id, flow_id)
    generation = await app.write(app.intake.regenerate, key.project.id, latest)
    return json_response(Success(data=view(generation, app.public_url(request))))


@delete(
    "/{flow_id:str}",
    operation_id="deleteFlow",
    summary="Delete a flow with its generations and images",
    response_description="It is deleted.",
    responses=failures(*CHANGE_ERRORS, "FLOW_NOT_FOUND"),
    status_code=200,
)
async def delete_flow(flow_id: FlowRef, request: HttpRequest) -> Response[Done]:
    """Delete for good what is in it; an image with an alias in the project stays."""
    app, key = app_state_of(request), key_of(request)
    await app.write(app.library.delete_flow, key.project.id, flow_id)
    return json_response(Done(message="Flow deleted"))


def flows_router() -> Router:
    """The routes below /api/v1/flows."""
    return Router(
        "/api/v1/flows",
        route_handlers=[
            options("/", "GET"),
            options("/{flow_id:str}", "GET", "DELETE"),
            list_flows,
            get_flow,
            list_flow_generations,
            list_flow_images,
            update_flow_aliases,
            delete_flow_alias,
            regenerate_flow,
            delete_flow,
        ],
        guards=[check_query],
        security=[{"apiKey": []}],
        tags=["Flows"],
    )
