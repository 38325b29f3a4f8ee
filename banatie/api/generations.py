"""The routes of generations: part A of the contract, and what part C adds to it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from litestar import Request, Response, Router, delete, get, post
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import ServerSentEvent
from litestar.response.sse import ServerSentEventMessage

from banatie.api.front import front_of, in_thread, key_of
from banatie.api.gate import settle
from banatie.api.responses import FAILURES, json_response
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
from banatie.api.waiting import Waiters, parse_prefer
from banatie.errors import GenerationFailed, GenerationNotFound, ValidationError
from banatie.records import MAX_SEED, Generation, Key, Status
from banatie.store.generations import IdempotentRequest

KEEP_ALIVE = ServerSentEventMessage(data=None, comment="still here")

Prefer = Annotated[
    str | None,
    HeaderParameter(
        name="Prefer",
        required=False,
        description="`wait=N`: answer when the generation has ended, or after N seconds (at most "
        "120). On POST also `respond-async`: answer at once. RFC 7240.",
    ),
]


@post(
    "/", operation_id="createGeneration", summary="Make a picture from a prompt", responses=FAILURES
)
async def create_generation(
    data: GenerationCreate,
    request: Request[Any, Any, Any],
    prefer: Prefer = None,
    idempotency_key: Annotated[
        str | None,
        HeaderParameter(
            name="Idempotency-Key",
            required=False,
            description="The same key and body again within 24 hours get the first answer again.",
        ),
    ] = None,
) -> Response[Success[GenerationView]]:
    """Accept a generation; the answer carries the enhanced prompt, or comes after a few seconds."""
    front, key = front_of(request), key_of(request)
    submission = data.to_submission()
    idempotent = _idempotent(key, idempotency_key, data)
    submitted = await in_thread(front.intake.submit, key.project.id, submission, idempotent)
    if submitted.answer is not None:
        return Response(submitted.answer, status_code=201, media_type="application/json")
    generation = submitted.generation
    if generation is None:
        raise GenerationNotFound("of the first request with this Idempotency-Key")

    preference = parse_prefer(prefer)
    url = front.public_url(request)
    if preference.wait is not None:
        latest = await front.waiters.until(generation, lambda g: g.is_ended, preference.wait)
        shown = _still_there(latest, generation)
        if shown.status == "failed":
            raise GenerationFailed(shown.error_message or "It failed", view(shown, url))
    elif preference.respond_async or not generation.auto_enhance:
        shown = generation
    else:
        wait = front.config.enhancement.response_wait
        latest = await front.waiters.until(generation, lambda g: g.stage != "enhance", wait)
        shown = _as_enhanced(generation, _still_there(latest, generation))

    answer = encode(Success(data=view(shown, url)))
    if idempotent is not None:
        await in_thread(front.intake.save_answer, idempotent, answer)
    return Response(
        answer, status_code=201, media_type="application/json", headers=preference.applied()
    )


@get(
    "/",
    operation_id="listGenerations",
    summary="List the project's generations, newest first",
    responses=FAILURES,
)
async def list_generations(
    request: Request[Any, Any, Any],
    status: Status | None = None,
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 20,
    offset: Annotated[int, QueryParameter(ge=0, le=MAX_SEED)] = 0,
    include_deleted: Annotated[bool, QueryParameter(name="includeDeleted")] = False,
) -> Response[Page[GenerationView]]:
    """A page of the list."""
    front, key = front_of(request), key_of(request)
    generations, total = await in_thread(
        front.intake.list,
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
    responses=FAILURES,
)
async def get_generation(
    generation_id: str,
    request: Request[Any, Any, Any],
    prefer: Prefer = None,
) -> Response[Success[GenerationView]]:
    """The generation as it is now, or, if preferred, once it has ended."""
    front, key = front_of(request), key_of(request)
    generation = await in_thread(front.intake.get, key.project.id, generation_id)
    preference = dataclasses.replace(parse_prefer(prefer), respond_async=False)
    if preference.wait is not None and not generation.is_ended:
        latest = await front.waiters.until(generation, lambda g: g.is_ended, preference.wait)
        generation = _still_there(latest, generation)
    settle(request.scope, front.limits, generation)
    answer = Success(data=view(generation, front.public_url(request)))
    return json_response(answer, headers=preference.applied())


@get(
    "/{generation_id:str}/events",
    operation_id="followGeneration",
    summary="Follow a generation",
    responses=FAILURES,
)
async def follow_generation(
    generation_id: str,
    request: Request[Any, Any, Any],
    last_event_id: Annotated[
        str | None, HeaderParameter(name="Last-Event-ID", required=False)
    ] = None,
) -> ServerSentEvent:
    """Server-sent events `status`, `prompt`, `progress`, `success` and `failed`, until the end.

    An event's id is the generation's revision; with `Last-Event-ID` only what is newer comes.
    """
    front, key = front_of(request), key_of(request)
    generation = await in_thread(front.intake.get, key.project.id, generation_id)
    settle(request.scope, front.limits, generation)
    seen = int(last_event_id) if last_event_id and last_event_id.isdecimal() else -1
    return ServerSentEvent(_events(generation.id, front.waiters, seen, front.public_url(request)))


@post(
    "/{generation_id:str}/cancel",
    operation_id="cancelGeneration",
    summary="Stop a generation",
    responses=FAILURES,
    status_code=200,
)
async def cancel_generation(
    generation_id: str, request: Request[Any, Any, Any]
) -> Response[Success[GenerationView]]:
    """Stop it within one denoising step; one that has ended stays as it is."""
    front, key = front_of(request), key_of(request)
    generation = await in_thread(front.intake.cancel, key.project.id, generation_id)
    return json_response(Success(data=view(generation, front.public_url(request))))


@post(
    "/{generation_id:str}/restore",
    operation_id="restoreGeneration",
    summary="Take a generation out of the bin",
    responses=FAILURES,
    status_code=200,
)
async def restore_generation(
    generation_id: str, request: Request[Any, Any, Any]
) -> Response[Success[GenerationView]]:
    """Bring a soft-deleted generation back; one that is not in the bin stays as it is."""
    front, key = front_of(request), key_of(request)
    generation = await in_thread(front.intake.restore, key.project.id, generation_id)
    return json_response(Success(data=view(generation, front.public_url(request))))


@delete(
    "/{generation_id:str}",
    operation_id="deleteGeneration",
    summary="Delete a generation and its picture",
    responses=FAILURES,
    status_code=200,
)
async def delete_generation(
    generation_id: str, request: Request[Any, Any, Any], soft: bool = False
) -> Response[Done]:
    """Delete for good, or with `soft=true` into the bin; what has not ended is cancelled."""
    front, key = front_of(request), key_of(request)
    remove = front.intake.put_in_bin if soft else front.intake.delete
    await in_thread(remove, key.project.id, generation_id)
    return json_response(Done(message="Generation deleted"))


def generations_router() -> Router:
    """The routes below /api/v1/generations."""
    return Router(
        "/api/v1/generations",
        route_handlers=[
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


def _idempotent(
    key: Key, idempotency_key: str | None, data: GenerationCreate
) -> IdempotentRequest | None:
    if idempotency_key is None:
        return None
    if not 1 <= len(idempotency_key) <= 255:
        raise ValidationError.of("Idempotency-Key", "must have 1 to 255 characters")
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


async def _events(
    generation_id: str, waiters: Waiters, seen: int, url: str
) -> AsyncIterator[ServerSentEventMessage]:
    before: Generation | None = None
    async for now in waiters.follow(generation_id):
        if now is None:
            yield KEEP_ALIVE
            continue
        if now.revision > seen:
            for event, data in _differences(before, now, url):
                yield ServerSentEventMessage(encode(data), event=event, id=now.revision)
        before = now


def _differences(before: Generation | None, now: Generation, url: str) -> list[tuple[str, object]]:
    events: list[tuple[str, object]] = []
    if before is None or before.status != now.status:
        events.append(("status", {"status": now.status}))
    if now.enhanced_at is not None and (before is None or before.enhanced_at is None):
        events.append(("prompt", {"prompt": now.prompt, "originalPrompt": now.original_prompt}))
    if now.status == "processing" and now.steps is not None:
        progress = (now.step, now.steps)
        if before is None or (before.step, before.steps) != progress:
            events.append(("progress", {"step": now.step, "steps": now.steps}))
    if now.is_ended:
        events.append((now.status, view(now, url)))
    return events
