"""The studio: the page at `/` and its files, as they lie in `banatie/studio`.

A browser asks again for each file whether its copy is current (ETag), so that a new version of
Banatie, or a file that was just edited, is seen at once. There is no build step.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path, PurePosixPath

from litestar import Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from banatie.api.dependencies import HttpRequest, in_thread
from banatie.api.query import check_query

PAGE = "index.html"
MEDIA_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
"""What is served, by the names' endings."""
COMPRESSED_ALREADY = {".webp"}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}


@dataclass(frozen=True)
class StudioFile:
    """A file's bytes, the same compressed, and their tag."""

    content: bytes
    compressed: bytes
    etag: str


@get("/", include_in_schema=False)
async def studio_page(request: HttpRequest) -> Response[bytes]:
    """The page, whose links are relative: it may lie below a path of a reverse proxy."""
    return await _answer(request, PAGE, {"Content-Security-Policy": PAGE_POLICY})


@get("/studio/{name:path}", include_in_schema=False)
async def studio_file(name: FromPath[Path], request: HttpRequest) -> Response[bytes]:
    """A script, a style sheet or an icon of the page."""
    return await _answer(request, name.as_posix().lstrip("/"), {})


def studio_router() -> Router:
    """The routes of the page."""
    return Router("/", route_handlers=[studio_page, studio_file], guards=[check_query])


async def _answer(request: HttpRequest, name: str, own_headers: dict[str, str]) -> Response[bytes]:
    file = await in_thread(_file, name)
    accepted = request.headers.get("accept-encoding", "")
    suffix = PurePosixPath(name).suffix
    compresses = suffix not in COMPRESSED_ALREADY and any(
        each.split(";")[0].strip() == "gzip" for each in accepted.split(",")
    )
    # Two representations need two tags.
    etag = f'"{file.etag}{"-gzip" if compresses else ""}"'
    headers = {**HEADERS, **own_headers, "ETag": etag}
    if etag in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(b"", status_code=304, headers=headers)
    if compresses:
        headers["Content-Encoding"] = "gzip"
    return Response(
        file.compressed if compresses else file.content,
        media_type=MEDIA_TYPES[suffix],
        headers=headers,
    )


def _file(name: str) -> StudioFile:
    path = PurePosixPath(name)
    if ".." in path.parts or path.suffix not in MEDIA_TYPES:
        raise NotFoundException()
    with resources.as_file(resources.files("banatie").joinpath("studio", *path.parts)) as file:
        try:
            return _packed(file.read_bytes())
        except (OSError, ValueError) as error:
            raise NotFoundException() from error


@lru_cache(maxsize=128)
def _packed(content: bytes) -> StudioFile:
    compressed = gzip.compress(content, compresslevel=9, mtime=0)
    return StudioFile(content, compressed, hashlib.sha256(content).hexdigest()[:20])
