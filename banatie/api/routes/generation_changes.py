"""The routes that change a generation, cancel or restore it, or make its picture again."""

from __future__ import annotations

from litestar import Response, post, put

from banatie.api.dependencies import HttpRequest, app_state_of, key_of
from banatie.api.errors import decode_body
from banatie.api.parameters import GenerationId
from banatie.api.requests import GenerationUpdate
from banatie.api.responses import CHANGE_ERRORS, documented_body, failures, json_response
from banatie.api.schemas import GenerationView, Success, view

ERRORS = (*CHANGE_ERRORS, "GENERATION_NOT_FOUND", "QUEUE_FULL")


@put(
    "/{generation_id:str}",
    operation_id="updateGeneration",
    operation_class=documented_body("GenerationUpdate"),
    summary="Change a generation",
    response_description="The generation as it is now.",
    responses=failures(*ERRORS, "REQUEST_TIMEOUT", "PAYLOAD_TOO_LARGE"),
)
async def update_generation(
    generation_id: GenerationId, request: HttpRequest
) -> Response[Success[GenerationView]]:
    """A new prompt or aspect ratio makes the picture again; the rest only changes the record."""
    app, key = app_state_of(request), key_of(request)
    changes = decode_body(await request.body(), GenerationUpdate).to_changes()
    generation = await app.write(app.intake.change, key.project.id, generation_id, changes)
    return json_response(Success(data=view(generation, app.public_url(request))))


@post(
    "/{generation_id:str}/regenerate",
    operation_id="regenerateGeneration",
    summary="Make a generation's picture again",
    response_description="The generation, which waits again.",
    responses=failures(*ERRORS),
    status_code=200,
)
async def regenerate_generation(
    generation_id: GenerationId, request: HttpRequest
) -> Response[Success[GenerationView]]:
    """With the same parameters. Its image keeps its id and URL, and its file until then."""
    app, key = app_state_of(request), key_of(request)
    generation = await app.write(app.intake.regenerate, key.project.id, generation_id)
    return json_response(Success(data=view(generation, app.public_url(request))))


@post(
    "/{generation_id:str}/retry",
    operation_id="retryGeneration",
    summary="The old name of regenerate",
    response_description="The generation, which waits again.",
    responses=failures(*ERRORS),
    status_code=200,
    deprecated=True,
)
async def retry_generation(
    generation_id: GenerationId, request: HttpRequest
) -> Response[Success[GenerationView]]:
    """Does what `regenerate` does."""
    app, key = app_state_of(request), key_of(request)
    generation = await app.write(app.intake.regenerate, key.project.id, generation_id)
    return json_response(Success(data=view(generation, app.public_url(request))))


@post(
    "/{generation_id:str}/cancel",
    operation_id="cancelGeneration",
    summary="Cancel a generation",
    response_description="The generation as it is now.",
    responses=failures(*CHANGE_ERRORS, "GENERATION_NOT_FOUND"),
    status_code=200,
)
async def cancel_generation(
    generation_id: GenerationId, request: HttpRequest
) -> Response[Success[GenerationView]]:
    """Stop it within one denoising step; one that has ended stays as it is."""
    app, key = app_state_of(request), key_of(request)
    generation = await app.write(app.intake.cancel, key.project.id, generation_id)
    return json_response(Success(data=view(generation, app.public_url(request))))


@post(
    "/{generation_id:str}/restore",
    operation_id="restoreGeneration",
    summary="Restore a soft-deleted generation",
    response_description="The generation as it is now.",
    responses=failures(*CHANGE_ERRORS, "GENERATION_NOT_FOUND"),
    status_code=200,
)
async def restore_generation(
    generation_id: GenerationId, request: HttpRequest
) -> Response[Success[GenerationView]]:
    """Restore a soft-deleted generation; one that is not deleted stays as it is."""
    app, key = app_state_of(request), key_of(request)
    generation = await app.write(app.intake.restore, key.project.id, generation_id)
    return json_response(Success(data=view(generation, app.public_url(request))))
