"""Many clients at once, on bare sockets: they send requests, wait, and stay or disconnect."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.faulty_service import FaultyService
from tests.support.polling import wait_until_async

TIMEOUT_SECONDS = 120
GENERATIONS = "/api/v1/generations"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def waiting(service: FaultyService, generation_id: str) -> bytes:
    """A request that is answered when the generation has ended."""
    return _request(
        service, "GET", f"{GENERATIONS}/{generation_id}", Prefer=f"wait={TIMEOUT_SECONDS}"
    )


def following(service: FaultyService, generation_id: str) -> bytes:
    """A request for the generation's events."""
    return _request(service, "GET", f"{GENERATIONS}/{generation_id}/events")


def submitting(service: FaultyService, prompt: str, **fields: object) -> bytes:
    """A request for a new generation, answered when it has ended."""
    body = json.dumps({"prompt": prompt, **fields}).encode()
    headers = {"Prefer": f"wait={TIMEOUT_SECONDS}", "Content-Type": "application/json"}
    return _request(service, "POST", GENERATIONS, body, **headers)


def answers(
    service: FaultyService, requests: Sequence[bytes], meanwhile: Callable[[], object]
) -> list[str]:
    """The response to each request; `meanwhile` is called once all of them are connected."""

    async def run() -> list[str]:
        async with _connected(service, requests) as connections:
            await asyncio.to_thread(meanwhile)
            reading = (reader.read() for reader, _ in connections)
            texts = await asyncio.wait_for(asyncio.gather(*reading), TIMEOUT_SECONDS)
            return [text.decode() for text in texts]

    return asyncio.run(run())


def disconnect(service: FaultyService, requests: Sequence[bytes]) -> None:
    """Send the requests and reset their connections while they wait."""

    async def run() -> None:
        async with _connected(service, requests) as connections:
            for _, writer in connections:
                # As when a process is killed or a cable is pulled.
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )

    asyncio.run(run())


def connections(process: int) -> int:
    """How many sockets the process has open."""
    return len(list(_sockets(process)))


def _accepted(process: int, port: int) -> set[int]:
    """The clients' ports of the connections to `port` that the process has accepted.

    Counting its sockets instead would count one that an earlier client is about to close.
    """
    sockets = set(_sockets(process))
    accepted = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, *_, inode = line.split()[:10]
        if int(local.split(":")[1], 16) == port and f"socket:[{inode}]" in sockets:
            accepted.add(int(remote.split(":")[1], 16))
    return accepted


def _sockets(process: int) -> Iterator[str]:
    for entry in Path(f"/proc/{process}/fd").iterdir():
        # A descriptor that is listed may be closed before it is read.
        with contextlib.suppress(FileNotFoundError):
            if (target := str(entry.readlink())).startswith("socket:"):
                yield target


@asynccontextmanager
async def _connected(
    service: FaultyService, requests: Sequence[bytes]
) -> AsyncIterator[list[Connection]]:
    opened: list[Connection] = []
    try:
        for request in requests:
            opened.append(await asyncio.open_connection("127.0.0.1", service.port))
            opened[-1][1].write(request)
        ours = {writer.get_extra_info("sockname")[1] for _, writer in opened}
        await wait_until_async(
            lambda: ours <= _accepted(service.server.pid, service.port),
            "all clients to be connected",
            TIMEOUT_SECONDS,
        )
        yield opened
    finally:
        for _, writer in opened:
            writer.close()


def _request(
    service: FaultyService, method: str, path: str, body: bytes = b"", **headers: str
) -> bytes:
    headers |= {"Host": "127.0.0.1", "X-API-Key": service.key, "Connection": "close"}
    if body:
        headers["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body
