"""The file server for images: /storage/…, with conditional requests and byte ranges (RFC 9110).

The URL itself is the permission: it holds the random id of an image, and nothing but a well-formed
storage key is ever looked up, which rules out path traversal.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import cast

from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.exceptions import MethodNotAllowedException, NotFoundException
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from banatie.api.dependencies import in_thread
from banatie.api.errors import send_failure
from banatie.errors import ServiceUnavailable
from banatie.store.files import FOLDERS, Files

logger = logging.getLogger(__name__)

PREFIX = "/storage/"
CHUNK_BYTES = 256 * 1024

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_STORAGE_KEY = re.compile(
    rf"[a-z0-9][a-z0-9-]{{0,63}}/{_UUID}/(?:{'|'.join(FOLDERS)})/{_UUID}\.(?P<suffix>png|jpg|webp)"
)
_MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class ImageFiles:
    """An ASGI application around `app` that answers requests below /storage/ itself.

    Around Litestar and not in it: a file needs no routing, parameters or response object.
    """

    def __init__(self, app: ASGIApp, files: Files) -> None:
        self._app = app
        self._files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, or an error."""
        if scope["type"] != ScopeType.HTTP or not scope["path"].startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        scope["path_template"] = PREFIX + "{storage_key}"
        if scope["method"] != "GET":
            error = MethodNotAllowedException(headers={"allow": "GET"})
            await send_failure(error, scope, send)
            return
        storage_key = scope["path"].removeprefix(PREFIX)
        known = _STORAGE_KEY.fullmatch(storage_key)
        if known is None:
            await send_failure(NotFoundException(), scope, send)
            return
        path = self._files.path(storage_key)
        try:
            status = await in_thread(_status_of, path)
        except OSError as error:
            await send_failure(_failure(error), scope, send)
            return
        await _send_file(path, status, _MEDIA_TYPES[known["suffix"]], scope, send)


def _status_of(path: Path) -> os.stat_result:
    """The status of a file that can be read; opened, because only that shows it."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "not a file")
    return status


def _failure(error: OSError) -> Exception:
    if error.errno in _MISSING:
        return NotFoundException()
    logger.error("an image cannot be read: %s", error)
    return ServiceUnavailable("The image cannot be read at the moment; the server's log says why")


async def _send_file(
    path: Path, status: os.stat_result, media_type: str, scope: HTTPScope, send: Send
) -> None:
    request = Headers.from_scope(scope)
    size = status.st_size
    etag = f'"{status.st_mtime_ns:x}-{size:x}"'
    headers = {
        "content-type": media_type,
        "etag": etag,
        "last-modified": formatdate(status.st_mtime, usegmt=True),
        # The same URL may get new bytes when a generation is made again: caches must revalidate.
        "cache-control": "no-cache",
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
