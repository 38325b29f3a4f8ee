"""`options`, which clients read and write as one object, and `png-info`."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from litestar import Response, get, post

from banatie.api.dependencies import AppState, HttpRequest, app_state_of, in_thread, key_of
from banatie.api.dialects.webui.access import WEBUI_PREFIX
from banatie.api.dialects.webui.requests import read_object
from banatie.api.responses import json_response
from banatie.errors import ValidationError
from banatie.imaging.infotext import parameters_of
from banatie.limits import MAX_UPLOAD_BYTES

MODEL = "sd_model_checkpoint"


@get("/options", operation_id="webuiOptions")
async def get_options(request: HttpRequest) -> Response[Any]:
    """The settings that clients ask for."""
    return json_response(await in_thread(_options, app_state_of(request)))


@post("/options", operation_id="webuiSetOptions", status_code=200)
async def set_options(request: HttpRequest) -> Response[Any]:
    """Switch the model, and answer which settings have no effect."""
    app = app_state_of(request)
    asked = read_object(await request.body())
    before = await in_thread(_options, app)
    if (wanted := asked.get(MODEL)) is not None:
        await _use_model(request, wanted)
        before |= {MODEL: await in_thread(_current, app)}
    ignored = [name for name, value in asked.items() if name != MODEL and value != before.get(name)]
    return json_response({MODEL: before[MODEL], "ignored": ignored})


@post(
    "/png-info",
    operation_id="webuiPngInfo",
    status_code=200,
    request_max_body_size=2 * MAX_UPLOAD_BYTES,
)
async def png_info(request: HttpRequest) -> Response[Any]:
    """The generation parameters that a picture's file carries."""
    asked = read_object(await request.body())
    text = asked.get("image")
    if not isinstance(text, str) or not text:
        raise ValidationError.of("image", "is required: a picture as base64")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        info = await in_thread(parameters_of, base64.b64decode(text))
    except (binascii.Error, OSError, ValueError, SyntaxError) as error:
        raise ValidationError.of("image", "is not a picture as base64") from error
    return json_response({"info": info, "items": {"parameters": info}, "parameters": {}})


async def _use_model(request: HttpRequest, wanted: object) -> None:
    """Switch to another model that is installed, with a master key. Raises ValidationError."""
    app = app_state_of(request)
    if key_of(request).type == "master" and wanted != await in_thread(_current, app):
        if not isinstance(wanted, str):
            raise ValidationError.of(MODEL, "takes the name of a model")
        await app.write(app.painting_model.switch, wanted)
    else:
        await in_thread(require_model, app, wanted)


def require_model(app: AppState, wanted: object) -> None:
    """Raise ValidationError if this is another model than the one that paints, and say why."""
    current = _current(app)
    if wanted in ("", current):
        return
    names = [entry.name for entry in app.intake.painting_models()]
    if wanted in names:
        raise ValidationError.of(
            MODEL,
            f"{current} paints here; POST {WEBUI_PREFIX}/options with a master key changes that, "
            f"or `banatie models use {wanted}`",
        )
    known = ", ".join(names)
    raise ValidationError.of(MODEL, f"{wanted!r} is not installed; installed are: {known}")


def _current(app: AppState) -> str:
    model = app.intake.painting_model()
    return model.name if model else ""


def _options(app: AppState) -> dict[str, Any]:
    return {
        MODEL: _current(app),
        "sd_checkpoint_hash": "",
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
        "samples_format": "png",
        "enable_pnginfo": app.config.storage.metadata,
        "forge_additional_modules": [],
    }
