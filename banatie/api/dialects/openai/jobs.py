"""The generations of one request: accepted together, waited for together, cancelled together.

OpenAI's packages repeat a request whose connection breaks, and nothing tells that it is the same
one. So what a client no longer waits for is cancelled, or each repetition would paint again. When
the server stops, the generations stay: they are in the queue like all others.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TypeVar

from litestar.types import Receive

from banatie.api.dependencies import AppState
from banatie.api.dialects.openai.translation import Order, from_pictures
from banatie.errors import BanatieError, GenerationFailed, ServiceUnavailable
from banatie.imaging.uploads import Upload
from banatie.library import UploadRequest
from banatie.records import Generation

T = TypeVar("T")


class ClientGone(Exception):
    """The client has hung up: nobody reads the answer."""


@dataclass(frozen=True)
class SourcePictures:
    """What is edited: the decoded pictures, and what of the first is painted anew."""

    images: Sequence[Upload]
    mask: Upload | None = None


class Jobs:
    """The generations of one request."""

    def __init__(self, app: AppState, project_id: str, request_id: str) -> None:
        self._app = app
        self._project_id = project_id
        self._request_id = request_id
        self._is_abandoned = False
        self.generations: list[Generation] = []

    async def submit(self, order: Order, pictures: SourcePictures | None = None) -> None:
        """Accept them all, or none. Raises what `Intake.submit` and `Library.add` raise."""
        try:
            await self._app.write(self._submit, order, pictures)
        except asyncio.CancelledError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Cancel those that have not ended, without waiting: nobody wants them any more."""
        if not self._app.waiters.is_closed:
            self._is_abandoned = True
            self._app.write_detached(self._cancel)

    async def while_connected(self, receive: Receive, work: Coroutine[None, None, T]) -> T:
        """The result of `work`, which waits for the generations.

        Raises ClientGone. However it ends without a result, they are cancelled as by `abandon`.
        """
        hang_up = asyncio.create_task(_hang_up(receive))
        working = asyncio.create_task(work)
        # It may fail in the moment in which it is cancelled, and nobody asks for that error.
        working.add_done_callback(_take_error)
        is_done = False
        try:
            await asyncio.wait({hang_up, working}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ClientGone
            result = working.result()
            is_done = True
            return result
        finally:
            hang_up.cancel()
            working.cancel()
            if not is_done:
                self.abandon()

    async def finished(self) -> list[Generation]:
        """The generations once all have succeeded.

        As soon as one has not, raises what `succeeded` raises.
        """
        waiting = [asyncio.create_task(self._finished(each)) for each in self.generations]
        try:
            return await asyncio.gather(*waiting)
        finally:
            for task in waiting:
                task.cancel()

    async def _finished(self, generation: Generation) -> Generation:
        return succeeded(await self._app.waiters.until(generation, lambda g: g.is_ended, math.inf))

    def _submit(self, order: Order, pictures: SourcePictures | None) -> None:
        """In a thread; `abandon` may come at any moment, also before the first is accepted."""
        uploaded: list[str] = []
        try:
            if pictures is not None:
                order = from_pictures(order, *self._store(pictures, uploaded))
            for submission in order.submissions:
                if self._is_abandoned:
                    break
                submitted = self._app.intake.submit(
                    self._project_id, submission, request_id=self._request_id
                )
                if submitted.generation is not None:
                    self.generations.append(submitted.generation)
        except BanatieError:
            self._cancel()
            for image_id in uploaded:
                self._app.library.delete_image(self._project_id, image_id)
            raise
        if self._is_abandoned:
            self._cancel()

    def _store(self, pictures: SourcePictures, uploaded: list[str]) -> tuple[list[str], str | None]:
        """Store them as uploads; the ids of the images and of the mask, also into `uploaded`."""
        for upload in (*pictures.images, *([pictures.mask] if pictures.mask else ())):
            image = self._app.library.add(self._project_id, upload, UploadRequest())
            uploaded.append(image.id)
        number = len(pictures.images)
        return uploaded[:number], uploaded[number] if pictures.mask else None

    def _cancel(self) -> None:
        for generation in tuple(self.generations):
            self._app.intake.cancel(self._project_id, generation.id)


def succeeded(generation: Generation | None) -> Generation:
    """The generation, which was waited for.

    Raises GenerationFailed, and ServiceUnavailable if it has not ended, because the server stops.
    """
    if generation is None:
        raise GenerationFailed("The generation was deleted", None)
    if generation.status == "failed":
        raise GenerationFailed(generation.error_message or "It failed", None)
    if not generation.is_ended:
        raise ServiceUnavailable(
            f"The server is stopping; the generation {generation.id} is in its queue and is "
            "finished when it runs again"
        )
    return generation


def _take_error(task: asyncio.Task[T]) -> None:
    """Read a task's error, so that asyncio does not log it as one that nobody has seen."""
    if not task.cancelled():
        task.exception()


async def _hang_up(receive: Receive) -> None:
    """Return when the client has closed the connection; its body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
