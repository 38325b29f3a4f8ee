"""Sending a picture's file: conditional requests and byte ranges (RFC 9110).

Which file it is, and how long it may be cached, is up to the routes.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from litestar import Response
from litestar.datastructures import Headers
from litestar.exceptions import NotFoundException
from litestar.openapi.datastructures import ResponseSpec
from litestar.response.base import ASGIResponse
from litestar.types import HTTPScope, Message, Receive, Scope, Send

from banatie.api.dependencies import in_thread
from banatie.api.errors import send_failure
from banatie.errors import ServiceUnavailable
from banatie.store.files import is_being_replaced

logger = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024

UNCHANGED = {304: ResponseSpec(None, description="The client's copy is current.")}
"""The documentation of an answer that all files have."""

_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


def status_of(path: Path) -> os.stat_result:
    """The status of a file that can be read; opened, because only that shows it."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "not a file")
    return status


def file_failure(error: OSError) -> Exception:
    """What is answered when the file cannot be read: not found, or unavailable."""
    if error.errno in _MISSING:
        return NotFoundException()
    logger.error("an image cannot be read: %s", error)
    return ServiceUnavailable("The image cannot be read at the moment; the server's log says why")


class PictureResponse(Response[bytes]):
    """A file as the answer of a route; the headers are those of `send_file`."""

    def __init__(self, path: Path, headers: Mapping[str, str]) -> None:
        super().__init__(b"")
        self._path = path
        self._own_headers = headers

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        """The answer as Litestar sends it."""
        return _SentFile(self._path, self._own_headers)


class _SentFile(ASGIResponse):
    def __init__(self, path: Path, headers: Mapping[str, str]) -> None:
        self._path = path
        self._own_headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = cast("HTTPScope", scope)
        try:
            status = await in_thread(status_of, self._path)
        except OSError as error:
            await send_failure(file_failure(error), request, send)
            return
        await send_file(self._path, status, request, send, self._own_headers)


async def send_file(
    path: Path,
    status: os.stat_result,
    scope: HTTPScope,
    send: Send,
    own_headers: Mapping[str, str],
) -> None:
    """Answer with the file, a part of it, or that the client's copy is current.

    `own_headers` are Content-Type, Cache-Control and what else the route adds.
    """
    request = Headers.from_scope(scope)
    if _is_fresh(request, _etag(status), status.st_mtime):
        await _answer(send, 304, _headers(status, own_headers))
        return
    can_pathsend = "http.response.pathsend" in (scope.get("extensions") or {})
    if can_pathsend and "range" not in request and not is_being_replaced(status):
        headers = {**_headers(status, own_headers), "content-length": str(status.st_size)}
        await _start(send, 200, headers)
        # The server opens and sends the file itself (ASGI extension), without Python in between.
        # Litestar's types do not know the extension.
        await send(cast("Message", {"type": "http.response.pathsend", "path": str(path)}))
        return
    # The headers must be those of the very file that is sent, so it is opened once.
    try:
        file = await in_thread(path.open, "rb")
    except OSError as error:
        await send_failure(file_failure(error), scope, send)
        return
    with file:
        status = os.fstat(file.fileno())
        headers, size = _headers(status, own_headers), status.st_size
        span = _range(request, _etag(status), size)
        if span is not None and span[0] >= span[1]:
            headers |= {"content-range": f"bytes */{size}", "content-length": "0"}
            await _answer(send, 416, headers)
            return
        first, end = span or (0, size)
        headers["content-length"] = str(end - first)
        if span is not None:
            headers["content-range"] = f"bytes {first}-{end - 1}/{size}"
        await _start(send, 200 if span is None else 206, headers)
        await _stream(send, file, first, end)


def _etag(status: os.stat_result) -> str:
    return f'"{status.st_mtime_ns:x}-{status.st_size:x}"'


def _headers(status: os.stat_result, own_headers: Mapping[str, str]) -> dict[str, str]:
    return {
        **own_headers,
        "etag": _etag(status),
        "last-modified": formatdate(status.st_mtime, usegmt=True),
        "accept-ranges": "bytes",
        "content-security-policy": "default-src 'none'",
        # Pages of other origins may show it: knowing the URL is the permission.
        "cross-origin-resource-policy": "cross-origin",
    }


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _answer(send: Send, status: int, headers: Mapping[str, str]) -> None:
    await _start(send, status, headers)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _stream(send: Send, file: BinaryIO, first: int, end: int) -> None:
    await in_thread(file.seek, first)
    while True:
        data = await in_thread(file.read, min(CHUNK_BYTES, end - first))
        first = first + len(data) if data else end
        await send({"type": "http.response.body", "body": data, "more_body": first < end})
        if first >= end:
            return


def _is_fresh(request: Headers, etag: str, modified: float) -> bool:
    """Whether the client's copy is current (RFC 9110, sections 13.1.2 and 13.1.3)."""
    none_match = request.get("if-none-match")
    if none_match is not None:
        tags = [tag.strip().removeprefix("W/") for tag in none_match.split(",")]
        return none_match.strip() == "*" or etag in tags
    return _unchanged_since(request.get("if-modified-since"), modified)


def _range(request: Headers, etag: str, size: int) -> tuple[int, int] | None:
    """The bytes asked for, as first and end; None for all of them (RFC 9110, section 14.2)."""
    wanted = _RANGE.fullmatch(request.get("range", "").replace(" ", ""))
    # A changed file is sent whole (section 13.1.5); several ranges at once may be, too.
    if wanted is None or request.get("if-range", etag) != etag:
        return None
    first, last = wanted.groups()
    if first:
        return int(first), min(int(last) + 1 if last else size, size)
    return (max(0, size - int(last)), size) if last else None


def _unchanged_since(date: str | None, modified: float) -> bool:
    if not date:
        return False
    try:
        return int(modified) <= parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return False
