"""The answers of the OpenAI Images API: pictures as base64 or URLs, and the events of a stream.

What OpenAI's have not is Banatie's own: `id`, `seed`, `model`, `warnings`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, cast

from litestar import Response
from litestar.response.base import ASGIResponse
from litestar.types import HTTPScope, Receive, Scope, Send
from msgspec import UNSET, Struct, UnsetType

from banatie.api.dependencies import AppState, in_thread
from banatie.api.dialects.openai.jobs import ClientGone, Jobs, succeeded
from banatie.api.dialects.openai.protocol import failure_of
from banatie.api.dialects.openai.translation import Order
from banatie.api.schemas import encode, storage_url
from banatie.errors import BanatieError, GenerationFailed
from banatie.records import Generation, Image, ImageFormat
from banatie.store.previews import Preview

KEEP_ALIVE = b": keep-alive\n\n"
EventKind = Literal["image_generation", "image_edit"]


class PictureView(Struct):
    """A picture: bytes are base64 in JSON."""

    id: str
    seed: int
    revised_prompt: str
    b64_json: bytes | UnsetType = UNSET
    url: str | UnsetType = UNSET


class PicturesView(Struct):
    """The answer to a request for pictures."""

    created: int
    data: list[PictureView]
    background: str
    output_format: ImageFormat
    quality: str
    size: str
    model: str | None
    warnings: list[str]


class InputTokens(Struct, frozen=True):
    """Of `Usage`."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(Struct, frozen=True):
    """What OpenAI would charge for; its packages expect it in a stream. Nothing is counted here."""

    input_tokens: int = 0
    input_tokens_details: InputTokens = InputTokens()
    output_tokens: int = 0
    total_tokens: int = 0


class PartialEvent(Struct, kw_only=True):
    """A preview of a picture that is being painted: a small JPEG."""

    type: str
    b64_json: bytes
    partial_image_index: int
    created_at: int
    size: str
    quality: str
    background: str = "opaque"
    output_format: ImageFormat = "jpeg"


class CompletedEvent(Struct, kw_only=True):
    """A finished picture."""

    type: str
    id: str
    seed: int
    revised_prompt: str
    b64_json: bytes
    created_at: int
    size: str
    quality: str
    background: str = "opaque"
    output_format: ImageFormat
    model: str | None
    warnings: list[str]
    usage: Usage = Usage()


def image_of(generation: Generation) -> Image:
    """The picture of a generation that has succeeded; its image may be deleted by now."""
    if generation.image is None:
        raise GenerationFailed("The picture was deleted", None)
    return generation.image


async def pictures_view(
    app: AppState, order: Order, generations: Sequence[Generation], public_url: str
) -> PicturesView:
    """The answer with all pictures."""
    data = []
    for generation in generations:
        image = image_of(generation)
        view = PictureView(generation.id, generation.seed, generation.prompt)
        if order.wants_url:
            view.url = storage_url(image.storage_key, public_url)
        else:
            view.b64_json = await in_thread(_read, app, image)
        data.append(view)
    first = generations[0]
    return PicturesView(
        created=app.clock() // 1000,
        data=data,
        background="opaque",
        output_format=first.output_format,
        quality=order.quality,
        size=_size(image_of(first)),
        model=first.model,
        warnings=_warnings(order, generations),
    )


class EventStream(Response[Any]):
    """The events of the pictures as server-sent events, one picture after the other."""

    def __init__(self, app: AppState, order: Order, jobs: Jobs, kind: EventKind) -> None:
        super().__init__(b"")
        self._sent = _SentEvents(app, order, jobs, kind)

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        """The answer as Litestar sends it."""
        return self._sent


class _SentEvents(ASGIResponse):
    """Not Litestar's own stream, which may end without having begun to read its events."""

    def __init__(self, app: AppState, order: Order, jobs: Jobs, kind: EventKind) -> None:
        self._app = app
        self._order = order
        self._jobs = jobs
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientGone):
            await self._jobs.while_connected(receive, self._send(cast("HTTPScope", scope), send))

    async def _send(self, scope: HTTPScope, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            for generation in self._jobs.generations:
                async for event in _events(self._app, self._order, generation, self._kind):
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        except BanatieError as error:
            # The status is sent already.
            self._jobs.abandon()
            _, failure, _ = failure_of(error, scope)
            body = _message("error", failure)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _events(
    app: AppState, order: Order, generation: Generation, kind: EventKind
) -> AsyncIterator[bytes]:
    shown: list[int] = []
    latest: Generation | None = None
    async for now in app.waiters.follow(generation.id):
        if now is None:
            yield KEEP_ALIVE
            continue
        latest = now
        preview = await _next_preview(app, order, now, shown)
        if preview is not None:
            event = PartialEvent(
                type=f"{kind}.partial_image",
                b64_json=preview.jpeg,
                partial_image_index=len(shown),
                created_at=app.clock() // 1000,
                size=f"{now.width}x{now.height}" if now.width else "auto",
                quality=order.quality,
            )
            shown.append(preview.step)
            yield _message(event.type, event)
    is_known = latest is not None and (latest.is_ended or app.waiters.is_closed)
    done = succeeded(latest if is_known else None)
    image = image_of(done)
    completed = CompletedEvent(
        type=f"{kind}.completed",
        id=done.id,
        seed=done.seed,
        revised_prompt=done.prompt,
        b64_json=await in_thread(_read, app, image),
        created_at=app.clock() // 1000,
        size=_size(image),
        quality=order.quality,
        output_format=done.output_format,
        model=done.model,
        warnings=_warnings(order, [done]),
    )
    yield _message(completed.type, completed)


async def _next_preview(
    app: AppState, order: Order, now: Generation, shown: Sequence[int]
) -> Preview | None:
    """A new preview if it is time for one: they are spread over the steps."""
    if now.status != "processing" or not now.steps or len(shown) >= order.partial_images:
        return None
    due = now.steps * (len(shown) + 1) / (order.partial_images + 1)
    preview = await in_thread(app.previews.find, now.id)
    is_new = preview is not None and preview.step not in shown and preview.step >= due
    return preview if is_new else None


def _message(event: str, data: Struct) -> bytes:
    return b"event: " + event.encode() + b"\ndata: " + encode(data) + b"\n\n"


def _read(app: AppState, image: Image) -> bytes:
    try:
        return app.files.path(image.storage_key).read_bytes()
    except OSError as error:
        raise GenerationFailed("The picture's file was deleted, or cannot be read", None) from error


def _size(image: Image) -> str:
    return f"{image.width}x{image.height}"


def _warnings(order: Order, generations: Sequence[Generation]) -> list[str]:
    """What was not done as asked, by the translation and by the worker, each once."""
    of_worker = (warning for generation in generations for warning in generation.warnings)
    return list(dict.fromkeys((*order.warnings, *of_worker)))
