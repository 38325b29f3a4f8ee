"""What all routes answer with: JSON bytes, the failures' documentation, the server's own URL."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response
from litestar.openapi.datastructures import ResponseSpec

from banatie.api.schemas import Failure, encode
from banatie.config import Config

FAILURES = {
    status: ResponseSpec(Failure, description=description, generate_examples=False)
    for status, description in {
        400: "VALIDATION_ERROR: a parameter is missing, wrong or out of range",
        401: "UNAUTHORIZED: no key, or one that does not count",
        404: "GENERATION_NOT_FOUND: no such generation in this project",
        405: "METHOD_NOT_ALLOWED",
        413: "PAYLOAD_TOO_LARGE",
        415: "UNSUPPORTED_MEDIA_TYPE: the body is not declared as JSON",
        429: "RATE_LIMIT_EXCEEDED: Retry-After says when to come back",
        500: "GENERATION_FAILED, if it was waited for; INTERNAL_ERROR",
        503: "QUEUE_FULL: Retry-After says when to come back",
    }.items()
}


def json_response(
    value: object, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response[Any]:
    """The value as JSON."""
    return Response(
        encode(value), status_code=status, media_type="application/json", headers=headers
    )


def public_url(request: Request[Any, Any, Any], config: Config) -> str:
    """Where the client reaches this server: as configured, or as the request's own Host says."""
    if config.server.public_url:
        return config.server.public_url.rstrip("/")
    host = request.headers.get("host") or f"{config.server.host}:{config.server.port}"
    return f"{request.scope['scheme']}://{host}"
