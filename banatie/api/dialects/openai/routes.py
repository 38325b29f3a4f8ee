"""The routes of the OpenAI Images API.

They are not in Banatie's OpenAPI document: OpenAI's own describes them.
"""

from __future__ import annotations

from typing import Any

from litestar import Response, Router, get, post
from litestar.params import FromPath
from msgspec import Struct

from banatie.api.dependencies import HttpRequest, app_state_of, in_thread, key_of
from banatie.api.dialects.openai.answers import EventKind, EventStream, pictures_view
from banatie.api.dialects.openai.forms import FORM_BYTES, read_form
from banatie.api.dialects.openai.jobs import ClientGone, Jobs, SourcePictures
from banatie.api.dialects.openai.protocol import PREFIX
from banatie.api.dialects.openai.requests import (
    EditRequest,
    GenerationRequest,
    VariationRequest,
    read_request,
)
from banatie.api.dialects.openai.translation import Order, order_of
from banatie.api.errors import decode_body
from banatie.api.query import check_query
from banatie.api.responses import json_response, options
from banatie.errors import NotFound
from banatie.intake import Intake
from banatie.limits import MAX_REFERENCES

CLIENT_CLOSED_REQUEST = 499
"""What nginx calls the status of a request whose client has hung up; only the log shows it."""


class ModelView(Struct):
    """A model; OpenAI's clients want all four."""

    id: str
    created: int
    owned_by: str = "banatie"
    object: str = "model"


class ModelsView(Struct):
    """The models that can be asked for."""

    data: list[ModelView]
    object: str = "list"


@post("/images/generations", status_code=200)
async def create_image(request: HttpRequest) -> Response[Any]:
    """Paint `n` pictures of a prompt."""
    app = app_state_of(request)
    fields = decode_body(await request.body(), dict[str, Any])
    wanted = read_request(fields, GenerationRequest)
    order = await in_thread(order_of, wanted, app.intake)
    return await _answer(request, order, None, "image_generation")


@post("/images/edits", status_code=200, request_max_body_size=FORM_BYTES)
async def edit_image(request: HttpRequest) -> Response[Any]:
    """Paint `n` pictures of a prompt from pictures, or what a mask leaves open of the first."""
    app = app_state_of(request)
    form = await read_form(request, most_images=MAX_REFERENCES, takes_mask=True)
    wanted = read_request(form.fields, EditRequest, is_text=True)
    pictures = await form.decoded(app)
    order = await in_thread(
        order_of, wanted, app.intake, pictures.images[0], has_mask=pictures.mask is not None
    )
    return await _answer(request, order, pictures, "image_edit")


@post("/images/variations", status_code=200, request_max_body_size=FORM_BYTES)
async def vary_image(request: HttpRequest) -> Response[Any]:
    """Paint `n` pictures that are like a picture."""
    app = app_state_of(request)
    form = await read_form(request, most_images=1, takes_mask=False)
    wanted = read_request(form.fields, VariationRequest, is_text=True)
    pictures = await form.decoded(app)
    order = await in_thread(order_of, wanted, app.intake, pictures.images[0])
    return await _answer(request, order, pictures, "image_edit")


@get("/models")
async def list_models(request: HttpRequest) -> Response[Any]:
    """The model that paints; requests may name any other, and this one paints."""
    models = await in_thread(_models, app_state_of(request).intake)
    return json_response(ModelsView(models))


@get("/models/{model_id:str}")
async def get_model(request: HttpRequest, model_id: FromPath[str]) -> Response[Any]:
    """The model of this id."""
    for model in await in_thread(_models, app_state_of(request).intake):
        if model.id == model_id:
            return json_response(model)
    raise NotFound(f"The model {model_id!r} is not in use here; GET {PREFIX}/models lists what is")


def openai_router() -> Router:
    """The routes below /v1."""
    return Router(
        PREFIX,
        route_handlers=[
            options("/images/generations", "POST"),
            options("/images/edits", "POST"),
            options("/images/variations", "POST"),
            options("/models", "GET"),
            options("/models/{model_id:str}", "GET"),
            create_image,
            edit_image,
            vary_image,
            list_models,
            get_model,
        ],
        guards=[check_query],
        include_in_schema=False,
    )


async def _answer(
    request: HttpRequest, order: Order, pictures: SourcePictures | None, kind: EventKind
) -> Response[Any]:
    """The pictures, once they are painted, or their events."""
    app = app_state_of(request)
    jobs = Jobs(app, key_of(request).project.id, request.scope["state"]["request_id"])
    await jobs.submit(order, pictures)
    if order.is_stream:
        return EventStream(app, order, jobs, kind)
    try:
        generations = await jobs.while_connected(request.receive, jobs.finished())
    except ClientGone:
        return Response(None, status_code=CLIENT_CLOSED_REQUEST)
    return json_response(await pictures_view(app, order, generations, app.public_url(request)))


def _models(intake: Intake) -> list[ModelView]:
    model = intake.painting_model()
    if model is None:
        return []
    return [ModelView(model.name, int(model.folder.stat().st_mtime))]
