"""What all routes answer with: JSON bytes, and the documentation of the failures."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from litestar import Response
from litestar.handlers import HTTPRouteHandler, route
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, Reference, RequestBody
from litestar.response.base import ASGIResponse
from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent, Receive, Scope, Send

from banatie.api.error_codes import DESCRIPTION_OF_CODE, STATUS_OF_CODE
from banatie.api.schemas import Failure, Page, Pagination, encode

COMMON_ERRORS = (
    "VALIDATION_ERROR",
    "UNAUTHORIZED",
    "RATE_LIMIT_EXCEEDED",
    "INTERNAL_ERROR",
    "SERVICE_UNAVAILABLE",
)
"""What every route below /api/v1 may answer."""
CHANGE_ERRORS = (*COMMON_ERRORS, "FORBIDDEN", "UNSUPPORTED_MEDIA_TYPE")


class JsonResponse(Response[Any]):
    """JSON that is encoded already.

    Sent without the cookies, encoders and header objects of Litestar's response, which cost a tenth
    of the time of reading a generation.
    """

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        """The answer as Litestar sends it."""
        return _EncodedJson(self.content, self.status_code or 200, self.headers)


class _EncodedJson(ASGIResponse):
    def __init__(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self._start: HTTPResponseStartEvent = {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(content)),
                *((name.lower().encode(), value.encode()) for name, value in headers.items()),
            ],
        }
        self._body: HTTPResponseBodyEvent = {
            "type": "http.response.body",
            "body": content,
            "more_body": False,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(self._start)
        await send(self._body)


def json_response(
    value: object, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response[Any]:
    """The value as JSON; bytes are taken as JSON already."""
    content = value if isinstance(value, bytes) else encode(value)
    return JsonResponse(content, status_code=status, headers=headers)


def failures(*codes: str) -> dict[int, ResponseSpec]:
    """The documentation of these errors of a route, by status; all have one shape."""
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in codes:
        by_status[STATUS_OF_CODE[code]].append(f"{code}: {DESCRIPTION_OF_CODE[code]}")
    return {
        status: ResponseSpec(Failure, description="; ".join(texts), generate_examples=False)
        for status, texts in by_status.items()
    }


def page_response(data: list[Any], limit: int, offset: int, total: int) -> Response[Any]:
    """A page of a list, as JSON."""
    pagination = Pagination(limit, offset, total, offset + len(data) < total)
    return json_response(Page(data=data, pagination=pagination))


def documented_body(schema: str, *, required: bool = True) -> type[Operation]:
    """Documents the body of a route that decodes it itself (see `decode_body`)."""

    @dataclass
    class WithBody(Operation):
        def __post_init__(self) -> None:
            reference = Reference(f"#/components/schemas/{schema}")
            content = {"application/json": OpenAPIMediaType(schema=reference)}
            self.request_body = RequestBody(content=content, required=required)

    return WithBody


def options(path: str, *methods: str) -> HTTPRouteHandler:
    """The route that answers OPTIONS at `path`, to be registered before the others there.

    Litestar generates one by itself, but for the first handler of a path alone.
    """

    @route(path, http_method="OPTIONS", include_in_schema=False, sync_to_thread=False)
    def answer() -> Response[None]:
        return Response(None, status_code=204, headers={"Allow": ", ".join((*methods, "OPTIONS"))})

    return answer
