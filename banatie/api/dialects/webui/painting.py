"""The routes that paint, and those that show how far it is, or stop it."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import Any

from litestar import Response, get, post

from banatie.api.dependencies import AppState, HttpRequest, app_state_of, in_thread, key_of
from banatie.api.dialects.webui.active import ActiveRequests
from banatie.api.dialects.webui.answers import Made, answer
from banatie.api.dialects.webui.requests import Img2Img, Txt2Img, ignored_settings, read
from banatie.api.dialects.webui.settings import MODEL, require_model
from banatie.api.dialects.webui.translation import SourceImages, translate
from banatie.api.rate_limit import reservation_of
from banatie.api.responses import json_response
from banatie.errors import (
    BanatieError,
    GenerationFailed,
    GenerationNotFound,
    ServiceUnavailable,
    ValidationError,
)
from banatie.imaging.uploads import invert_mask
from banatie.library import UploadRequest
from banatie.limits import MAX_UPLOAD_BYTES
from banatie.records import CANCELLED, Generation, Image, Submission

WAIT_SECONDS = 3600.0
"""WebUI answers when the pictures are there, however long that takes; clients give up before."""
IMAGES_BYTES = 3 * MAX_UPLOAD_BYTES
"""Of the body of img2img: a picture and a mask as base64, and the rest."""


@post("/txt2img", operation_id="webuiTxt2Img", status_code=200)
async def txt2img(request: HttpRequest) -> Response[Any]:
    """Paint from a text, and answer with the pictures."""
    asked, ignored = read(await request.body(), Txt2Img)
    if not asked.enable_hr:
        # Settings of the second pass, which clients send without asking for one.
        ignored = [
            each for each in ignored if not each.startswith("hr_") and each != "denoising_strength"
        ]
    return await _paint(request, asked, ignored)


@post(
    "/img2img",
    operation_id="webuiImg2Img",
    status_code=200,
    request_max_body_size=IMAGES_BYTES,
)
async def img2img(request: HttpRequest) -> Response[Any]:
    """Paint from a picture, or what a mask covers of it anew, and answer with the pictures."""
    asked, ignored = read(await request.body(), Img2Img)
    if len(asked.init_images) > 1:
        ignored.append("init_images after the first")
    app, key = app_state_of(request), key_of(request)
    reference = await _store(app, key.project.id, "init_images", asked.init_images[0])
    mask = None
    if asked.mask:
        inverted = asked.inpainting_mask_invert != 0
        mask = await _store(app, key.project.id, "mask", asked.mask, inverted=inverted)
    size = (reference.width, reference.height)
    source = SourceImages(reference.id, mask.id if mask else None, size)
    return await _paint(request, asked, ignored, source)


@get("/progress", operation_id="webuiProgress")
async def progress(request: HttpRequest) -> Response[Any]:
    """How far the pictures of this project are that requests wait for."""
    reservation_of(request.scope).release()
    app, project_id = app_state_of(request), key_of(request).project.id
    ids = _active(request).of(project_id)
    waiting = [each for each in await in_thread(_find, app, project_id, ids) if not each.is_ended]
    current = next((each for each in waiting if each.status == "processing"), None)
    steps = (current.steps if current else None) or 0
    done = len(ids) - len(waiting)
    fraction = current.step / steps if current and steps else 0.0
    preview = None
    if current and request.query_params.get("skip_current_image", "false").lower() != "true":
        preview = await in_thread(app.previews.find, current.id)
    return json_response(
        {
            "progress": min((done + fraction) / len(ids), 0.99) if waiting else 0.0,
            "eta_relative": 0.0,
            "state": {
                "skipped": False,
                "interrupted": False,
                "stopping_generation": False,
                "job": current.id if current else "",
                "job_count": len(ids) if waiting else 0,
                "job_timestamp": "",
                "job_no": done,
                "sampling_step": current.step if current else 0,
                "sampling_steps": steps,
            },
            "current_image": base64.b64encode(preview.jpeg).decode() if preview else None,
            "textinfo": None,
        }
    )


@post("/interrupt", operation_id="webuiInterrupt", status_code=200)
async def interrupt(request: HttpRequest) -> Response[Any]:
    """Stop all pictures of this project that requests wait for; these are answered at once."""
    await _cancel(request, only_current=False)
    return json_response(None)


@post("/skip", operation_id="webuiSkip", status_code=200)
async def skip(request: HttpRequest) -> Response[Any]:
    """Stop the picture that is being painted, and go on with the next."""
    await _cancel(request, only_current=True)
    return json_response(None)


async def _paint(
    request: HttpRequest,
    asked: Txt2Img,
    ignored: list[str],
    source: SourceImages | None = None,
) -> Response[Any]:
    app, key = app_state_of(request), key_of(request)
    if (wanted := asked.override_settings.get(MODEL)) is not None:
        await in_thread(require_model, app, wanted)
    translated = await in_thread(translate, asked, app.intake, source)
    ignored += ignored_settings(asked.override_settings)
    request_id = request.scope["state"]["request_id"]
    generations = await app.write(_submit, app, key.project.id, translated.submissions, request_id)
    ids = [each.id for each in generations]
    with _active(request).waiting(key.project.id, ids):
        ended = await asyncio.gather(*(_ended(app, each) for each in generations))
    latest = [each for each in ended if each is not None]
    if not latest:
        raise GenerationNotFound(ids[0])
    for each in latest:
        if each.status == "failed" and each.error_message != CANCELLED:
            raise GenerationFailed(each.error_message or "It failed", None)
    made = await in_thread(Made.read, latest, app.files)
    return json_response(answer(asked, latest, made, ignored, translated.notes))


def _submit(
    app: AppState, project_id: str, submissions: Sequence[Submission], request_id: str
) -> list[Generation]:
    """All of them, or none."""
    accepted: list[Generation] = []
    try:
        for submission in submissions:
            submitted = app.intake.submit(project_id, submission, request_id=request_id)
            if submitted.generation is not None:
                accepted.append(submitted.generation)
    except BanatieError:
        for generation in accepted:
            app.intake.cancel(project_id, generation.id)
        raise
    return accepted


async def _ended(app: AppState, generation: Generation) -> Generation | None:
    """The generation once it has ended; None if it was deleted."""
    latest = await app.waiters.until(generation, lambda each: each.is_ended, WAIT_SECONDS)
    if latest is not None and not latest.is_ended:
        raise ServiceUnavailable(
            f"The answer cannot wait any longer; the picture is made under the id {latest.id}"
        )
    return latest


async def _cancel(request: HttpRequest, *, only_current: bool) -> None:
    app, project_id = app_state_of(request), key_of(request).project.id
    ids = _active(request).of(project_id)
    waiting = [each for each in await in_thread(_find, app, project_id, ids) if not each.is_ended]
    waiting.sort(key=lambda each: each.status != "processing")
    for each in waiting[:1] if only_current else waiting:
        await app.write(app.intake.cancel, project_id, each.id)


def _find(app: AppState, project_id: str, ids: Sequence[str]) -> list[Generation]:
    """Those that exist."""
    found = []
    for each in ids:
        try:
            found.append(app.intake.get(project_id, each))
        except GenerationNotFound:
            continue
    return found


async def _store(
    app: AppState, project_id: str, field: str, text: str, *, inverted: bool = False
) -> Image:
    """Store a picture that came as base64, plain or as a data URL. Raises ValidationError."""
    data = _decoded(field, text)
    try:
        upload = await app.copy(app.library.decode, data)
    except ValidationError as error:
        reason = error.details[0].message if error.details else str(error)
        raise ValidationError.of(field, reason) from error
    if inverted:
        upload = await app.copy(invert_mask, upload)
    return await app.write(app.library.add, project_id, upload, UploadRequest())


def _decoded(field: str, text: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError) as error:
        raise ValidationError.of(field, "is not a picture as base64") from error


def _active(request: HttpRequest) -> ActiveRequests:
    active: ActiveRequests = request.app.state.webui_active
    return active
