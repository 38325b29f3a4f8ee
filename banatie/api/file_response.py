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
from typing import Any, cast

from litestar import Response
from litestar.datastructures import Headers
from litestar.exceptions import NotFoundException
from litestar.openapi.datastructures import ResponseSpec
from litestar.response.base import ASGIResponse
from litestar.types import HTTPScope, Message, Receive, Scope, Send

from banatie.api.dependencies import in_thread
from banatie.api.errors import send_failure
from banatie.errors import ServiceUnavailable

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
    size = status.st_size
    etag = f'"{status.st_mtime_ns:x}-{size:x}"'
    headers = {
        **own_headers,
        "etag": etag,
        "last-modified": formatdate(status.st_mtime, usegmt=True),
        "accept-ranges": "bytes",
        "content-security-policy": "default-src 'none'",
        # Pages of other origins may show it: knowing the URL is the permission.
        "cross-origin-resource-policy": "cross-origin",
    }
    if _is_fresh(request, etag, status.st_mtime):
        await _answer(send, 304, headers)
        return
    span = _range(request, etag, size)
    if span is None:
        headers["content-length"] = str(size)
        await _answer(send, 200, headers, path, scope, (0, size))
    elif span[0] >= span[1]:
        headers |= {"content-range": f"bytes */{size}", "content-length": "0"}
        await _answer(send, 416, headers)
    else:
        first, end = span
        headers["content-range"] = f"bytes {first}-{end - 1}/{size}"
        headers["content-length"] = str(end - first)
        await _answer(send, 206, headers, path, scope, span)


async def _answer(
    send: Send,
    status: int,
    headers: dict[str, str],
    path: Path | None = None,
    scope: HTTPScope | None = None,
    span: tuple[int, int] = (0, 0),
) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    if path is None or scope is None:
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    elif status == 200 and "http.response.pathsend" in (scope.get("extensions") or {}):
        # The server sends the file itself (ASGI extension), without Python in between.
        # Litestar's types do not know the extension.
        await send(cast("Message", {"type": "http.response.pathsend", "path": str(path)}))
    else:
        await _stream(send, path, *span)


async def _stream(send: Send, path: Path, first: int, end: int) -> None:
    with await in_thread(path.open, "rb") as file:
        await in_thread(file.seek, first)
        while first < end:
            data = await in_thread(file.read, min(CHUNK_BYTES, end - first))
            first = first + len(data) if data else end
            await send({"type": "http.response.body", "body": data, "more_body": first < end})


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
