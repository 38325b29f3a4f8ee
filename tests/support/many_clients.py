"""Many clients at once, on bare sockets: they ask, wait, and stay or go away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.faults.conftest import FaultyService

PATIENCE = 120
GENERATIONS = "/api/v1/generations"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def waiting(house: FaultyService, generation_id: str) -> bytes:
    """A request that is answered when the generation has ended."""
    return _request(house, "GET", f"{GENERATIONS}/{generation_id}", Prefer=f"wait={PATIENCE}")


def following(house: FaultyService, generation_id: str) -> bytes:
    """A request for the generation's events."""
    return _request(house, "GET", f"{GENERATIONS}/{generation_id}/events")


def submitting(house: FaultyService, prompt: str, **fields: object) -> bytes:
    """A request for a new generation, answered when it has ended."""
    body = json.dumps({"prompt": prompt, **fields}).encode()
    headers = {"Prefer": f"wait={PATIENCE}", "Content-Type": "application/json"}
    return _request(house, "POST", GENERATIONS, body, **headers)


def answers(
    house: FaultyService, requests: Sequence[bytes], meanwhile: Callable[[], object]
) -> list[str]:
    """What each request is answered; `meanwhile` is called once all of them wait."""

    async def run() -> list[str]:
        async with _connected(house, requests) as connections:
            await asyncio.to_thread(meanwhile)
            reading = (reader.read() for reader, _ in connections)
            texts = await asyncio.wait_for(asyncio.gather(*reading), PATIENCE)
            return [text.decode() for text in texts]

    return asyncio.run(run())


def leave(house: FaultyService, requests: Sequence[bytes]) -> None:
    """Send the requests and go away without a word while they wait."""

    async def run() -> None:
        async with _connected(house, requests) as connections:
            for _, writer in connections:
                # Reset, as when a process is killed or a cable is pulled.
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )

    asyncio.run(run())


def connections(process: int) -> int:
    """How many sockets the process has open."""
    count = 0
    for entry in Path(f"/proc/{process}/fd").iterdir():
        # What is listed may be closed before it is looked at.
        with contextlib.suppress(FileNotFoundError):
            count += str(entry.readlink()).startswith("socket:")
    return count


@asynccontextmanager
async def _connected(
    house: FaultyService, requests: Sequence[bytes]
) -> AsyncIterator[list[Connection]]:
    before = connections(house.server.pid)
    opened: list[Connection] = []
    try:
        for request in requests:
            opened.append(await asyncio.open_connection("127.0.0.1", house.port))
            opened[-1][1].write(request)
        async with asyncio.timeout(PATIENCE):
            while connections(house.server.pid) < before + len(requests):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield opened
    finally:
        for _, writer in opened:
            writer.close()


def _request(
    house: FaultyService, method: str, path: str, body: bytes = b"", **headers: str
) -> bytes:
    headers |= {"Host": "127.0.0.1", "X-API-Key": house.key, "Connection": "close"}
    if body:
        headers["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
