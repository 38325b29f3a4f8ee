"""The routes of generations: part A of the contract, and what part C adds to it."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import Annotated, Any

from litestar import Request, Response, Router, delete, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import (
    FromQuery,
    HeaderParameter,
    JSONBody,
    PathParameter,
    QueryParameter,
)
from litestar.response import ServerSentEvent

from banatie.api.dependencies import AppState, app_state_of, in_thread, key_of
from banatie.api.errors import strict_body, to_response
from banatie.api.middleware import finish_rate_limit
from banatie.api.responses import failures, json_response, options
from banatie.api.routes.events import events
from banatie.api.schemas import (
    Done,
    GenerationCreate,
    GenerationView,
    Page,
    Pagination,
    Success,
    encode,
    view,
)
from banatie.api.waiters import Preference, parse_prefer
from banatie.errors import GenerationFailed, GenerationNotFound, ValidationError
from banatie.limits import (
    MAX_IDEMPOTENCY_KEY_LENGTH,
    MAX_PAGE_SIZE,
    MAX_SAFE_INTEGER,
    MAX_WAIT_SECONDS,
)
from banatie.records import Generation, Key, Status
from banatie.store.generations import IdempotentRequest

GenerationId = Annotated[str, PathParameter(schema_extra={"format": "uuid"})]
Prefer = Annotated[
    str | None,
    HeaderParameter(
        name="Prefer",
        required=False,
        description="`wait=N`: answer when the generation has ended, or after N seconds (at most "
        f"{MAX_WAIT_SECONDS}). On POST also `respond-async`: answer at once. RFC 7240.",
    ),
]


@post(
    "/",
    operation_id="createGeneration",
    summary="Make a picture from a prompt",
    response_description="The generation, accepted: once this is answered it is never lost.",
    responses=failures(
        *(400, 401, 404, 408, 413, 415, 429, 500, 503),
        more={
            500: "GENERATION_FAILED: it was waited for; `details` is the generation",
            503: "QUEUE_FULL: Retry-After says when to come back",
        },
    ),
)
async def create_generation(
    data: JSONBody[GenerationCreate],
    request: Request[Any, Any, Any],
    prefer: Prefer = None,
    idempotency_key: Annotated[
        str | None,
        HeaderParameter(
            name="Idempotency-Key",
            required=False,
            schema_extra={"min_length": 1, "max_length": MAX_IDEMPOTENCY_KEY_LENGTH},
            description="The same key and body again within 24 hours get the first answer again.",
        ),
    ] = None,
) -> Response[Success[GenerationView]]:
    """Accept a generation; the answer carries the enhanced prompt, or comes after a few seconds."""
    front, key = app_state_of(request), key_of(request)
    data = strict_body(await request.body(), GenerationCreate)
    submission = data.to_submission()
    idempotent = _idempotent(key, idempotency_key, data)
    submitted = await front.write(
        front.intake.submit,
        key.project.id,
        submission,
        idempotent,
        request.scope["state"]["request_id"],
    )
    if submitted.answer is not None:
        return Response(submitted.answer, status_code=201, media_type="application/json")
    generation = submitted.generation
    if generation is None:
        # It was deleted before the first of these requests had been answered.
        raise GenerationNotFound(idempotency_key or "")

    preference = _preference(request, prefer)
    url = front.public_url(request)
    if preference.wait is not None:
        latest = await front.waiters.until(generation, lambda g: g.is_ended, preference.wait)
        shown = _still_there(latest, generation)
        if shown.status == "failed":
            failure = GenerationFailed(shown.error_message or "It failed", view(shown, url))
            return to_response(request, failure, preference.applied())
    elif preference.respond_async or not generation.auto_enhance:
        shown = generation
    else:
        wait = front.config.enhancement.response_wait
        latest = await front.waiters.until(generation, lambda g: g.stage != "enhance", wait)
        shown = _as_enhanced(generation, _still_there(latest, generation))

    answer = encode(Success(data=view(shown, url)))
    if idempotent is not None:
        answer = await front.write(front.intake.save_answer, idempotent, answer)
    return Response(
        answer, status_code=201, media_type="application/json", headers=preference.applied()
    )


@get(
    "/",
    operation_id="listGenerations",
    summary="List the project's generations, newest first",
    response_description="A page of generations.",
    responses=failures(400, 401, 429, 500, 503),
)
async def list_generations(
    request: Request[Any, Any, Any],
    status: FromQuery[Status | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE_SIZE)] = 20,
    offset: Annotated[int, QueryParameter(ge=0, le=MAX_SAFE_INTEGER)] = 0,
    include_deleted: Annotated[bool, QueryParameter(name="includeDeleted")] = False,
) -> Response[Page[GenerationView]]:
    """A page of the list."""
    if "null" in request.query_params.getall("status", []):
        # Which Litestar takes for None, and so for none given.
        raise ValidationError.of("status", "Invalid enum value 'null'")
    front, key = app_state_of(request), key_of(request)
    generations, total = await in_thread(
        front.intake.page,
        key.project.id,
        status=status,
        limit=limit,
        offset=offset,
        include_deleted=include_deleted,
    )
    url = front.public_url(request)
    has_more = offset + len(generations) < total
    return json_response(
        Page(
            data=[view(g, url) for g in generations],
            pagination=Pagination(limit, offset, total, has_more),
        )
    )


@get(
    "/{generation_id:str}",
    operation_id="getGeneration",
    summary="Get a generation",
    response_description="The generation.",
    responses=failures(400, 401, 404, 429, 500, 503),
)
async def get_generation(
    generation_id: GenerationId,
    request: Request[Any, Any, Any],
    prefer: Prefer = None,
) -> Response[Success[GenerationView]]:
    """The generation as it is now, or, if preferred, once it has ended."""
    front = app_state_of(request)
    generation = await _polled(front, request, generation_id)
    preference = _preference(request, prefer)
    if preference.wait is not None and not generation.is_ended:
        latest = await front.waiters.until(generation, lambda g: g.is_ended, preference.wait)
        generation = _still_there(latest, generation)
    answer = Success(data=view(generation, front.public_url(request)))
    return json_response(answer, headers=_applied_to_get(preference))


@get(
    "/{generation_id:str}/events",
    operation_id="followGeneration",
    media_type="text/event-stream",
    summary="Follow a generation",
    response_description="The events, until the generation has ended.",
    responses={
        204: ResponseSpec(None, description="All was told up to Last-Event-ID, and it has ended."),
        **failures(400, 401, 404, 429, 500, 503),
    },
)
async def follow_generation(
    generation_id: GenerationId,
    request: Request[Any, Any, Any],
    last_event_id: Annotated[
        str | None, HeaderParameter(name="Last-Event-ID", required=False)
    ] = None,
) -> ServerSentEvent | Response[None]:
    """Server-sent events `status`, `prompt`, `progress`, `success` and `failed`, until the end.

    `progress` is `{step, steps, preview}`: what the picture looks like, as a data URL of a JPEG, or
    null when there is nothing new. An event's id is the generation's revision; with `Last-Event-ID`
    only what is newer comes.
    """
    front = app_state_of(request)
    generation = await _polled(front, request, generation_id)
    seen = int(last_event_id) if re.fullmatch(r"[0-9]{1,18}", last_event_id or "") else -1
    if generation.is_ended and seen >= generation.revision:
        # All was told; this is how a browser's EventSource is kept from asking for ever.
        return Response(None, status_code=204)
    return ServerSentEvent(events(generation.id, front, seen, front.public_url(request)))


@post(
    "/{generation_id:str}/cancel",
    operation_id="cancelGeneration",
    summary="Stop a generation",
    response_description="The generation as it is now.",
    responses=failures(400, 401, 404, 415, 429, 500, 503),
    status_code=200,
)
async def cancel_generation(
    generation_id: GenerationId, request: Request[Any, Any, Any]
) -> Response[Success[GenerationView]]:
    """Stop it within one denoising step; one that has ended stays as it is."""
    front, key = app_state_of(request), key_of(request)
    generation = await front.write(front.intake.cancel, key.project.id, generation_id)
    return json_response(Success(data=view(generation, front.public_url(request))))


@post(
    "/{generation_id:str}/restore",
    operation_id="restoreGeneration",
    summary="Take a generation out of the bin",
    response_description="The generation as it is now.",
    responses=failures(400, 401, 404, 415, 429, 500, 503),
    status_code=200,
)
async def restore_generation(
    generation_id: GenerationId, request: Request[Any, Any, Any]
) -> Response[Success[GenerationView]]:
    """Bring a soft-deleted generation back; one that is not in the bin stays as it is."""
    front, key = app_state_of(request), key_of(request)
    generation = await front.write(front.intake.restore, key.project.id, generation_id)
    return json_response(Success(data=view(generation, front.public_url(request))))


@delete(
    "/{generation_id:str}",
    operation_id="deleteGeneration",
    summary="Delete a generation and its picture",
    response_description="It is deleted.",
    responses=failures(400, 401, 404, 415, 429, 500, 503),
    status_code=200,
)
async def delete_generation(
    generation_id: GenerationId, request: Request[Any, Any, Any], soft: FromQuery[bool] = False
) -> Response[Done]:
    """Delete for good, or with `soft=true` into the bin; what has not ended is cancelled."""
    front, key = app_state_of(request), key_of(request)
    remove = front.intake.soft_delete if soft else front.intake.delete
    await front.write(remove, key.project.id, generation_id)
    return json_response(Done(message="Generation deleted"))


def generations_router() -> Router:
    """The routes below /api/v1/generations."""
    return Router(
        "/api/v1/generations",
        route_handlers=[
            options("/", "GET", "POST"),
            options("/{generation_id:str}", "DELETE", "GET"),
            create_generation,
            list_generations,
            get_generation,
            follow_generation,
            cancel_generation,
            restore_generation,
            delete_generation,
        ],
        security=[{"apiKey": []}],
        tags=["Generations"],
    )


async def _polled(
    front: AppState, request: Request[Any, Any, Any], generation_id: str
) -> Generation:
    """The generation that is asked for, once the request is counted or found to be a poll."""
    generation = None
    try:
        generation = await in_thread(front.intake.get, key_of(request).project.id, generation_id)
        return generation
    finally:
        finish_rate_limit(request.scope, front.limits, generation)


def _preference(request: Request[Any, Any, Any], prefer: str | None) -> Preference:
    # The field may stand on several lines, which are one list (RFC 9110, section 5.3).
    return parse_prefer(",".join(request.headers.getall("prefer")) if prefer else None)


def _applied_to_get(preference: Preference) -> dict[str, str] | None:
    return preference.applied() if preference.wait is not None else None


def _idempotent(
    key: Key, idempotency_key: str | None, data: GenerationCreate
) -> IdempotentRequest | None:
    if idempotency_key is None:
        return None
    if not 1 <= len(idempotency_key) <= MAX_IDEMPOTENCY_KEY_LENGTH:
        raise ValidationError.of(
            "Idempotency-Key", f"must have 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} characters"
        )
    return IdempotentRequest(key.id, idempotency_key, hashlib.sha256(encode(data)).hexdigest())


def _still_there(latest: Generation | None, generation: Generation) -> Generation:
    if latest is None:
        raise GenerationNotFound(generation.id)
    return latest


def _as_enhanced(created: Generation, latest: Generation) -> Generation:
    """The record as it stood when the enhancement was in, whatever has happened since."""
    if latest.enhanced_at is None:
        return created
    return dataclasses.replace(
        created,
        prompt=latest.prompt,
        enhancement=latest.enhancement,
        warnings=latest.warnings,
        updated_at=latest.enhanced_at,
    )
