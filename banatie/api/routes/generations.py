"""The routes of generations: `/api/v1/generations` (docs/api.md).

What a client can do with generations is in `intake`; here it becomes HTTP.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import re
from dataclasses import dataclass
from typing import Annotated

from litestar import Response, Router, delete, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Schema,
)
from litestar.params import FromQuery, HeaderParameter
from litestar.response import ServerSentEvent

from banatie.api.dependencies import (
    AppState,
    HttpRequest,
    app_state_of,
    in_thread,
    key_of,
    session_of,
)
from banatie.api.errors import decode_body, to_response
from banatie.api.parameters import GenerationId
from banatie.api.query import check_query
from banatie.api.rate_limit import reservation_of
from banatie.api.requests import GenerationCreate
from banatie.api.responses import (
    CHANGE_ERRORS,
    COMMON_ERRORS,
    failures,
    json_response,
    options,
)
from banatie.api.routes.events import events
from banatie.api.routes.gallery import download_generations, list_generations, list_months
from banatie.api.routes.generation_changes import (
    cancel_generation,
    regenerate_generation,
    restore_generation,
    retry_generation,
    update_generation,
)
from banatie.api.schemas import Done, GenerationView, Success, encode, view
from banatie.api.waiters import NO_PREFERENCE, Preference, parse_prefer
from banatie.errors import GenerationFailed, GenerationNotFound, ValidationError
from banatie.limits import (
    LOADING_WAIT_SECONDS,
    MAX_IDEMPOTENCY_KEY_LENGTH,
    MAX_WAIT_SECONDS,
)
from banatie.records import Generation, Key, Submission
from banatie.store.generations import IdempotentRequest

LOADING_CHECK_SECONDS = 1.0
"""How often an answer that waits looks whether a worker still loads its models."""

GENERATION_ERRORS = (*CHANGE_ERRORS, "GENERATION_NOT_FOUND")

PREFER = Parameter(
    name="Prefer",
    param_in="header",
    schema=Schema(type=OpenAPIType.STRING),
    description="`wait=N`: answer when the generation has ended, or after N seconds (at most "
    f"{MAX_WAIT_SECONDS}). On POST also `respond-async`: answer at once. RFC 7240.",
)


@dataclass
class WaitOperation(Operation):
    """Documents `Prefer`, which the routes read themselves: most requests come without."""

    def __post_init__(self) -> None:
        """Add the header."""
        self.parameters = [*(self.parameters or ()), PREFER]


@dataclass
class CreateOperation(WaitOperation):
    """Documents the body too, which the route decodes itself (see `decode_body`)."""

    def __post_init__(self) -> None:
        """Add the header and the body."""
        super().__post_init__()
        schema = Reference("#/components/schemas/GenerationCreate")
        content = {"application/json": OpenAPIMediaType(schema=schema)}
        self.request_body = RequestBody(content=content, required=True)


@post(
    "/",
    operation_id="createGeneration",
    operation_class=CreateOperation,
    summary="Create a generation",
    response_description="The accepted generation. From here on it is never lost.",
    responses=failures(
        *GENERATION_ERRORS,
        *("REQUEST_TIMEOUT", "PAYLOAD_TOO_LARGE", "GENERATION_FAILED", "QUEUE_FULL"),
    ),
)
async def create_generation(
    request: HttpRequest,
    idempotency_key: Annotated[
        str | None,
        HeaderParameter(
            name="Idempotency-Key",
            required=False,
            schema_extra={"min_length": 1, "max_length": MAX_IDEMPOTENCY_KEY_LENGTH},
            description="The same key and body within 24 hours return the first answer again.",
        ),
    ] = None,
) -> Response[Success[GenerationView]]:
    """Accept a generation; the answer carries the enhanced prompt, or comes after a few seconds."""
    app, key = app_state_of(request), key_of(request)
    data = decode_body(await request.body(), GenerationCreate)
    submission = data.to_submission()
    idempotent = _idempotent(key, idempotency_key, submission)
    submitted = await app.write(
        app.intake.submit,
        key.project.id,
        submission,
        idempotent,
        request.scope["state"]["request_id"],
    )
    if submitted.answer is not None:
        return json_response(submitted.answer, status=201)
    generation = submitted.generation
    if generation is None:
        # It was deleted before the first of these requests had been answered.
        raise GenerationNotFound(idempotency_key or "")

    preference = _preference(request)
    url = app.public_url(request)
    if preference.wait is not None:
        latest = await app.waiters.until(generation, lambda g: g.is_ended, preference.wait)
        shown = _existing(latest, generation)
        if shown.status == "failed":
            failure = GenerationFailed(shown.error_message or "It failed", view(shown, url))
            return to_response(request, failure, preference.applied())
    elif preference.respond_async or not generation.auto_enhance:
        shown = generation
    else:
        latest = await _until_enhanced(app, generation)
        shown = _as_enhanced(generation, _existing(latest, generation))

    answer = encode(Success(data=view(shown, url)))
    if idempotent is not None:
        answer = await app.write(app.intake.save_answer, idempotent, answer)
    return json_response(answer, status=201, headers=preference.applied())


@get(
    "/{generation_id:str}",
    operation_id="getGeneration",
    operation_class=WaitOperation,
    summary="Get a generation",
    response_description="The generation.",
    responses=failures(*COMMON_ERRORS, "GENERATION_NOT_FOUND"),
)
async def get_generation(
    generation_id: GenerationId,
    request: HttpRequest,
) -> Response[Success[GenerationView]]:
    """The generation as it is now or, with `Prefer: wait=N`, once it has ended."""
    app = app_state_of(request)
    generation = await _find_for_poll(app, request, generation_id)
    headers = None
    preference = _preference(request)
    if preference.wait is not None:
        headers = preference.applied()
        if not generation.is_ended:
            latest = await app.waiters.until(generation, lambda g: g.is_ended, preference.wait)
            generation = _existing(latest, generation)
    return json_response(Success(data=view(generation, app.public_url(request))), headers=headers)


@get(
    "/{generation_id:str}/events",
    operation_id="followGeneration",
    media_type="text/event-stream",
    summary="Follow a generation",
    response_description="The events, until the generation has ended.",
    responses={
        204: ResponseSpec(
            None, description="The generation has ended, and Last-Event-ID is its last event."
        ),
        **failures(*COMMON_ERRORS, "GENERATION_NOT_FOUND"),
    },
)
async def follow_generation(
    generation_id: GenerationId,
    request: HttpRequest,
    last_event_id: Annotated[
        str | None, HeaderParameter(name="Last-Event-ID", required=False)
    ] = None,
) -> ServerSentEvent | Response[None]:
    """Server-sent events `status`, `prompt`, `progress`, `success` and `failed`, until the end.

    `progress` is `{step, steps, preview}`: the preview is a data URL of a JPEG, or null when there
    is no new one. An event's id is the generation's revision; with `Last-Event-ID` only newer
    events are sent.
    """
    app = app_state_of(request)
    generation = await _find_for_poll(app, request, generation_id)
    seen = -1
    if last_event_id is not None and re.fullmatch(r"[0-9]{1,18}", last_event_id):
        seen = int(last_event_id)
    if generation.is_ended and seen >= generation.revision:
        # A browser's EventSource reconnects until it gets a 204.
        return Response(None, status_code=204)
    return ServerSentEvent(
        events(
            generation.id,
            app,
            key_of(request),
            session_of(request),
            seen,
            app.public_url(request),
        )
    )


@delete(
    "/{generation_id:str}",
    operation_id="deleteGeneration",
    summary="Delete a generation and its image",
    response_description="It is deleted.",
    responses=failures(*GENERATION_ERRORS),
    status_code=200,
    query=("soft",),
)
async def delete_generation(
    generation_id: GenerationId, request: HttpRequest, soft: FromQuery[bool] = False
) -> Response[Done]:
    """Delete for good, or with `soft=true` into the bin; one that has not ended is cancelled."""
    app, key = app_state_of(request), key_of(request)
    remove = app.intake.soft_delete if soft else app.intake.delete
    await app.write(remove, key.project.id, generation_id)
    return json_response(Done(message="Generation deleted"))


def generations_router() -> Router:
    """The routes below /api/v1/generations."""
    return Router(
        "/api/v1/generations",
        route_handlers=[
            options("/", "GET", "POST"),
            options("/months", "GET"),
            options("/zip", "GET"),
            options("/{generation_id:str}", "DELETE", "GET", "PUT"),
            create_generation,
            list_generations,
            list_months,
            download_generations,
            get_generation,
            follow_generation,
            cancel_generation,
            restore_generation,
            update_generation,
            regenerate_generation,
            retry_generation,
            delete_generation,
        ],
        guards=[check_query],
        security=[{"apiKey": []}],
        tags=["Generations"],
    )


async def _find_for_poll(app: AppState, request: HttpRequest, generation_id: str) -> Generation:
    """The generation; the request counts for the rate limit unless it has not ended yet."""
    reservation = reservation_of(request.scope)
    try:
        generation = await in_thread(app.intake.get, key_of(request).project.id, generation_id)
    except GenerationNotFound:
        reservation.require()
        raise
    if generation.is_ended:
        reservation.require()
    else:
        reservation.release()
    return generation


def _preference(request: HttpRequest) -> Preference:
    if b"prefer" not in request.scope["state"]["headers"]:
        return NO_PREFERENCE
    # The field may stand on several lines, which are one list (RFC 9110, section 5.3).
    return parse_prefer(",".join(request.headers.getall("prefer")))


def _idempotent(
    key: Key, idempotency_key: str | None, submission: Submission
) -> IdempotentRequest | None:
    if idempotency_key is None:
        return None
    if not 1 <= len(idempotency_key) <= MAX_IDEMPOTENCY_KEY_LENGTH:
        raise ValidationError.of(
            "Idempotency-Key", f"must have 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} characters"
        )
    # Of what is meant, not of the bytes: the same request may be written in several ways.
    body_hash = hashlib.sha256(encode(submission)).hexdigest()
    return IdempotentRequest(key.id, idempotency_key, body_hash)


async def _until_enhanced(app: AppState, generation: Generation) -> Generation | None:
    """The generation once it is enhanced, or as it is after `enhancement.response_wait` seconds.

    While a worker loads its models, that begins again, up to `LOADING_WAIT_SECONDS` in all.
    """

    def is_enhanced(latest: Generation) -> bool:
        return latest.stage != "enhance"

    wait = app.config.enhancement.response_wait
    loop = asyncio.get_running_loop()
    started = loop.time()
    deadline = started + wait
    while True:
        seconds = min(max(0.0, deadline - loop.time()), LOADING_CHECK_SECONDS)
        latest = await app.waiters.until(generation, is_enhanced, seconds)
        if latest is None or is_enhanced(latest) or app.waiters.is_closed:
            return latest
        if await in_thread(_is_loading, app):
            deadline = max(deadline, min(loop.time() + wait, started + LOADING_WAIT_SECONDS))
        if loop.time() >= deadline:
            return latest


def _is_loading(app: AppState) -> bool:
    """Whether a worker loads its models."""
    return any(worker.state == "starting" for worker in app.workers.present(app.clock()))


def _existing(latest: Generation | None, generation: Generation) -> Generation:
    if latest is None:
        raise GenerationNotFound(generation.id)
    return latest


def _as_enhanced(created: Generation, latest: Generation) -> Generation:
    """The record as it stood when the enhancement was done, whatever has happened since."""
    if latest.enhanced_at is None:
        return created
    return dataclasses.replace(
        created,
        prompt=latest.prompt,
        enhancement=latest.enhancement,
        warnings=latest.warnings,
        updated_at=latest.enhanced_at,
    )
