"""A client of the HTTP API for Python programs: `Client`, and `AsyncClient` with the same methods.

    with Client("http://127.0.0.1:3000", "bnt_…") as banatie:
        generation = banatie.generate("a red fox", aspect_ratio="16:9")
        Path("fox.png").write_bytes(banatie.download(generation))

Answers are the structures of `api.schemas`. A request that may safely be sent again is, after a
broken connection or a 503; a new generation is one of these, because it carries an idempotency key.
What the server does with a request is unknown here.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import httpx2
import msgspec

from banatie.api.image_schemas import ImageView
from banatie.api.schemas import GenerationView, Page, Success
from banatie.errors import GenerationFailed, RequestFailed, ServerUnreachable
from banatie.limits import MAX_WAIT_SECONDS
from banatie.records import AspectRatio, ImageFormat, ImageSource, Status, TemplateName

T = TypeVar("T")

ADDRESS = "http://127.0.0.1:3000"
TIMEOUT_SECONDS = 60.0
"""For a connection and for an answer, which may wait this much longer than it was asked to."""
RETRY_SECONDS = (0.2, 1.0, 3.0)
"""The pauses before a request is sent again."""
GENERATIONS, IMAGES = "/api/v1/generations", "/api/v1/images"


class GenerationOptions(TypedDict, total=False):
    """The optional parameters of a generation (docs/api.md); what is left out has its default."""

    aspect_ratio: AspectRatio
    size: str
    auto_enhance: bool
    template: TemplateName
    meta: Mapping[str, Any]
    seed: int
    negative_prompt: str
    steps: int
    guidance_scale: float
    loras: Mapping[str, float]
    """The weights by name."""
    flow_id: str | None
    alias: str
    flow_alias: str
    reference_images: Sequence[str]
    reference_strength: float
    mask: str
    upscale: float
    output_format: ImageFormat
    quality: int
    webhook: str


@dataclass(frozen=True)
class _Call(Generic[T]):
    """A request, and the type of what is in its answer."""

    answer: type[T]
    method: str
    path: str
    wait: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    may_repeat: bool = True

    def arguments(self) -> dict[str, Any]:
        """What httpx2 sends."""
        headers = dict(self.headers)
        if self.wait:
            headers["Prefer"] = f"wait={self.wait}"
        timeout = TIMEOUT_SECONDS + self.wait
        return {"headers": headers, "timeout": timeout, **self.options}

    def read(self, response: httpx2.Response) -> T:
        """What the answer holds. Raises RequestFailed."""
        try:
            return msgspec.json.decode(response.content, type=self.answer)
        except msgspec.DecodeError as error:
            raise RequestFailed(
                response.status_code, "INTERNAL_ERROR", f"This is no answer of Banatie: {error}"
            ) from error


class Client:
    """A client of the server at `url`, with an API key; close it, or use it in a `with` block.

    Every method raises RequestFailed for what the server refuses, and ServerUnreachable.
    """

    def __init__(
        self, url: str = ADDRESS, key: str = "", *, transport: httpx2.BaseTransport | None = None
    ) -> None:
        self._http = httpx2.Client(**_settings(url, key), transport=transport)

    def generate(
        self,
        prompt: str,
        *,
        idempotency_key: str | None = None,
        **parameters: Unpack[GenerationOptions],
    ) -> GenerationView:
        """Make a picture and wait for it. Raises GenerationFailed with the reason."""
        created = self.create(prompt, idempotency_key=idempotency_key, **parameters)
        return self.wait(created.id)

    def create(
        self,
        prompt: str,
        *,
        idempotency_key: str | None = None,
        **parameters: Unpack[GenerationOptions],
    ) -> GenerationView:
        """Submit a generation, without waiting for its picture."""
        return self._data(_create(prompt, idempotency_key, parameters))

    def wait(self, generation_id: str) -> GenerationView:
        """The generation once its picture is there. Raises GenerationFailed with the reason."""
        while True:
            generation = self.get(generation_id, wait=MAX_WAIT_SECONDS)
            if _is_finished(generation):
                return generation

    def get(self, generation_id: str, *, wait: int = 0) -> GenerationView:
        """The generation as it is now, or once it has ended, but after `wait` seconds at most."""
        return self._data(_get(generation_id, wait))

    def list(
        self, *, limit: int = 20, offset: int = 0, status: Status | None = None
    ) -> Page[GenerationView]:
        """A page of the project's generations, newest first."""
        return self._send(_list(limit, offset, status))

    def cancel(self, generation_id: str) -> GenerationView:
        """Stop the generation; one that has ended stays as it is."""
        return self._data(_cancel(generation_id))

    def delete(self, generation_id: str) -> None:
        """Delete the generation and its picture for good."""
        self._send(_delete(generation_id))

    def upload(self, content: bytes, *, alias: str | None = None) -> ImageView:
        """Store a PNG, JPEG or WebP, to paint from."""
        return self._data(_upload(content, alias))

    def images(
        self, *, limit: int = 20, offset: int = 0, source: ImageSource | None = None
    ) -> Page[ImageView]:
        """A page of the project's images, newest first."""
        return self._send(_images(limit, offset, source))

    def image(self, id_or_alias: str) -> ImageView:
        """The image with this id or alias."""
        return self._data(_image(id_or_alias))

    def download(self, picture: GenerationView | ImageView) -> bytes:
        """The file of a generation that has succeeded, or of an image."""
        return self._answer(_download(picture)).content

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _data(self, call: _Call[Success[T]]) -> T:
        return self._send(call).data

    def _send(self, call: _Call[T]) -> T:
        return call.read(self._answer(call))

    def _answer(self, call: _Call[Any]) -> httpx2.Response:
        for pause in (*RETRY_SECONDS, None):
            try:
                response = self._http.request(call.method, call.path, **call.arguments())
            except httpx2.TransportError as error:
                if pause is None or not call.may_repeat:
                    raise _unreachable(self._http.base_url, error) from error
            else:
                if response.status_code != 503 or pause is None or not call.may_repeat:
                    return _checked(response)
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


