"""The bodies of requests: each must arrive within a time limit, and before the server stops.

What a body contains is not known here.
"""

from __future__ import annotations

import asyncio

from litestar.types import Receive, ReceiveMessage

from banatie.errors import RequestTimeout, ServiceUnavailable, ValidationError


class RequestBodies:
    """The bodies that are being read."""

    def __init__(self, seconds: float) -> None:
        """A complete body must arrive within so many seconds."""
        self._seconds = seconds
        self._limits: set[asyncio.Timeout] = set()
        self._is_closed = False

    def close(self) -> None:
        """End those that are being read, now and from now on, for a graceful shutdown."""
        self._is_closed = True
        for limit in self._limits:
            limit.reschedule(asyncio.get_running_loop().time())

    def limited(self, receive: Receive) -> Receive:
        """`receive`, which raises an error of the request where the body does not arrive.

        Raises RequestTimeout, ServiceUnavailable when the server stops, and ValidationError.
        """
        deadline = asyncio.get_running_loop().time() + self._seconds
        is_complete = False

        async def receive_in_time() -> ReceiveMessage:
            nonlocal is_complete
            if is_complete:
                return await receive()
            message = await self._receive(receive, deadline)
            if message["type"] == "http.request":
                is_complete = not message["more_body"]
                return message
            # The client has closed the connection, or sent a malformed chunk.
            raise ValidationError.of("body", "ended before it was complete")

        return receive_in_time

    async def _receive(self, receive: Receive, deadline: float) -> ReceiveMessage:
        limit = asyncio.timeout_at(0 if self._is_closed else deadline)
        try:
            async with limit:
                self._limits.add(limit)
                return await receive()
        except TimeoutError as error:
            if self._is_closed:
                raise ServiceUnavailable("The server is stopping; try again") from error
            raise RequestTimeout(
                f"The body did not arrive within {self._seconds:g} seconds"
            ) from error
        finally:
            self._limits.discard(limit)
