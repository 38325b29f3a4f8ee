"""Errors as pictures: what an `<img>` shows instead of the image that it asked for.

Only for the routes of public images; every other client reads JSON.
"""

from __future__ import annotations

import io
import textwrap
from functools import lru_cache
from typing import Any

from litestar import Request, Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from banatie.api.dependencies import in_thread
from banatie.api.errors import Answer, answer_to, to_response

WIDTH, HEIGHT = 512, 288
FONT_SIZE = 18
_CHARACTERS_PER_LINE, _LINES = 50, 10


def to_picture(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """The answer to a request that ended in `error`: a picture where the client shows images."""
    if not shows_images(",".join(request.headers.getall("accept", []))):
        return to_response(request, error)
    return _ErrorResponse(answer_to(error, request.scope))


class _ErrorResponse(Response[Any]):
    def __init__(self, answer: Answer) -> None:
        super().__init__(b"")
        self._answer = answer

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        return _ErrorPicture(self._answer)


class _ErrorPicture(ASGIResponse):
    """Drawn when it is sent, in a thread: Litestar's exception handlers cannot wait."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, body, headers = self._answer
        picture = await in_thread(draw_error, f"{status} {body.code}", body.message)
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        raw += [
            (b"content-type", b"image/png"),
            (b"content-length", b"%d" % len(picture)),
            # Pages of other origins show it, as they do the image.
            (b"cross-origin-resource-policy", b"cross-origin"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": picture, "more_body": False})


def shows_images(accept: str) -> bool:
    """Whether a client with this Accept header shows images alone, as an `<img>` does.

    A browser that opens the URL as a page accepts images too, but text as well.
    """
    types = []
    for each in accept.split(","):
        media_type, _, parameters = each.partition(";")
        if parameters.replace(" ", "") not in ("q=0", "q=0.0"):
            types.append(media_type.strip().lower())
    return any(each.startswith("image/") for each in types) and not any(
        each.startswith("text/") or each == "application/json" for each in types
    )


@lru_cache(maxsize=64)
def draw_error(title: str, message: str) -> bytes:
    """A small PNG that says what is wrong."""
    # Imported here, because a server whose URLs are all right never needs it.
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (WIDTH, HEIGHT), (250, 245, 240))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(FONT_SIZE)
    lines = textwrap.wrap(message, _CHARACTERS_PER_LINE, max_lines=_LINES, placeholder=" …")
    draw.text((24, 20), title, fill=(160, 40, 30), font=font)
    draw.multiline_text((24, 56), "\n".join(lines), fill=(50, 45, 40), font=font, spacing=5)
    encoded = io.BytesIO()
    image.save(encoded, "PNG", optimize=True)
    return encoded.getvalue()