class AsyncClient:
    """`Client` for asyncio."""

    def __init__(
        self,
        url: str = ADDRESS,
        key: str = "",
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx2.AsyncClient(**_settings(url, key), transport=transport)

    async def generate(
        self,
        prompt: str,
        *,
        idempotency_key: str | None = None,
        **parameters: Unpack[GenerationOptions],
    ) -> GenerationView:
        """Make a picture and wait for it. Raises GenerationFailed with the reason."""
        created = await self.create(prompt, idempotency_key=idempotency_key, **parameters)
        return await self.wait(created.id)

    async def create(
        self,
        prompt: str,
        *,
        idempotency_key: str | None = None,
        **parameters: Unpack[GenerationOptions],
    ) -> GenerationView:
        """Submit a generation, without waiting for its picture."""
        return await self._data(_create(prompt, idempotency_key, parameters))

    async def wait(self, generation_id: str) -> GenerationView:
        """The generation once its picture is there. Raises GenerationFailed with the reason."""
        while True:
            generation = await self.get(generation_id, wait=MAX_WAIT_SECONDS)
            if _is_finished(generation):
                return generation

    async def get(self, generation_id: str, *, wait: int = 0) -> GenerationView:
        """The generation as it is now, or once it has ended, but after `wait` seconds at most."""
        return await self._data(_get(generation_id, wait))

    async def list(
        self, *, limit: int = 20, offset: int = 0, status: Status | None = None
    ) -> Page[GenerationView]:
        """A page of the project's generations, newest first."""
        return await self._send(_list(limit, offset, status))

    async def cancel(self, generation_id: str) -> GenerationView:
        """Stop the generation; one that has ended stays as it is."""
        return await self._data(_cancel(generation_id))

    async def delete(self, generation_id: str) -> None:
        """Delete the generation and its picture for good."""
        await self._send(_delete(generation_id))

    async def upload(self, content: bytes, *, alias: str | None = None) -> ImageView:
        """Store a PNG, JPEG or WebP, to paint from."""
        return await self._data(_upload(content, alias))

    async def images(
        self, *, limit: int = 20, offset: int = 0, source: ImageSource | None = None
    ) -> Page[ImageView]:
        """A page of the project's images, newest first."""
        return await self._send(_images(limit, offset, source))

    async def image(self, id_or_alias: str) -> ImageView:
        """The image with this id or alias."""
        return await self._data(_image(id_or_alias))

    async def download(self, picture: GenerationView | ImageView) -> bytes:
        """The file of a generation that has succeeded, or of an image."""
        return (await self._answer(_download(picture))).content

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _data(self, call: _Call[Success[T]]) -> T:
        return (await self._send(call)).data

    async def _send(self, call: _Call[T]) -> T:
        return call.read(await self._answer(call))

    async def _answer(self, call: _Call[Any]) -> httpx2.Response:
        for pause in (*RETRY_SECONDS, None):
            try:
                response = await self._http.request(call.method, call.path, **call.arguments())
            except httpx2.TransportError as error:
                if pause is None or not call.may_repeat:
                    raise _unreachable(self._http.base_url, error) from error
            else:
                if response.status_code != 503 or pause is None or not call.may_repeat:
                    return _checked(response)
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


def _settings(url: str, key: str) -> dict[str, Any]:
    # The server is one's own, and so no proxy that the environment names is asked for it.
    return {"base_url": url, "headers": {"X-API-Key": key} if key else {}, "trust_env": False}


def _create(
    prompt: str, idempotency_key: str | None, parameters: Mapping[str, Any]
) -> _Call[Success[GenerationView]]:
    body: dict[str, Any] = {"prompt": prompt}
    for name, value in parameters.items():
        if name == "template":
            body["enhancementOptions"] = {"template": value}
        elif name == "loras":
            body["loras"] = [{"name": lora, "weight": weight} for lora, weight in value.items()]
        else:
            first, *rest = name.split("_")
            body[first + "".join(word.capitalize() for word in rest)] = value
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return _Call(
        Success[GenerationView], "POST", GENERATIONS, headers=headers, options={"json": body}
    )


def _get(generation_id: str, wait: int) -> _Call[Success[GenerationView]]:
    return _Call(Success[GenerationView], "GET", f"{GENERATIONS}/{_segment(generation_id)}", wait)


def _list(limit: int, offset: int, status: Status | None) -> _Call[Page[GenerationView]]:
    query = _given(limit=limit, offset=offset, status=status)
    return _Call(Page[GenerationView], "GET", GENERATIONS, options={"params": query})


def _cancel(generation_id: str) -> _Call[Success[GenerationView]]:
    path = f"{GENERATIONS}/{_segment(generation_id)}/cancel"
    return _Call(Success[GenerationView], "POST", path)


def _delete(generation_id: str) -> _Call[dict[str, Any]]:
    # Sent again, it would fail after it has worked.
    path = f"{GENERATIONS}/{_segment(generation_id)}"
    return _Call(dict[str, Any], "DELETE", path, may_repeat=False)


def _upload(content: bytes, alias: str | None) -> _Call[Success[ImageView]]:
    options = {"files": {"file": ("picture", content)}, "data": _given(alias=alias)}
    return _Call(Success[ImageView], "POST", f"{IMAGES}/upload", options=options, may_repeat=False)


def _images(limit: int, offset: int, source: ImageSource | None) -> _Call[Page[ImageView]]:
    query = _given(limit=limit, offset=offset, source=source)
    return _Call(Page[ImageView], "GET", IMAGES, options={"params": query})


def _image(id_or_alias: str) -> _Call[Success[ImageView]]:
    return _Call(Success[ImageView], "GET", f"{IMAGES}/{_segment(id_or_alias)}")


def _download(picture: GenerationView | ImageView) -> _Call[bytes]:
    image = picture if isinstance(picture, ImageView) else picture.output_image
    if image is None:
        raise GenerationFailed("The generation has no picture", picture)
    # Below the client's own address: that of the answer may be one that others reach it by.
    path = image.storage_url[image.storage_url.rindex("/storage/") :]
    return _Call(bytes, "GET", path)


def _is_finished(generation: GenerationView) -> bool:
    """Whether the picture is there. Raises GenerationFailed."""
    if generation.status == "failed":
        raise GenerationFailed(generation.error_message or "It failed", generation)
    return generation.status == "success"


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _segment(text: str) -> str:
    """The text as one part of a path; what it names may be anything."""
    return quote(text, safe="@")


def _checked(response: httpx2.Response) -> httpx2.Response:
    if response.status_code >= 300:
        raise _failure(response)
    return response


def _failure(response: httpx2.Response) -> RequestFailed:
    try:
        error = response.json()["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, LookupError, TypeError):
        code, message = "INTERNAL_ERROR", f"Status {response.status_code} without a reason"
    return RequestFailed(response.status_code, code, message)


def _unreachable(url: object, error: httpx2.TransportError) -> ServerUnreachable:
    return ServerUnreachable(
        f"No answer from {url} ({error or type(error).__name__}); is `banatie serve` running there?"
    )
