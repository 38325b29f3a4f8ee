"""What all routes answer with: JSON bytes, and the documentation of the failures."""

from __future__ import annotations

from typing import Any

from litestar import Response
from litestar.openapi.datastructures import ResponseSpec

from banatie.api.schemas import Failure, encode

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
