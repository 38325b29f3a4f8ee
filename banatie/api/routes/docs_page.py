"""The page to try the API on: Swagger UI, served from the package (`api/docs`)."""

from __future__ import annotations

from importlib import resources

from litestar import Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from banatie.api.dependencies import HttpRequest

FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "start.js": "text/javascript",
}
"""The page's files and their media types."""
PAGE_HEADERS = {
    # The page loads nothing from other hosts, and could not.
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


@get("/docs", include_in_schema=False, media_type="text/html", sync_to_thread=False)
def docs_page(request: HttpRequest) -> Response[bytes]:
    """The page, whose links are relative: it may lie below a path of a reverse proxy."""
    content = _read("index.html")
    if request.scope["raw_path"].endswith(b"/"):
        content = content.replace(b"docs/", b"")
    return Response(content, media_type="text/html", headers=PAGE_HEADERS)


@get("/docs/{name:str}", include_in_schema=False, sync_to_thread=False)
def docs_file(name: FromPath[str]) -> Response[bytes]:
    """A file of the page; the large ones lie compressed in the package."""
    if name not in FILES:
        raise NotFoundException()
    compressed = not name.startswith("start")
    headers = {"Cache-Control": "public, max-age=86400"}
    if compressed:
        headers["Content-Encoding"] = "gzip"
    content = _read(name + ".gz" if compressed else name)
    return Response(content, media_type=FILES[name], headers=headers)


def docs_router() -> Router:
    """The routes of the page."""
    return Router("/", route_handlers=[docs_page, docs_file], tags=["System"])


def _read(name: str) -> bytes:
    return resources.files("banatie.api").joinpath("docs", name).read_bytes()
