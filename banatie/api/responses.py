"""What all routes answer with: JSON bytes, and the documentation of the failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestar import Response
from litestar.handlers import HTTPRouteHandler, route
from litestar.openapi.datastructures import ResponseSpec

from banatie.api.schemas import Failure, encode

_FAILURES = {
    400: "VALIDATION_ERROR: a parameter is missing, wrong or out of range",
    401: "UNAUTHORIZED: no key, or one that does not count",
    404: "GENERATION_NOT_FOUND: no such generation in this project",
    408: "REQUEST_TIMEOUT: the body did not come in time",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE: the body is not declared as JSON",
    429: "RATE_LIMIT_EXCEEDED: Retry-After says when to come back",
    500: "INTERNAL_ERROR: the log has it under X-Request-Id",
    503: "SERVICE_UNAVAILABLE: the database is busy or gone",
}


def failures(*statuses: int, more: Mapping[int, str] | None = None) -> dict[int, ResponseSpec]:
    """The documentation of these failures, all of which have one shape.

    `more` tells what else a status means on this route.
    """
    return {
        status: ResponseSpec(
            Failure,
            description="; ".join(filter(None, [(more or {}).get(status), _FAILURES[status]])),
            generate_examples=False,
        )
        for status in statuses
    }


def options(path: str, *methods: str) -> HTTPRouteHandler:
    """The route that answers OPTIONS at `path`, to be given before the others there.

    Litestar makes one by itself, but for the first handler of a path alone.
    """

    @route(path, http_method="OPTIONS", include_in_schema=False, sync_to_thread=False)
    def answer() -> Response[None]:
        return Response(None, status_code=204, headers={"Allow": ", ".join((*methods, "OPTIONS"))})

    return answer


def json_response(
    value: object, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response[Any]:
    """The value as JSON."""
    return Response(
        encode(value), status_code=status, media_type="application/json", headers=headers
    )
