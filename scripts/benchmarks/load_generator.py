"""A load generator in one thread: as many requests as the server answers, over a few connections.

It parses no more of a response than its length, so that one core of Python outpaces the server.
"""

from __future__ import annotations

import selectors
import socket
import time
from dataclasses import dataclass, field

BUFFER_BYTES = 1 << 20
CHUNKED = -2
NOT_MODIFIED = b"http/1.1 304"
LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass
class _Connection:
    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    left: int = -1
    """Remaining bytes of the body; -1 while the headers are incomplete, -2 if it is chunked."""


def requests_per_second(
    port: int, requests: list[bytes], seconds: float, connections: int = 16
) -> float:
    """The number of responses per second of the server on loopback to `requests`, sent in turn.

    Raises RuntimeError at the first response that is not a success.
    """
    selector = selectors.DefaultSelector()
    buffer = memoryview(bytearray(BUFFER_BYTES))
    sent = done = 0
    for _ in range(connections):
        connection = _Connection(socket.create_connection(("127.0.0.1", port)))
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.socket.sendall(requests[sent % len(requests)])
        sent += 1
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        for key, _ in selector.select(1):
            connection = key.data
            if _read(connection, buffer):
                done += 1
                connection.socket.sendall(requests[sent % len(requests)])
                sent += 1
    elapsed = time.perf_counter() - started
    for key in list(selector.get_map().values()):
        key.fileobj.close()
    selector.close()
    return done / elapsed


def request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """The bytes of an HTTP/1.1 request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def _read(connection: _Connection, buffer: memoryview) -> bool:
    """Receive what has arrived; whether the response is complete."""
    size = connection.socket.recv_into(buffer)
    if not size:
        raise RuntimeError("the server closed the connection")
    if connection.left == -1:
        connection.received += buffer[:size]
        end = connection.received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(connection.received[:end]).lower()
        if not head.startswith((b"http/1.1 2", NOT_MODIFIED)):
            raise RuntimeError(bytes(connection.received[:500]).decode("latin-1"))
        body = connection.received[end + 4 :]
        size = len(body)
        if b"content-length:" in head:
            connection.left = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            body.clear()
        elif head.startswith(NOT_MODIFIED):
            connection.left = 0
        else:
            connection.left = CHUNKED
        connection.received = body[-len(LAST_CHUNK) :]
    elif connection.left == CHUNKED:
        connection.received += buffer[max(0, size - len(LAST_CHUNK)) : size]
    if connection.left == CHUNKED:
        ended = connection.received.endswith(LAST_CHUNK)
        del connection.received[: -len(LAST_CHUNK)]
        if ended:
            connection.received.clear()
            connection.left = -1
        return ended
    connection.left -= size
    if connection.left == 0:
        connection.left = -1
        return True
    return False
