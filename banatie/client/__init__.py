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
from types import TracebackType
from typing import Any, TypeVar, Unpack

import httpx2

from banatie.api.image_schemas import ImageView
from banatie.api.schemas import GenerationView, Page, Success
from banatie.client import calls
from banatie.client.calls import Call, GenerationOptions
from banatie.limits import MAX_WAIT_SECONDS
from banatie.records import ImageSource, Status

T = TypeVar("T")

__all__ = ["ADDRESS", "AsyncClient", "Client", "GenerationOptions"]

ADDRESS = "http://127.0.0.1:3000"
RETRY_SECONDS = (0.2, 1.0, 3.0)
"""The pauses before a request is sent again."""


class Client:
    """A client of the server at `url`, with an API key; close it, or use it in a `with` block.

    Every method raises RequestFailed for what the server refuses, and ServerUnreachable.
    """

    def __init__(
        self, url: str = ADDRESS, key: str = "", *, transport: httpx2.BaseTransport | None = None
    ) -> None:
        self._http = httpx2.Client(**calls.settings(url, key), transport=transport)

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
        return self._data(calls.create(prompt, idempotency_key, parameters))

    def wait(self, generation_id: str) -> GenerationView:
        """The generation once its picture is there. Raises GenerationFailed with the reason."""
        while True:
            generation = self.get(generation_id, wait=MAX_WAIT_SECONDS)
            if calls.is_finished(generation):
                return generation

    def get(self, generation_id: str, *, wait: int = 0) -> GenerationView:
        """The generation as it is now, or once it has ended, but after `wait` seconds at most."""
        return self._data(calls.get(generation_id, wait))

    def list(
        self, *, limit: int = 20, offset: int = 0, status: Status | None = None
    ) -> Page[GenerationView]:
        """A page of the project's generations, newest first."""
        return self._send(calls.list_page(limit, offset, status))

    def cancel(self, generation_id: str) -> GenerationView:
        """Stop the generation; one that has ended stays as it is."""
        return self._data(calls.cancel(generation_id))

    def delete(self, generation_id: str) -> None:
        """Delete the generation and its picture for good."""
        self._send(calls.delete(generation_id))

    def upload(self, content: bytes, *, alias: str | None = None) -> ImageView:
        """Store a PNG, JPEG or WebP, to paint from."""
        return self._data(calls.upload(content, alias))

    def images(
        self, *, limit: int = 20, offset: int = 0, source: ImageSource | None = None
    ) -> Page[ImageView]:
        """A page of the project's images, newest first."""
        return self._send(calls.images(limit, offset, source))

    def image(self, id_or_alias: str) -> ImageView:
        """The image with this id or alias."""
        return self._data(calls.image(id_or_alias))

    def download(self, picture: GenerationView | ImageView) -> bytes:
        """The file of a generation that has succeeded, or of an image."""
        return self._answer(calls.download(picture)).content

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

    def _data(self, call: Call[Success[T]]) -> T:
        return self._send(call).data

    def _send(self, call: Call[T]) -> T:
        return call.read(self._answer(call))

    def _answer(self, call: Call[Any]) -> httpx2.Response:
        for pause in (*RETRY_SECONDS, None):
            try:
                response = self._http.request(call.method, call.path, **call.arguments())
            except httpx2.TransportError as error:
                if pause is None or not call.may_repeat:
                    raise calls.unreachable(self._http.base_url, error) from error
            else:
                if response.status_code != 503 or pause is None or not call.may_repeat:
                    return calls.checked(response)
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
        self._http = httpx2.AsyncClient(**calls.settings(url, key), transport=transport)

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
        return await self._data(calls.create(prompt, idempotency_key, parameters))

    async def wait(self, generation_id: str) -> GenerationView:
        """The generation once its picture is there. Raises GenerationFailed with the reason."""
        while True:
            generation = await self.get(generation_id, wait=MAX_WAIT_SECONDS)
            if calls.is_finished(generation):
                return generation

    async def get(self, generation_id: str, *, wait: int = 0) -> GenerationView:
        """The generation as it is now, or once it has ended, but after `wait` seconds at most."""
        return await self._data(calls.get(generation_id, wait))

    async def list(
        self, *, limit: int = 20, offset: int = 0, status: Status | None = None
    ) -> Page[GenerationView]:
        """A page of the project's generations, newest first."""
        return await self._send(calls.list_page(limit, offset, status))

    async def cancel(self, generation_id: str) -> GenerationView:
        """Stop the generation; one that has ended stays as it is."""
        return await self._data(calls.cancel(generation_id))

    async def delete(self, generation_id: str) -> None:
        """Delete the generation and its picture for good."""
        await self._send(calls.delete(generation_id))

    async def upload(self, content: bytes, *, alias: str | None = None) -> ImageView:
        """Store a PNG, JPEG or WebP, to paint from."""
        return await self._data(calls.upload(content, alias))

    async def images(
        self, *, limit: int = 20, offset: int = 0, source: ImageSource | None = None
    ) -> Page[ImageView]:
        """A page of the project's images, newest first."""
        return await self._send(calls.images(limit, offset, source))

    async def image(self, id_or_alias: str) -> ImageView:
        """The image with this id or alias."""
        return await self._data(calls.image(id_or_alias))

    async def download(self, picture: GenerationView | ImageView) -> bytes:
        """The file of a generation that has succeeded, or of an image."""
        return (await self._answer(calls.download(picture))).content

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

    async def _data(self, call: Call[Success[T]]) -> T:
        return (await self._send(call)).data

    async def _send(self, call: Call[T]) -> T:
        return call.read(await self._answer(call))

    async def _answer(self, call: Call[Any]) -> httpx2.Response:
        for pause in (*RETRY_SECONDS, None):
            try:
                response = await self._http.request(call.method, call.path, **call.arguments())
            except httpx2.TransportError as error:
                if pause is None or not call.may_repeat:
                    raise calls.unreachable(self._http.base_url, error) from error
            else:
                if response.status_code != 503 or pause is None or not call.may_repeat:
                    return calls.checked(response)
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")
